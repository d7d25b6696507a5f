"""Frechet distance between two sets of features, and the interval around any distance between two sets.

Knows features, not clips, extractors or names. float64 throughout; covariance divides by n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.stats
import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

Features = np.ndarray  # (n, d), a row a clip
Statistic = Callable[[Features, Features], float]  # (real, fake) -> distance

NUM_GROUPS = 16
CONFIDENCE = 0.95
MIN_CLIPS = 2  # a covariance over n - 1 needs two


def check_features(a: Features, b: Features) -> tuple[Features, Features]:
    """Both sets as float64 (n, d) and (m, d). ValueError where they are not two sets of features that compare."""
    for name, features in (("first", a), ("second", b)):
        if not isinstance(features, np.ndarray) or features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
            found = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
            raise ValueError(f"the {name} set of features must be a float array (n, d), got {found}")
        if len(features) < MIN_CLIPS:
            raise ValueError(f"the {name} set has {len(features)} clips, a distance needs at least {MIN_CLIPS}")
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise ValueError(
                f"the {name} set has NaN or infinite features in {bad.sum()} of {len(features)} clips, first in clip {bad.argmax()}"
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the two sets have {a.shape[1]} and {b.shape[1]} features a clip; were they made by one extractor?")
    return a.astype(np.float64), b.astype(np.float64)


def frechet_distance(a: Features, b: Features) -> float:
    """|mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), S over n - 1; lower is better, never below 0 but for rounding.

    With X, Y the centred features over sqrt(n - 1), S_a = X'X and S_b = Y'Y, and tr (S_a S_b)^(1/2) is the sum of the singular values
    of X Y'. No matrix root and no squared condition number, so it holds to rounding for n < d too. QR first: X Y' and R_x R_y' have
    the same singular values, and the second is at most d x d.
    """
    a, b = check_features(a, b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)  # (d,)
    root_a, root_b = (covariance_root(features - mean) for features, mean in ((a, mean_a), (b, mean_b)))  # (min(n, d), d)
    trace = np.square(root_a).sum() + np.square(root_b).sum() - 2 * scipy.linalg.svdvals(root_a @ root_b.T).sum()
    return float(np.square(mean_a - mean_b).sum() + trace)


def covariance_root(centred: np.ndarray) -> np.ndarray:
    """R (min(n, d), d) with R'R the covariance of centred features (n, d)."""
    scaled = centred / math.sqrt(len(centred) - 1)
    return np.asarray(np.linalg.qr(scaled, mode="r")) if len(scaled) > scaled.shape[1] else scaled


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


class FeatureDistance(torchmetrics.Metric):
    """A distance between two sets of features as a torchmetrics metric: keeps every feature, so ranks with uneven shards agree.

    `update(features (B, D) float32, real=...)`, `compute() -> scalar float64`. `forward` only updates: a batch has no distance.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    real_features: list[Tensor]
    fake_features: list[Tensor]
    statistic: Statistic  # set by the subclass, as a staticmethod

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("fake_features", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        if features.ndim != 2 or features.dtype != torch.float32:
            raise ValueError(f"features must be float32 (B, D), got {features.dtype} {tuple(features.shape)}")
        (self.real_features if real else self.fake_features).append(features.detach())

    def forward(self, features: Tensor, real: bool) -> None:
        self.update(features, real)

    def compute(self) -> Tensor:
        sets = []
        for name, state in (("real", self.real_features), ("fake", self.fake_features)):
            if isinstance(state, list) and not state:
                raise ValueError(f"no {name} features: call update(features, real={name == 'real'}) before compute()")
            features = dim_zero_cat(state)
            # Someone moved the metric to half precision: the features lost digits that no cast brings back.
            if features.dtype != torch.float32:
                raise RuntimeError(f"{name} features became {features.dtype}, they were float32; do not change the dtype of a distance")
            sets.append(features.cpu().numpy())
        return torch.tensor(type(self).statistic(sets[0], sets[1]), dtype=torch.float64)

    def set_dtype(self, dst_type: str | torch.dtype) -> FeatureDistance:
        raise RuntimeError(f"{type(self).__name__} keeps float32 features and computes in float64, it cannot become {dst_type}")


class FrechetDistance(FeatureDistance):
    """`frechet_distance` of everything seen; lower is better."""

    statistic = staticmethod(frechet_distance)
