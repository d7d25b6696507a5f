"""What a law and the held-out losses say: whether a backbone improves steadily, and which gains more from compute. Knows no page.

The simulation of how often these rules are wrong (`bench/perf/evidence/scaling.py`) calls the same objects as the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.report.scaling.foresight import StudyLaw
from bench.report.verdicts.claims import LEVELS, Trend

CARRIED = 1 - LEVELS["headline"]  # level of the intervals that a claim rests on
INSIDE = 0.75  # of the held-out losses, that must be inside 95 % intervals: those of one run go astray together
GAINS = {"size": "a larger size", "data": "more data"}


@dataclass(frozen=True, kw_only=True)
class HeldOutcome:
    """What was said of a held-out loss, and what came."""

    family: str
    folder: str
    seed: int
    part: float
    params: int
    clips: int
    expected: float
    low: float
    high: float
    loss: float | None  # None: the cell has none

    @property
    def inside(self) -> bool:
        """Whether it came as it was said."""
        return self.loss is not None and self.low <= self.loss <= self.high

    @property
    def miss(self) -> float | None:
        """Relative, above 0 where the loss was larger."""
        return None if self.loss is None else self.loss / self.expected - 1


@dataclass(frozen=True, kw_only=True)
class Steeper:
    """Which of two backbones gains more from compute: the difference of their exponents."""

    first: str  # families
    second: str
    difference: float  # of the second's to the first's
    low: float
    high: float
    outcome: Literal["carried", "inconclusive", "not compared"]

    @property
    def winner(self) -> str | None:
        """The family with the larger exponent, where the interval does not hold 0."""
        if self.outcome != "carried":
            return None
        return self.second if self.difference > 0 else self.first


def unsure_gains(law: StudyLaw, family: str) -> list[str]:
    """What does not lower its loss beyond doubt, of size and data. The sign of a gain is that of its exponent."""
    return [what for what in GAINS if law.estimate(family, f"{what} gain").interval(CARRIED)[0] <= 0]


def trend(law: StudyLaw, family: str, outcomes: Sequence[HeldOutcome], *, claimed: bool) -> Trend:
    """Whether a family improves steadily: both exponents are above 0, and the losses of its held-out cells came as was said."""
    label, own = law.points.labels[family], [each for each in outcomes if each.family == family]
    inside, lacking = sum(each.inside for each in own), [each for each in own if each.loss is None]
    said = f"{inside} of {len(own)} held-out losses inside their intervals"
    if unsure := unsure_gains(law, family):
        return Trend(label=label, claimed=claimed, outcome="inconclusive", reason=f"that {GAINS[unsure[0]]} lowers its loss may be chance")
    if not own or lacking:
        return Trend(label=label, claimed=claimed, outcome="inconclusive", reason=f"{len(lacking) or 'all'} held-out losses are missing")
    if inside < INSIDE * len(own):
        reason = f"{said}: the law does not hold at the held-out size"
        return Trend(label=label, claimed=claimed, outcome="not supported", reason=reason)
    return Trend(label=label, claimed=claimed, outcome="supported", reason=f"both exponents are above 0; {said}")


def steeper(law: StudyLaw) -> list[Steeper]:
    """Every further family against the first."""
    first, *others = law.points.families
    found = []
    for family in others:
        estimate = law.difference(family, "compute")
        low, high = estimate.interval(1 - LEVELS["headline"] / len(others))
        unsure = unsure_gains(law, first) or unsure_gains(law, family)
        outcome: Literal["carried", "inconclusive", "not compared"] = "inconclusive" if low <= 0 <= high else "carried"
        found.append(
            Steeper(
                first=first,
                second=family,
                difference=estimate.value,
                low=low,
                high=high,
                outcome="not compared" if unsure else outcome,
            )
        )
    return found
