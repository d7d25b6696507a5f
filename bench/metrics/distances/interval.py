"""The interval around a distance between sets of features, by leaving out groups of clips. No torch.

Calibrated by simulation: see reports/calibration and `bench.metrics.distances.calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.metrics.distances.frechet import Features, FrechetSubsets, frechet_distance
from bench.metrics.distances.kernel import KernelGroups, kernel_distance
from bench.shapes import Refusal

Statistic = Callable[[Features, Features], float]  # (real, fake) -> distance
ByGroup = Callable[[np.ndarray], float]  # keep (G,) bool -> value of the groups kept

NUM_GROUPS = 16
CONFIDENCE = 0.95
PAIR_SHARE = 0.75  # of the pairs' estimated variance that is taken off: an estimate too, and too short an interval is the worse error
PAIR_LEAST = 1 / 3  # of the jackknife's variance; a smaller part of pairs is left in
PAIR_STEPS = (1, 2)  # group g is left out together with g + 1 and g + 2: 2 G of the G (G - 1) / 2 pairs


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A distance with its 95 % interval: estimate +- t x standard error. Not clipped at 0, which an unbiased distance may cross.

    It covers the distance expected at this n, whose bias (see FVD at infinite n) it does not remove.
    """

    estimate: float
    low: float
    high: float
    standard_error: float


def jackknife(statistic: Statistic, a: Features, b: Features) -> Interval:
    """Interval of `statistic(a, b)` by leaving out the g-th group of both sets at once. Refusal for fewer clips than groups.

    Not a bootstrap: resampling with replacement shrinks a covariance's rank and biases a Frechet distance upwards.
    """
    return interval_of(statistic(a, b), jackknife_variance(by_group(statistic, a, b)))


def jackknife_difference(statistic: Statistic, real: Features, fake_a: Features, fake_b: Features) -> Interval:
    """Interval of `statistic(real, fake_a) - statistic(real, fake_b)`, the same real clips left out on both sides.

    What the two distances share, the draw of the real set, cancels, and so does noise shared clip by clip when both fakes are of one size.
    """
    first, second = by_group(statistic, real, fake_a), by_group(statistic, real, fake_b)
    estimate = statistic(real, fake_a) - statistic(real, fake_b)
    return interval_of(estimate, jackknife_variance(lambda keep: first(keep) - second(keep)))


def group_of_each(num_clips: int) -> np.ndarray:
    """Group of each clip, (n,), sizes equal to within one. Shuffled, as clips often come sorted by class; the same for every set of n."""
    if num_clips < NUM_GROUPS:
        raise Refusal(f"a jackknife with {NUM_GROUPS} groups needs as many clips, got {num_clips}")
    return np.random.default_rng(num_clips).permutation(num_clips) % NUM_GROUPS


def by_group(statistic: Statistic, a: Features, b: Features) -> ByGroup:
    """`statistic` of the clips whose group is kept, by its own faster route where it has one."""
    group_a, group_b = group_of_each(len(a)), group_of_each(len(b))
    if statistic is frechet_distance:
        subsets = FrechetSubsets(a, b)
        return lambda keep: subsets(keep[group_a], keep[group_b])
    if statistic is kernel_distance:
        return KernelGroups(a, b, group_a, group_b)
    return lambda keep: statistic(a[keep[group_a]], b[keep[group_b]])


def interval_of(estimate: float, variance: float) -> Interval:
    """estimate +- t x the root of the variance over groups, t with groups - 1 degrees of freedom."""
    from scipy.stats import t  # takes a second to import, and whoever only names distances needs none of it

    standard_error = math.sqrt(variance)
    margin = float(t.ppf((1 + CONFIDENCE) / 2, NUM_GROUPS - 1)) * standard_error
    return Interval(estimate=estimate, low=estimate - margin, high=estimate + margin, standard_error=standard_error)


def jackknife_variance(value: ByGroup, groups: int = NUM_GROUPS) -> float:
    """Variance of `value` over draws of the clips: the delete-group jackknife less some of what it counts twice (Efron & Stein 1981).

    Left alone, the jackknife is (G - 1) / G x the sum of squares of the G leave-one-group-out values around their mean. It counts the part
    of the variance that comes from pairs of groups twice, once for each, and near distance 0 (two good models, or real against real)
    that part is all of it: intervals 1.4 times too wide. What a pair does is G v - (G - 1) (v_i + v_j) + (G - 2) v_ij, which is 0
    for a mean; `scale` turns its variance into the pairs' share for a sum over pairs, at most half. How much is taken off, and from where
    on, is what reports/calibration covers well with.
    """
    everything = np.ones(groups, bool)
    index = np.arange(groups)
    without = np.array([value(index != g) for g in range(groups)])
    plain = (groups - 1) / groups * float(np.square(without - without.mean()).sum())
    if plain == 0:
        return 0.0
    pairs = sorted({(min(g, h), max(g, h)) for step in PAIR_STEPS for g in range(groups) for h in [(g + step) % groups]})
    base = groups * value(everything)
    together = np.array(
        [base - (groups - 1) * (without[g] + without[h]) + (groups - 2) * value((index != g) & (index != h)) for g, h in pairs]
    )
    own, others = 4 / (groups - 1) - 2 / (groups - 2), 8 / ((groups - 1) ** 2 * (groups - 2))
    scale = 2 * (groups - 1) / groups**3 / (own**2 + others)
    of_pairs = min(scale * float(together.var(ddof=1)), plain / 2)
    return plain - PAIR_SHARE * of_pairs if of_pairs > PAIR_LEAST * plain else plain


def binomial_interval(count: Any, total: Any) -> tuple[Any, Any]:
    """95 % interval of a share (Wilson), or of an array of them."""
    z, share = 1.96, count / total
    middle, half = share + z**2 / (2 * total), z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return (middle - half) / (1 + z**2 / total), (middle + half) / (1 + z**2 / total)
