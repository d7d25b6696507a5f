"""Clips in, features out: extraction in batches, and a cache of features that a hash protects. Knows neither distances nor names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from bench.data.files import write_bytes
from bench.data.progress import Counted
from bench.data.ragged import Frames, Ragged, by_shape, clip_shapes, stacked
from bench.data.sealed import warn_damaged
from bench.metrics.extractors.manifest import Manifest
from bench.metrics.extractors.table import Extractor
from bench.shapes import Refusal, check_shape


class NotFinite(Refusal):
    """An extractor gave NaN or infinite features."""


def check_frames(extractor: Extractor, frames: Frames) -> None:
    """Refusal unless `frames` are uint8 (N, T, H, W, 3) clips, or clips of many shapes, that the extractor can take."""
    if frames.dtype != np.uint8:
        hint = "multiply by 255 and round" if np.issubdtype(frames.dtype, np.floating) else "convert them"
        raise Refusal(f"frames must be uint8 in 0..255, got {frames.dtype}; {hint} first, so that every metric sees the same pixels")
    if not isinstance(frames, Ragged):
        check_shape("frames", frames, (None, None, None, None, 3))
        if min(frames.shape) < 1:
            raise Refusal(f"frames have an empty axis: {frames.shape}")
    manifest, lengths = extractor.manifest, [shape[0] for shape in clip_shapes(frames)]
    for num_frames in (min(lengths), max(lengths)):
        manifest.check_frames(num_frames)


def extract(extractor: Extractor, frames: Frames, progress: Counted = lambda done, total: None) -> np.ndarray:
    """Features (N, D) float32 of frames (N, T, H, W, 3) uint8, which may be a memory map: one batch is in memory at a time.

    Clips of many shapes are extracted shape by shape, and come back in their order.
    """
    check_frames(extractor, frames)
    features = np.empty((len(frames), extractor.dim), np.float32)
    if isinstance(frames, Ragged):
        for members in by_shape(clip_shapes(frames)).values():
            features[members] = extract(extractor, np.stack([frames[index] for index in members]))
        return features
    for start in range(0, len(frames), extractor.batch_size):
        batch = torch.from_numpy(np.array(frames[start : start + extractor.batch_size]))
        features[start : start + len(batch)] = extractor.features(batch.to(extractor.device)).cpu().numpy()
        progress(start + len(batch), len(frames))
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise NotFinite(f"extractor {extractor.name!r} gave NaN or infinite features for {bad.sum()} clips, first for clip {bad.argmax()}")
    return features


def usable(manifest: Manifest, frames: Frames, most: int | None = None) -> Frames:
    """The clips that have as many frames as the extractor needs, the first `most` of them; of one shape all have, or none."""
    if not isinstance(frames, Ragged):
        return frames[:most]
    found = [clip for clip in frames if manifest.takes(len(clip))][:most]
    if not found:
        raise Refusal(f"extractor {manifest.name!r} needs {manifest.min_frames} frames a clip, and none of {len(frames)} has as many")
    return stacked(found, len(found))


def hash_frames(frames: Frames) -> str:
    """SHA-256 of shape and pixels, a clip in memory at a time."""
    shape = frames.shapes if isinstance(frames, Ragged) else frames.shape
    digest = hashlib.sha256(f"{frames.dtype} {shape}".encode())
    for clip in frames:
        digest.update(clip.tobytes())
    return digest.hexdigest()


def cached_features(
    extractor: Extractor, frames: Frames, clips_digest: str | None, cache: Path, progress: Counted = lambda done, total: None
) -> np.ndarray:
    """`extract`, kept in the folder `cache` under the hash of all that determines the features; None hashes the frames themselves.

    A file that fails its hash is computed again, with a warning.
    """
    check_frames(extractor, frames)
    identity = {
        "extractor": extractor.name,
        "manifest": json.dumps(dataclasses.asdict(extractor.manifest), sort_keys=True),
        "clips": clips_digest or hash_frames(frames),
        "shape": f"{len(frames)} of several" if isinstance(frames, Ragged) else "x".join(map(str, frames.shape)),
        "device": extractor.device.type,
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    file = cache / f"{extractor.name}-{key[:16]}.safetensors"
    if file.is_file():  # a pipe would be waited for
        try:
            return read_features(file, identity, (len(frames), extractor.dim))
        except (Refusal, OSError, safetensors.SafetensorError) as error:
            warn_damaged(f"cached features {file} are unusable and will be computed again: {error}")
    features = extract(extractor, frames, progress)
    metadata = identity | {"sha256": hashlib.sha256(features.tobytes()).hexdigest()}
    write_bytes(file, safetensors.numpy.save({"features": features}, metadata=metadata), "free space or choose another cache folder")
    return features


def read_features(file: Path, identity: dict[str, str], shape: tuple[int, int]) -> np.ndarray:
    """Features (N, D) of a cache file. Refusal unless it is whole and made for `identity`."""
    with safetensors.safe_open(file, framework="np") as opened:
        metadata = opened.metadata() or {}
        features = opened.get_tensor("features")
    if {key: metadata.get(key) for key in identity} != identity:
        raise Refusal("it was made for something else")
    if features.shape != shape or features.dtype != np.float32 or hashlib.sha256(features.tobytes()).hexdigest() != metadata.get("sha256"):
        raise Refusal("it is damaged")
    return features
