"""Networks that turn clips into features: the table of them, by name. Adding one is an entry here and a manifest.

Knows neither distances nor what a metric is called; features are extracted and cached in bench/metrics/features.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.backbone import did_you_mean
from bench.metrics import controls, i3d
from bench.metrics.manifest import I3D, RANDOM3D, Manifest


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network that turns clips into features, ready on a device, with all that identifies it."""

    manifest: Manifest
    device: torch.device
    batch_size: int  # clips at once, what is fastest; does not change a value
    features: Callable[[Tensor], Tensor]  # frames (B, T, H, W, 3) uint8 on `device` -> (B, dim) float32

    @property
    def name(self) -> str:
        """As in a metric's name."""
        return self.manifest.name

    @property
    def dim(self) -> int:
        """Features a clip."""
        return self.manifest.dim


def i3d_extractor(device: torch.device) -> Extractor:
    network = i3d.load_i3d(device)
    return Extractor(
        manifest=I3D,
        device=device,
        batch_size=2 if device.type == "cpu" else 16,  # on two cores larger batches leave the cache and are slower
        features=lambda frames: network(i3d.preprocess(frames)),
    )


def random3d_extractor(device: torch.device) -> Extractor:
    return Extractor(manifest=RANDOM3D, device=device, batch_size=16, features=controls.random3d().to(device).eval())


EXTRACTORS: dict[str, Callable[[torch.device], Extractor]] = {
    "i3d": i3d_extractor,
    "random3d": random3d_extractor,
}


def load_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """The extractor `name`, ready on `device`. ValueError for an unknown name, WeightsError where its weights are missing."""
    if name not in EXTRACTORS:
        raise ValueError(f"unknown extractor {name!r}{did_you_mean(name, list(EXTRACTORS))}; known: {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](torch.device(device))
