"""What a law says of compute: the size that is best at a budget of FLOPs, its loss, and how both move with it. Knows arrays, no records.

A training clip of a backbone of N parameters takes f N^g FLOPs, so a budget of C buys D = C / (f N^g) clips. The loss is least where
a A N^-a = g b B D^-b: the best N is in proportion to C^(b / (a + g b)), and what of the loss is above its floor to C^-(a b / (a + g b)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.report.scaling.law import Law

NEAR_NOTHING = 1e-9  # of a loss or a size: below, its logarithm says nothing


@dataclass(frozen=True, kw_only=True)
class ClipCost:
    """Training FLOPs of a clip, scale N^exponent."""

    scale: float
    exponent: float


@dataclass(frozen=True, kw_only=True)
class Best:
    """What a budget of FLOPs buys at its best."""

    params: float
    clips: float
    loss: float


def loss_exponent(law: Law, family: int, cost: ClipCost) -> float:
    """How fast the loss falls to its floor with compute: a b / (a + g b)."""
    a, b = float(law.size_exponent[family]), float(law.data_exponent[family])
    return a * b / (a + cost.exponent * b)


def size_exponent(law: Law, family: int, cost: ClipCost) -> float:
    """How fast the best size grows with compute: b / (a + g b)."""
    a, b = float(law.size_exponent[family]), float(law.data_exponent[family])
    return b / (a + cost.exponent * b)


def best_at(law: Law, family: int, cost: ClipCost, flops: float) -> Best:
    """The size and the clips of the least loss at a budget."""
    a, b = float(law.size_exponent[family]), float(law.data_exponent[family])
    size = max(float(law.size_scale[family]), NEAR_NOTHING) * law.unit[0] ** a  # A and B of plain N and D
    data = max(float(law.data_scale[family]), NEAR_NOTHING) * law.unit[1] ** b
    logarithm = math.log(a * size / (cost.exponent * b * data)) + b * math.log(flops / cost.scale)
    params = math.exp(min(max(logarithm / (a + cost.exponent * b), 0.0), 60.0))
    clips = flops / (cost.scale * params**cost.exponent)
    return Best(params=params, clips=clips, loss=law.floor + size * params**-a + data * clips**-b)


def gains(law: Law, family: int, params: Sequence[float], clips: Sequence[float]) -> tuple[float, float]:
    """What the largest size takes off the logarithm of the loss of the smallest, at the most data; the most data of the least, at the
    largest size. Above 0 exactly where the exponents are."""
    ends = np.array([[min(params), max(clips)], [max(params), max(clips)], [max(params), min(clips)]])
    small, full, few = (log(loss) for loss in law.loss(np.full(3, family), *ends.T))
    return small - full, few - full


def log(value: float) -> float:
    """A logarithm, of what is nothing or less that of nearly nothing."""
    return math.log(max(value, NEAR_NOTHING))


def asked(
    costs: Sequence[ClipCost],
    spans: Sequence[tuple[Sequence[float], Sequence[float]]],
    budgets: Sequence[float],
    at: Mapping[str, tuple[int, float, float]],
) -> Callable[[Law], dict[str, float]]:
    """All that is asked of a law, by name: exponents as logarithms, so that their intervals stay above 0, and differences as they are.

    `spans`: sizes and clips of each backbone; `budgets` in FLOPs; `at`: name -> (backbone, N, D), where the logarithm of the loss is asked.
    """

    def of(law: Law) -> dict[str, float]:
        found = {"floor": law.floor}
        for place, (cost, (params, clips)) in enumerate(zip(costs, spans, strict=True)):
            size_gain, data_gain = gains(law, place, params, clips)
            found |= {
                f"{place} size": math.log(float(law.size_exponent[place])),
                f"{place} data": math.log(float(law.data_exponent[place])),
                f"{place} compute": math.log(loss_exponent(law, place, cost)),
                f"{place} best size": size_exponent(law, place, cost),
                f"{place} size gain": size_gain,
                f"{place} data gain": data_gain,
            }
            for budget in budgets:
                best = best_at(law, place, cost, budget)
                found |= {f"{place} N at {budget:g}": log(best.params), f"{place} loss at {budget:g}": best.loss}
            if place:
                first = costs[0]
                found |= {
                    f"{place} less 0 size": float(law.size_exponent[place] - law.size_exponent[0]),
                    f"{place} less 0 data": float(law.data_exponent[place] - law.data_exponent[0]),
                    f"{place} less 0 compute": loss_exponent(law, place, cost) - loss_exponent(law, 0, first),
                }
        for name, (place, size, seen) in at.items():
            found[name] = log(float(law.loss(np.array([place]), np.array([size]), np.array([seen]))[0]))
        return found

    return of
