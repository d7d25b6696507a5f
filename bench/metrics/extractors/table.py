"""Networks that turn clips into features: the table of them, by name, and those of one's own. Adding one is an entry and a manifest.

Knows neither distances nor what a metric is called; features are extracted and cached in bench/metrics/extractors/features.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.metrics.extractors import controls, custom, golden, i3d, motion, videomae, vjepa
from bench.metrics.extractors.manifest import MANIFESTS, Manifest
from bench.metrics.extractors.resize import Resize, resize_half_pixel, resize_tf1
from bench.metrics.weights import table as weights
from bench.shapes import Refusal, did_you_mean

ToFeatures = Callable[[Tensor], Tensor]  # frames (B, T, H, W, 3) uint8 -> (B, dim) float32


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network that turns clips into features, ready on a device, with all that identifies it."""

    manifest: Manifest
    device: torch.device
    batch_size: int  # clips at once, what is fastest; does not change a value
    features: ToFeatures  # of frames on `device`

    @property
    def name(self) -> str:
        """As in a metric's name."""
        return self.manifest.name

    @property
    def dim(self) -> int:
        """ToFeatures a clip."""
        return self.manifest.dim


def i3d_features(device: torch.device, resize: Resize = resize_tf1, eps: float = i3d.BATCH_NORM_EPS) -> ToFeatures:
    network = i3d.load_i3d(device, eps=eps)
    return lambda frames: network(i3d.preprocess(frames, resize))


def vit_features(device: torch.device, load: Callable[[torch.device], Any], preprocess: Callable[[Tensor, int], Tensor]) -> ToFeatures:
    network = load(device)
    return lambda frames: network(preprocess(frames, network.config.size))


# Name -> how it is loaded, and clips at once on a CPU and on a GPU: what is fastest. On two cores larger batches of I3D leave the cache.
EXTRACTORS: dict[str, tuple[Callable[[torch.device], ToFeatures], int, int]] = {
    "i3d": (i3d_features, 2, 16),
    "i3d_half-pixel": (partial(i3d_features, resize=resize_half_pixel), 2, 16),
    "i3d_eps1e-5": (partial(i3d_features, resize=resize_half_pixel, eps=1e-5), 2, 16),
    "videomae": (partial(vit_features, load=videomae.load_videomae, preprocess=videomae.preprocess), 1, 8),
    "vjepa": (partial(vit_features, load=vjepa.load_vjepa, preprocess=vjepa.preprocess), 1, 8),
    "motion": (motion.load_motion, 16, 16),
    "random3d": (lambda device: controls.Random3D().to(device), 16, 16),
    "frame_mean": (lambda device: controls.FrameMean().to(device), 16, 16),
}


_reproduced: set[tuple[str, torch.device]] = set()  # networks that gave their golden values in this process


def load_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """An extractor, ready on `device`: one of the table, a TorchScript file with a manifest beside it, or "module:factory".

    Before it may measure, a network gives its manifest's golden values: once a process, as damage since then would show in the weights'
    hash. Refusal for an unknown name or a manifest that is not kept, WeightsError where weights are missing or other ones.
    """
    device = torch.device(device)
    of_cpu, of_gpu = 2, 16
    if name in EXTRACTORS:
        load, of_cpu, of_gpu = EXTRACTORS[name]
        manifest, features = MANIFESTS[name], load(device)
        if not manifest.weights_sha256:
            manifest = replace(manifest, weights_sha256=weights.source_sha256(name))
        if (name, device) not in _reproduced:
            golden.check(name, manifest.golden, features, device)
            _reproduced.add((name, device))
    elif name.endswith(custom.SUFFIXES):
        manifest, features = custom.load_torchscript(Path(name), device)
    elif ":" in name:
        manifest, features = custom.load_factory(name, device)
    else:
        known = f"{', '.join(EXTRACTORS)}, a TorchScript file ({', '.join(custom.SUFFIXES)}) or module:factory"
        raise Refusal(f"unknown extractor {name!r}{did_you_mean(name, list(EXTRACTORS))}; known: {known}")
    return Extractor(manifest=manifest, device=device, batch_size=of_cpu if device.type == "cpu" else of_gpu, features=features)
