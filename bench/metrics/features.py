"""Clips in, features out: extraction in batches, and a cache of features that a hash protects. Knows neither distances nor names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from bench.metrics.extractor import Extractor
from bench.shapes import check_shape

Progress = Callable[[int, int], None]  # (clips done, clips in all)


def check_frames(extractor: Extractor, frames: np.ndarray) -> None:
    """ValueError unless `frames` are uint8 (N, T, H, W, 3) clips that the extractor can take."""
    if frames.dtype != np.uint8:
        hint = "multiply by 255 and round" if np.issubdtype(frames.dtype, np.floating) else "convert them"
        raise ValueError(f"frames must be uint8 in 0..255, got {frames.dtype}; {hint} first, so that every metric sees the same pixels")
    check_shape("frames", frames, (None, None, None, None, 3))
    if min(frames.shape) < 1:
        raise ValueError(f"frames have an empty axis: {frames.shape}")
    manifest, num_frames = extractor.manifest, frames.shape[1]
    if num_frames < manifest.min_frames:
        raise ValueError(f"extractor {manifest.name!r} needs at least {manifest.min_frames} frames a clip, got {num_frames}")
    if manifest.max_frames is not None and num_frames > manifest.max_frames:
        raise ValueError(f"extractor {manifest.name!r} takes at most {manifest.max_frames} frames a clip, got {num_frames}")


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
        "manifest": json.dumps(dataclasses.asdict(extractor.manifest), sort_keys=True),
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
