"""Networks that turn clips into features: the table of them, by name, and those of one's own. Adding one is an entry and a manifest.

Knows neither distances nor what a metric is called; features are extracted and cached in bench/metrics/extractors/features.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.backbone import did_you_mean
from bench.metrics.extractors import controls, custom, i3d, motion, videomae, vjepa
from bench.metrics.extractors.manifest import FRAME_MEAN, I3D, I3D_EPS, I3D_HALF_PIXEL, MOTION, RANDOM3D, VIDEOMAE, VJEPA, Manifest
from bench.metrics.extractors.resize import resize_half_pixel, resize_tf1
from bench.metrics.weights import table as weights
from bench.shapes import Refusal


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


def i3d_extractor(device: torch.device, manifest: Manifest = I3D, eps: float = i3d.BATCH_NORM_EPS) -> Extractor:
    network = i3d.load_i3d(device, eps=eps)
    resize = resize_tf1 if manifest.resize == I3D.resize else resize_half_pixel
    return Extractor(
        manifest=manifest,
        device=device,
        batch_size=2 if device.type == "cpu" else 16,  # on two cores larger batches leave the cache and are slower
        features=lambda frames: network(i3d.preprocess(frames, resize)),
    )


def videomae_extractor(device: torch.device) -> Extractor:
    network = videomae.load_videomae(device)
    return Extractor(
        manifest=VIDEOMAE,
        device=device,
        batch_size=1 if device.type == "cpu" else 8,
        features=lambda frames: network(videomae.preprocess(frames, network.config.size)),
    )


def vjepa_extractor(device: torch.device) -> Extractor:
    network = vjepa.load_vjepa(device)
    return Extractor(
        manifest=replace(VJEPA, weights_sha256=weights.source_sha256("vjepa")),
        device=device,
        batch_size=1 if device.type == "cpu" else 8,
        features=lambda frames: network(vjepa.preprocess(frames, network.config.size)),
    )


def random3d_extractor(device: torch.device) -> Extractor:
    return Extractor(manifest=RANDOM3D, device=device, batch_size=16, features=controls.random3d().to(device).eval())


def frame_mean_extractor(device: torch.device) -> Extractor:
    return Extractor(manifest=FRAME_MEAN, device=device, batch_size=16, features=controls.frame_mean().to(device).eval())


def motion_extractor(device: torch.device) -> Extractor:
    return Extractor(manifest=MOTION, device=device, batch_size=16, features=motion.load_motion(device))


EXTRACTORS: dict[str, Callable[[torch.device], Extractor]] = {
    "i3d": i3d_extractor,
    "i3d_half-pixel": partial(i3d_extractor, manifest=I3D_HALF_PIXEL),
    "i3d_eps1e-5": partial(i3d_extractor, manifest=I3D_EPS, eps=1e-5),
    "videomae": videomae_extractor,
    "vjepa": vjepa_extractor,
    "motion": motion_extractor,
    "random3d": random3d_extractor,
    "frame_mean": frame_mean_extractor,
}


def load_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """An extractor, ready on `device`: one of the table, a TorchScript file with a manifest beside it, or "module:factory".

    Refusal for an unknown name or a manifest that is not kept, WeightsError where weights are missing or other ones.
    """
    device = torch.device(device)
    if name in EXTRACTORS:
        return EXTRACTORS[name](device)
    if custom.is_file_name(name):
        manifest, features = custom.load_torchscript(Path(name), device)
    elif ":" in name:
        manifest, features = custom.load_factory(name, device)
    else:
        known = f"{', '.join(EXTRACTORS)}, a TorchScript file ({', '.join(custom.SUFFIXES)}) or module:factory"
        raise Refusal(f"unknown extractor {name!r}{did_you_mean(name, list(EXTRACTORS))}; known: {known}")
    return Extractor(manifest=manifest, device=device, batch_size=2 if device.type == "cpu" else 16, features=features)
