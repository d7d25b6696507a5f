"""Distances as torchmetrics: features arrive in batches, on any rank, and `compute` gives the distance of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from bench.metrics.frechet import Features, frechet_distance
from bench.metrics.kernel import kernel_distance

Statistic = Callable[[Features, Features], float]  # (real, fake) -> distance


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


class KernelDistance(FeatureDistance):
    """`kernel_distance` of everything seen; lower is better."""

    statistic = staticmethod(kernel_distance)
