"""The interval around a distance between sets of features, by leaving out groups of clips. Knows no distance; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from bench.metrics.frechet import MIN_CLIPS, Features

Statistic = Callable[[Features, Features], float]  # (real, fake) -> distance

NUM_GROUPS = 16
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A distance with its 95 % interval: estimate +- t x standard error. Not clipped at 0, which an unbiased distance may cross.

    It covers the distance expected at this n, whose bias (see FVD at infinite n) it does not remove.
    """

    estimate: float
    low: float
    high: float
    standard_error: float


def jackknife(statistic: Statistic, a: Features, b: Features, groups: int = NUM_GROUPS) -> Interval:
    """Interval of `statistic(a, b)` by leaving out the g-th group of both sets at once, g = 1..groups.

    Not a bootstrap: resampling with replacement shrinks a covariance's rank and biases a Frechet distance upwards.
    """
    return jackknife_sets(lambda sets: statistic(sets[0], sets[1]), (a, b), groups)


def jackknife_difference(statistic: Statistic, real: Features, fake_a: Features, fake_b: Features, groups: int = NUM_GROUPS) -> Interval:
    """Interval of `statistic(real, fake_a) - statistic(real, fake_b)`, the same real clips left out on both sides.

    What the two distances share, the draw of the real set, cancels, and so does noise shared clip by clip when both fakes are of one size.
    """
    return jackknife_sets(lambda sets: statistic(sets[0], sets[1]) - statistic(sets[0], sets[2]), (real, fake_a, fake_b), groups)


def jackknife_sets(value: Callable[[tuple[Features, ...]], float], sets: tuple[Features, ...], groups: int) -> Interval:
    """Delete-group jackknife: variance = (G - 1) / G x the sum of squares of the G leave-one-group-out values around their mean."""
    smallest = min(len(features) for features in sets)
    if groups < 2 or smallest < max(groups, 2 * MIN_CLIPS):
        raise ValueError(f"a jackknife with {groups} groups needs at least 2 groups and {max(groups, 2 * MIN_CLIPS)} clips, got {smallest}")
    estimate = value(sets)
    members = [group_of_each(len(features), groups) for features in sets]
    without = np.array([value(tuple(features[group != g] for features, group in zip(sets, members, strict=True))) for g in range(groups)])
    standard_error = math.sqrt((groups - 1) / groups * np.square(without - without.mean()).sum())
    margin = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, groups - 1)) * standard_error
    return Interval(estimate=estimate, low=estimate - margin, high=estimate + margin, standard_error=standard_error)


def group_of_each(num_clips: int, groups: int) -> np.ndarray:
    """Group of each clip, (n,), sizes equal to within one. Shuffled, as clips often come sorted by class; the same for every set of n."""
    return np.random.default_rng(num_clips).permutation(num_clips) % groups
