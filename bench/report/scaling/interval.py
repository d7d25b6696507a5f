"""Intervals of whatever a law says: a jackknife over training runs. Knows arrays, no records and no torch.

The points of one run share its luck, so runs are left out whole, one at a time, and the law is fitted again. At E = 0 a fit stands still,
and its errors would be too small: they are the larger ones of it and of one whose E may be negative, and what lies between the two is
added. Student's t has as many degrees of freedom as there are more runs than parameters that only several runs tell.
`bench/perf/evidence/scaling.py` shows how often such intervals hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.report.scaling.law import Law, Losses, fit, num_of_runs

Wanted = Callable[[Law], Mapping[str, float]]  # what of a law is wanted, by name


@dataclass(frozen=True, kw_only=True)
class LawEstimate:
    """A number that a law says, and how sure it is."""

    value: float
    error: float  # standard error
    freedom: int  # degrees of freedom

    def interval(self, level: float, more: float = 0.0) -> tuple[float, float]:
        """Ends that hold the truth at a level; `more`: a standard deviation beside the error, of what has yet to be drawn."""
        half = float(stats.t.ppf((1 + level) / 2, self.freedom)) * float(np.hypot(self.error, more))
        return self.value - half, self.value + half


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """A law, and what was asked of it."""

    law: Law
    estimates: dict[str, LawEstimate]


def fitted(losses: Losses, asked: Wanted) -> FittedLaw:
    """The law of these losses; what is asked of it with its errors."""
    runs = np.unique(losses.run)
    laws, middles, errors = [], [], []
    for signed in (False, True):
        whole = fit(losses, signed=signed)
        middle = np.array(list(asked(whole).values()))
        moved = np.array([list(asked(fit(losses.of(losses.run != run), whole, signed=signed)).values()) for run in runs])
        errors.append(np.sqrt((len(runs) - 1) / len(runs) * ((moved - middle) ** 2).sum(0)))
        middles.append(middle)
        laws.append(whole)
    law = laws[0]
    error = np.hypot(np.maximum(*errors), middles[1] - middles[0])
    freedom = max(1, len(runs) - num_of_runs(law.num))
    values = asked(law)
    return FittedLaw(
        law=law,
        estimates={
            name: LawEstimate(value=value, error=float(each), freedom=freedom)
            for (name, value), each in zip(values.items(), error, strict=True)
        },
    )
