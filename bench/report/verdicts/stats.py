"""What a handful of seeds can carry: intervals, and who leads an axis, with the reason in words. Knows no torch.

Seeds are the unit: clips and steps of one run are not independent repeats of a training. A mean has a 95 % t-interval
over seeds; a lead is two-sided and needs at least `MIN_SEEDS` seeds a contender (Welch's t-test; with three against
three no rank test can go below p = 0.1). Everything else is "inconclusive", except counts, which do not vary.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from scipy.special import stdtr, stdtrit

MIN_SEEDS = 3  # of each contender, for a claim about a value that varies with the seed
ALPHA = 0.05  # two-sided, over all pairs of contenders on one axis (Bonferroni)
MIN_FLOORS = 3  # a distance nearer than this many real-against-real distances is mostly bias

Standing = Literal["leads", "exact", "tie", "matched", "inconclusive", "not compared"]


@dataclass(frozen=True, kw_only=True)
class SeedInterval:
    """A mean over seeds and its t-interval; `low` and `high` are None for a single seed."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of one contender minus mean of another, with Welch's interval; None where a seed or the variance is missing."""

    value: float
    low: float | None
    high: float | None
    p_value: float | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Who is ahead on one axis, and whether the numbers carry it."""

    outcome: Standing
    reason: str
    leader: str | None = None  # the best mean, carried or not
    rival: str | None = None  # the closest mean to it
    difference: Difference | None = None  # leader minus rival

    @property
    def carried(self) -> bool:
        """Whether the numbers name a leader."""
        return self.outcome in ("leads", "exact")


def mean_interval(values: Sequence[float]) -> SeedInterval:
    """Mean and 95 % t-interval: mean +- t(n - 1) s / sqrt(n), s with n - 1."""
    num = len(values)
    mean = statistics.fmean(values)
    if num < 2:
        return SeedInterval(mean=mean, low=None, high=None, num_seeds=num)
    half = float(stdtrit(num - 1, 0.975)) * statistics.stdev(values) / math.sqrt(num)
    return SeedInterval(mean=mean, low=mean - half, high=mean + half, num_seeds=num)


def welch(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Difference:
    """Difference of means of two groups of unequal variance, two-sided (Welch 1947)."""
    value = statistics.fmean(first) - statistics.fmean(second)
    a, b = (statistics.variance(values) / len(values) if len(values) > 1 else 0.0 for values in (first, second))  # squared standard errors
    if min(len(first), len(second)) < 2 or a + b == 0:
        return Difference(value=value, low=None, high=None, p_value=None)
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    error = math.sqrt(a + b)
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * error
    p_value = float(2 * stdtr(freedom, -abs(value / error)))
    return Difference(value=value, low=value - half, high=value + half, p_value=p_value)


def judge(
    values: Mapping[str, Sequence[float]],
    *,
    better: Literal["lower", "higher"],
    exact: bool = False,
    missing: Mapping[str, str] | None = None,
) -> Verdict:
    """Who leads one axis.

    `values`: contender -> one value a seed. `exact`: the value is a count that no seed changes. `missing`: contender ->
    why some or all of its seeds have no value; leaving the failures out would flatter whoever failed.
    """
    missing = missing or {}
    present = {name: list(series) for name, series in values.items() if series}
    absent = "; ".join(f"{name}: {why}" for name, why in missing.items())
    if len(present) < 2:
        only = f"only {next(iter(present))} has a value" if present else "no contender has a value"
        return Verdict(outcome="not compared", reason=f"{only} ({absent})" if absent else only)

    sign = 1 if better == "lower" else -1
    order = sorted(present, key=lambda name: sign * statistics.fmean(present[name]))
    leader, rival = order[0], order[1]
    num_pairs = len(order) * (len(order) - 1) // 2
    confidence = 1 - ALPHA / num_pairs

    def verdict(outcome: Standing, reason: str) -> Verdict:
        difference = welch(present[leader], present[rival], confidence)
        return Verdict(outcome=outcome, reason=reason, leader=leader, rival=rival, difference=difference)

    varying = [name for name, series in present.items() if any(a != b for a, b in pairwise(series))]
    if exact and not varying:
        without = f"; no value for {absent}" if absent else ""
        if present[leader][0] == present[rival][0]:
            equal = [name for name in order if present[name][0] == present[leader][0]]
            return verdict("tie", f"exact, and equal for {', '.join(equal)}{without}")
        return verdict("exact", f"exact: a count, the same for every seed{without}")
    if statistics.fmean(present[leader]) == statistics.fmean(present[rival]):
        return verdict("tie", "equal means")
    if missing:
        return verdict("inconclusive", f"seeds without a value count too ({absent})")
    fewest = min(len(series) for series in present.values())
    if fewest < MIN_SEEDS:
        return verdict("inconclusive", f"{fewest} seed{'s' if fewest > 1 else ''}; a claim needs at least {MIN_SEEDS}")

    p_values: dict[str, float] = {}
    for other in order[1:]:
        p_value = welch(present[leader], present[other]).p_value
        if p_value is None:
            return verdict("inconclusive", f"no spread between the seeds of {leader} and {other}, so nothing tells what chance does")
        p_values[other] = p_value
    weakest = max(p_values, key=lambda name: p_values[name])
    shown = f"p {'< 0.001' if p_values[weakest] < 0.001 else f'= {p_values[weakest]:.3f}'}"
    shown += f" against {weakest}, {num_pairs} pairs" if num_pairs > 1 else ""
    if p_values[weakest] >= ALPHA / num_pairs:
        return verdict("inconclusive", f"may be chance: {shown}")
    return verdict("leads", f"{fewest} seeds each, {shown}")


def distance_caveats(distance: float, floor: float | None, num_clips: int | None) -> list[str]:
    """What must be said beside a distance between sets of clips. `num_clips` is given where a headline needs more."""
    caveats = []
    if num_clips is not None:
        caveats.append(f"n = {num_clips} clips is below what a headline needs")
    if floor is None:
        caveats.append("no real-against-real floor was measured")
    elif floor > 0 and distance < MIN_FLOORS * floor:
        caveats.append(f"only {distance / floor:.1f} floors, below {MIN_FLOORS}: mostly the bias of a small n")
    return caveats
