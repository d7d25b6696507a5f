"""Distances as torchmetrics: features arrive in batches, on any rank, and `compute` gives the distance of all of them.

`update(features (B, D) float32, real=...)`, `compute() -> scalar float64`. `forward` only updates: a batch has no distance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from bench.metrics.distances.frechet import MIN_CLIPS, Features, frechet_distance, frechet_from_moments
from bench.metrics.distances.kernel import kernel_distance
from bench.shapes import Refusal

Statistic = Callable[[Features, Features], float]  # (real, fake) -> distance


class Distance(torchmetrics.Metric):
    """What both kinds of accumulation share: what may come in, and that no one changes its precision."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def update(self, features: Tensor, real: bool) -> None:
        """Take features (B, D) float32 in. Refusal, and nothing taken, where they are not that or do not fit what is here."""
        if not isinstance(features, Tensor) or features.ndim != 2 or features.dtype != torch.float32:
            found = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise Refusal(f"features must be float32 (B, D), got {found}")
        if self.num_features() not in (None, features.shape[1]):
            raise Refusal(f"this metric holds {self.num_features()} features a clip, got {features.shape[1]}; one metric for one extractor")
        bad = ~torch.isfinite(features).all(dim=1)
        if bad.any():
            first = int(bad.int().argmax())
            raise Refusal(f"NaN or infinite features in {int(bad.sum())} of {len(features)} clips, first in clip {first} of the batch")
        self.take(features.detach(), "real" if real else "fake")

    def num_features(self) -> int | None:
        """Features a clip, None as long as nothing says."""
        raise NotImplementedError

    def take(self, features: Tensor, kind: str) -> None:
        raise NotImplementedError

    def forward(self, features: Tensor, real: bool) -> None:
        self.update(features, real)

    def check_num(self, kind: str, num: int) -> None:
        """Refusal where `num` clips are too few for a distance."""
        if num == 0:
            raise Refusal(f"no {kind} features: call update(features, real={kind == 'real'}) before compute()")
        if num < MIN_CLIPS:
            raise Refusal(f"{num} {kind} clip, a distance needs at least {MIN_CLIPS} of each kind")

    def set_dtype(self, dst_type: str | torch.dtype) -> Distance:
        raise RuntimeError(f"{type(self).__name__} takes float32 features and computes in float64, it cannot become {dst_type}")


def check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """RuntimeError where someone moved the metric to another precision: the digits lost do not come back by a cast."""
    if tensor.dtype != dtype:
        raise RuntimeError(f"{name} became {tensor.dtype}, they were {dtype}; do not change the dtype of a distance")


class FeatureDistance(Distance):
    """Keeps every feature, as intervals, extrapolation and the kernel distance need; ranks with uneven shards agree to the last digit."""

    real_features: list[Tensor]
    fake_features: list[Tensor]
    statistic: Statistic  # set by the subclass, as a staticmethod

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("fake_features", [], dist_reduce_fx="cat")

    def num_features(self) -> int | None:
        stored = [*self.real_features, *self.fake_features]
        return stored[0].shape[1] if stored else None

    def take(self, features: Tensor, kind: str) -> None:
        getattr(self, f"{kind}_features").append(features)

    def compute(self) -> Tensor:
        sets = []
        for kind in ("real", "fake"):
            state = getattr(self, f"{kind}_features")
            self.check_num(kind, sum(map(len, state)) if isinstance(state, list) else len(state))
            features = dim_zero_cat(state)
            check_dtype(f"{kind} features", features, torch.float32)
            sets.append(features.cpu().numpy())
        return torch.tensor(type(self).statistic(sets[0], sets[1]), dtype=torch.float64)

    def _sync_dist(self, dist_sync_fn: Callable[..., list[Tensor]] = gather_all_tensors, process_group: Any = None) -> None:
        """A rank that has seen nothing joins with (0, D). torchmetrics would send a tensor without D, and the ranks would not meet."""
        gathered = dist_sync_fn(torch.tensor(self.num_features() or 0, device=self.device), group=process_group or self.process_group)
        known = sorted({int(num) for num in gathered} - {0})
        if len(known) > 1:
            raise Refusal(f"the ranks hold {' and '.join(map(str, known))} features a clip; one metric for one extractor")
        for kind in ("real", "fake"):
            if not getattr(self, f"{kind}_features"):
                setattr(self, f"{kind}_features", [torch.zeros(0, known[0] if known else 0, device=self.device)])
        super()._sync_dist(dist_sync_fn, process_group)


class FrechetDistance(FeatureDistance):
    """`frechet_distance` of everything seen; lower is better."""

    statistic = staticmethod(frechet_distance)


class KernelDistance(FeatureDistance):
    """`kernel_distance` of everything seen; lower is better."""

    statistic = staticmethod(kernel_distance)


class StreamingFrechetDistance(Distance):
    """Frechet distance from float64 sums alone: D x D numbers however many clips. No interval follows from them, so not the default.

    `shift` (D,), a fixed vector near the mean of the extractor's features, is subtracted first: sums of squares of features far from
    0 cancel. It belongs to the extractor, so that sums of any two runs add up. Within 1e-9 of `frechet_distance`, relative to the
    traces, for n >= 2 D and good conditioning, else 1e-6.
    """

    shift: Tensor

    def __init__(self, shift: Tensor, **kwargs: Any):
        super().__init__(**kwargs)
        if shift.ndim != 1 or not torch.isfinite(shift).all():
            raise Refusal(f"shift must be a finite vector (D,), one number a feature, got shape {tuple(shift.shape)}")
        self.register_buffer("shift", shift.to(torch.float64), persistent=False)
        for kind in ("real", "fake"):
            self.add_state(f"{kind}_num", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state(f"{kind}_sum", torch.zeros(len(shift), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{kind}_outer", torch.zeros(len(shift), len(shift), dtype=torch.float64), dist_reduce_fx="sum")

    def num_features(self) -> int | None:
        return len(self.shift)

    def take(self, features: Tensor, kind: str) -> None:
        for name, tensor in [("shift", self.shift), *((f"{kind} {part}s", getattr(self, f"{kind}_{part}")) for part in ("sum", "outer"))]:
            check_dtype(name, tensor, torch.float64)
        shifted = features.to(torch.float64) - self.shift  # (B, D)
        for part, added in (("num", len(shifted)), ("sum", shifted.sum(dim=0)), ("outer", shifted.T @ shifted)):
            setattr(self, f"{kind}_{part}", getattr(self, f"{kind}_{part}") + added)

    def compute(self) -> Tensor:
        moments: list[Any] = []
        for kind in ("real", "fake"):
            num, total, outer = (getattr(self, f"{kind}_{part}") for part in ("num", "sum", "outer"))
            self.check_num(kind, int(num))
            for name, tensor in (("sums", total), ("outer products", outer)):
                check_dtype(f"{kind} {name}", tensor, torch.float64)
            mean = total / num  # (D,)
            covariance = (outer - num * torch.outer(mean, mean)) / (num - 1)  # (D, D)
            moments += [mean.cpu().numpy(), covariance.cpu().numpy(), int(num)]
        return torch.tensor(frechet_from_moments(*moments), dtype=torch.float64)
