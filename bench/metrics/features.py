"""Clips in, features out: the table of extractors, extraction in batches, and a cache of features that a hash protects.

Knows neither distances nor what a metric is called.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import weights
from bench.backbone import did_you_mean
from bench.metrics import i3d
from bench.metrics.protocol import DIMS, MIN_FRAMES
from bench.shapes import check_shape

Progress = Callable[[int, int], None]  # (clips done, clips in all)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network that turns clips into features, with all that identifies it."""

    name: str  # as in a metric's name
    dim: int  # features a clip
    min_frames: int  # fewest frames a clip may have
    preprocessing: str  # what happens to the frames first, with a version
    weights_sha256: str
    device: torch.device
    batch_size: int  # clips at once, what is fastest; does not change a value
    features: Callable[[Tensor], Tensor]  # frames (B, T, H, W, 3) uint8 on `device` -> (B, dim) float32


def i3d_extractor(device: torch.device) -> Extractor:
    network = i3d.load_i3d(device)
    return Extractor(
        name="i3d",
        dim=DIMS["i3d"],
        min_frames=MIN_FRAMES["i3d"],
        preprocessing=i3d.PREPROCESSING,
        weights_sha256=weights.source_sha256("i3d"),
        device=device,
        batch_size=2 if device.type == "cpu" else 16,  # on two cores larger batches leave the cache and are slower
        features=lambda frames: network(i3d.preprocess(frames)),
    )


class Random3D(nn.Module):
    """Two random 3-D convolutions; mean and spread of 64 channels over the clip. A control, and a stand-in where there are no weights.

    What it scores well by is what any network of this shape sees, so an extractor worth its name must do better.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("first", (32, 3, 2, 5, 5)), ("second", (64, 32, 2, 3, 3))):
            fan_in = shape[1] * shape[2] * shape[3] * shape[4]
            self.register_buffer(name, torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5)  # keeps the variance through relu

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        clips = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, 3, T, H, W)
        with i3d.exact_float32(), torch.autocast(frames.device.type, enabled=False):
            x = F.conv3d(clips, self.get_buffer("first"), stride=(1, 2, 2), padding=(0, 2, 2)).relu_()  # (B, 32, T-1, H/2, W/2)
            x = F.conv3d(x, self.get_buffer("second"), stride=(1, 2, 2), padding=(1, 1, 1)).relu_()  # (B, 64, T, H/4, W/4)
        flat = x.flatten(2)  # (B, 64, T*H*W/16)
        return torch.cat([flat.mean(2), flat.std(2, correction=0)], dim=1)  # (B, 128)


def random3d_extractor(device: torch.device) -> Extractor:
    network = Random3D()
    digest = hashlib.sha256(b"".join(buffer.numpy().tobytes() for buffer in network.buffers())).hexdigest()
    return Extractor(
        name="random3d",
        dim=DIMS["random3d"],
        min_frames=MIN_FRAMES["random3d"],
        preprocessing="none/1",
        weights_sha256=digest,
        device=device,
        batch_size=16,
        features=network.to(device).eval(),
    )


EXTRACTORS: dict[str, Callable[[torch.device], Extractor]] = {
    "i3d": i3d_extractor,
    "random3d": random3d_extractor,
}


def load_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """The extractor `name`, ready on `device`. ValueError for an unknown name, WeightsError where its weights are missing."""
    if name not in EXTRACTORS:
        raise ValueError(f"unknown extractor {name!r}{did_you_mean(name, list(EXTRACTORS))}; known: {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](torch.device(device))


def check_frames(extractor: Extractor, frames: np.ndarray) -> None:
    """ValueError unless `frames` are uint8 (N, T, H, W, 3) clips that the extractor can take."""
    if frames.dtype != np.uint8:
        hint = "multiply by 255 and round" if np.issubdtype(frames.dtype, np.floating) else "convert them"
        raise ValueError(f"frames must be uint8 in 0..255, got {frames.dtype}; {hint} first, so that every metric sees the same pixels")
    check_shape("frames", frames, (None, None, None, None, 3))
    if min(frames.shape) < 1:
        raise ValueError(f"frames have an empty axis: {frames.shape}")
    if frames.shape[1] < extractor.min_frames:
        raise ValueError(f"extractor {extractor.name!r} needs at least {extractor.min_frames} frames a clip, got {frames.shape[1]}")


def extract(extractor: Extractor, frames: np.ndarray, progress: Progress | None = None, batch_size: int | None = None) -> np.ndarray:
    """Features (N, D) float32 of frames (N, T, H, W, 3) uint8, which may be a memory map: one batch is in memory at a time."""
    check_frames(extractor, frames)
    batch_size = extractor.batch_size if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    features = np.empty((len(frames), extractor.dim), np.float32)
    for start in range(0, len(frames), batch_size):
        batch = torch.from_numpy(np.array(frames[start : start + batch_size]))
        features[start : start + len(batch)] = extractor.features(batch.to(extractor.device)).cpu().numpy()
        if progress is not None:
            progress(start + len(batch), len(frames))
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise ValueError(f"extractor {extractor.name!r} gave NaN or infinite features for {bad.sum()} clips, first for clip {bad.argmax()}")
    return features


def hash_frames(frames: np.ndarray) -> str:
    """SHA-256 of shape and pixels, a clip in memory at a time."""
    digest = hashlib.sha256(f"{frames.dtype} {frames.shape}".encode())
    for clip in frames:
        digest.update(clip.tobytes())
    return digest.hexdigest()


def cached_features(
    extractor: Extractor, frames: np.ndarray, clips_digest: str | None, cache: Path, progress: Progress | None = None
) -> np.ndarray:
    """`extract`, kept in the folder `cache` under the hash of all that determines the features; None hashes the frames themselves.

    A file that fails its hash is computed again, with a warning.
    """
    check_frames(extractor, frames)
    identity = {
        "extractor": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "preprocessing": extractor.preprocessing,
        "clips": clips_digest or hash_frames(frames),
        "shape": "x".join(map(str, frames.shape)),
        "device": extractor.device.type,
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    file = cache / f"{extractor.name}-{key[:16]}.safetensors"
    if file.exists():
        try:
            return read_features(file, identity, (len(frames), extractor.dim))
        except (ValueError, OSError, safetensors.SafetensorError) as error:
            warnings.warn(f"cached features {file} are unusable and will be computed again: {error}", stacklevel=2)
    features = extract(extractor, frames, progress)
    metadata = identity | {"sha256": hashlib.sha256(features.tobytes()).hexdigest()}
    cache.mkdir(parents=True, exist_ok=True)
    temp = file.with_suffix(f".{os.getpid()}.tmp")
    temp.write_bytes(safetensors.numpy.save({"features": features}, metadata=metadata))
    temp.replace(file)
    return features


def read_features(file: Path, identity: dict[str, str], shape: tuple[int, int]) -> np.ndarray:
    """Features (N, D) of a cache file. ValueError unless it is whole and made for `identity`."""
    with safetensors.safe_open(file, framework="np") as opened:
        metadata = opened.metadata() or {}
        features = opened.get_tensor("features")
    if {key: metadata.get(key) for key in identity} != identity:
        raise ValueError("it was made for something else")
    if features.shape != shape or features.dtype != np.float32 or hashlib.sha256(features.tobytes()).hexdigest() != metadata.get("sha256"):
        raise ValueError("it is damaged")
    return features
