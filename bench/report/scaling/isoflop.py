"""The best size at one budget of FLOPs, read off the losses themselves, without a law: only where larger and smaller were both tried.

Each size has a loss at several budgets, and between them its logarithm is a line in that of FLOPs. At a budget that three sizes or more
reach, the least of a parabola through the best size and its neighbours. It checks the law; no law is fitted to it, since parabolas
through few sizes are biased (2603.22339).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.report.scaling.points import LawPoint

LEAST_SIZES = 3
APART = 1.4  # times the budget before, from which on the next is shown


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The size of the least loss at a budget."""

    flops: float
    sizes: tuple[int, ...]  # that reach it
    params: float | None  # None: the least loss is that of the smallest or largest of them
    loss: float | None


def minima(points: Sequence[LawPoint]) -> list[Minimum]:
    """Of the points of one family, in the order of budgets."""
    courses = _courses(points)
    found: list[Minimum] = []
    for flops in sorted({flops for course in courses.values() for flops in np.exp(course[0])}):
        if found and flops < APART * found[-1].flops:
            continue
        reached = {size: float(np.interp(math.log(flops), *course)) for size, course in courses.items() if _within(course[0], flops)}
        if len(reached) >= LEAST_SIZES:
            found.append(_minimum(float(flops), reached))
    return found


def _courses(points: Sequence[LawPoint]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Size -> logarithms of its FLOPs and of its mean losses over seeds, in order."""
    courses = {}
    for size in sorted({point.params for point in points}):
        losses: dict[float, list[float]] = {}
        for point in points:
            if point.params == size:
                losses.setdefault(math.log(point.flops), []).append(math.log(point.loss))
        at = sorted(losses)
        courses[size] = (np.array(at), np.array([np.mean(losses[each]) for each in at]))
    return courses


def _within(logs: np.ndarray, flops: float) -> bool:
    slack = 1e-9
    return bool(logs[0] - slack <= math.log(flops) <= logs[-1] + slack)


def _minimum(flops: float, reached: dict[int, float]) -> Minimum:
    sizes = sorted(reached)
    best = min(range(len(sizes)), key=lambda place: reached[sizes[place]])
    if best in (0, len(sizes) - 1):
        return Minimum(flops=flops, sizes=tuple(sizes), params=None, loss=None)
    near = sizes[best - 1 : best + 2]
    curve = np.polyfit(np.log(near), [reached[size] for size in near], 2)
    middle = -curve[1] / (2 * curve[0])
    return Minimum(flops=flops, sizes=tuple(sizes), params=math.exp(middle), loss=math.exp(float(np.polyval(curve, middle))))
