"""Distances between two sets of features: one object says all that the suite needs of one. No torch.

Another is a `DistanceKind` below, or one in any installed package that registers it under `ENTRY_POINT_GROUP`: it is then measured by `run`
and `score`, listed by `ls` and shown in reports.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.data.registry import load_all
from bench.metrics.distances.bias import expected_floor, frechet_infinite_n, infinite_n_clips
from bench.metrics.distances.frechet import Features, frechet_distance
from bench.metrics.distances.interval import Interval, Statistic
from bench.metrics.distances.kernel import kernel_distance
from bench.shapes import Refusal

ENTRY_POINT_GROUP = "unet_vs_dit.distances"


@dataclass(frozen=True, kw_only=True)
class DistanceKind:
    """One way to compare two sets of features, lower is better: its names, its bias at a finite n, and what else can be said of it."""

    key: str  # "frechet"
    title: str  # in reports, before the extractor
    distance: Statistic  # features (n, D) and (m, D) -> float
    canonical: str  # name under the canonical extractor: "fvd"
    prefix: str  # of its name under any other: "fd_", so that a name says which distance it is
    bias: Literal["none", "1/n", "unknown"] = "unknown"  # of two sets of one population: none at any n, falling as 1/n, or not known
    expected_floor: Callable[[Features, int, int], float] | None = None  # (real, n, m) -> its mean in theory, for n of at least D
    infinite_n: Callable[[Features, Features], tuple[Interval, tuple[int, ...]]] | None = None  # without the bias of n; sizes it came from
    infinite_n_clips: Callable[[int], int] = infinite_n_clips  # D -> fewest clips that `infinite_n` takes
    over_frames: bool = False  # also taken over single frames, (N T, D)
    unit: str = "1"
    settings: Mapping[str, Any] = field(default_factory=dict)  # what changes a value, its version at least: a part of its protocol

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+vd", self.canonical) or not re.fullmatch(r"[a-z0-9]+d_", self.prefix):
            raise Refusal(
                f"distance {self.key!r}: its names must be like fvd and fd_, so that no other measurement has them, "
                f"got {self.canonical!r} and {self.prefix!r}"
            )

    def name(self, extractor: str, canonical_extractor: str) -> str:
        """As in a metric's name, without its n."""
        return self.canonical if extractor == canonical_extractor else self.prefix + extractor

    def of_clips_of_frames(self, a: Features, b: Features) -> float:
        """The distance over the single frames of two sets of clips, features (N, T, D) each; blind to the order of frames."""
        return self.distance(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))


FRECHET = DistanceKind(
    key="frechet",
    title="Fréchet distance",
    distance=frechet_distance,
    canonical="fvd",
    prefix="fd_",
    bias="1/n",
    expected_floor=expected_floor,
    infinite_n=frechet_infinite_n,
    over_frames=True,
)
KERNEL = DistanceKind(key="kernel", title="Kernel distance", distance=kernel_distance, canonical="kvd", prefix="kd_", bias="none")


@functools.cache
def distances() -> dict[str, DistanceKind]:
    """Every distance by its key: those of this file, then registered ones by name. Refusal where two would share a name."""
    ours = (FRECHET, KERNEL)
    found = load_all("distance", ENTRY_POINT_GROUP, ours, lambda kind: (kind.key, kind.canonical, kind.prefix), DistanceKind)
    return {kind.key: kind for kind in found}
