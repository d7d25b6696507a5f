"""Clips as array files: .npy and .npz, read without running anything, and what is said where they are not uint8 (N, T, H, W, 3)."""

import zipfile
from pathlib import Path

import numpy as np

from bench.shapes import Refusal

ARRAYS = (".npy", ".npz")


def load_array(path: Path) -> tuple[np.ndarray, list[str] | None, float | None]:
    """Frames (memory-mapped from .npy), and the labels and frame rate that an .npz may hold. Nothing pickled is loaded."""
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False), None, None
        with np.load(path, allow_pickle=False) as stored:
            name = "frames" if "frames" in stored.files or len(stored.files) != 1 else stored.files[0]
            arrays = {key: stored[key] for key in (name, "labels", "fps") if key in stored.files}
            names = ", ".join(stored.files) or "(none)"
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            raise Refusal("holds pickled objects, which could run code and are not loaded; save one plain uint8 array") from error
        raise Refusal("is not an array that numpy reads; it may be cut short") from error
    if name not in arrays:
        raise Refusal(f"has the arrays {names}; call the clips `frames`")
    labels = [str(label) for label in arrays["labels"].tolist()] if "labels" in arrays else None
    return arrays[name], labels, float(arrays["fps"]) if "fps" in arrays else None


def check_clips(frames: np.ndarray, ndims: tuple[int, ...]) -> None:
    """Refusal(reason with what would be right) unless `frames` are uint8, ... x T x H x W x 3, of one of `ndims` axes."""
    wanted = " or ".join({4: "(T, H, W, 3)", 5: "(N, T, H, W, 3)"}[ndim] for ndim in ndims)
    shape = frames.shape
    if frames.dtype.kind not in "uifb":
        raise Refusal(f"holds {frames.dtype}, expected uint8 frames {wanted}")
    if 0 in shape or not shape:
        raise Refusal(f"is empty: shape {shape}, expected {wanted}")
    if frames.ndim not in ndims or shape[-1] != 3:
        raise Refusal(f"has shape {shape}, expected {wanted}{_shape_hint(shape, ndims)}")
    if frames.dtype != np.uint8:
        found = f" from {np.nanmin(frames):.3g} to {np.nanmax(frames):.3g}" if np.isfinite(frames).any() else ""
        raise Refusal(f"has {frames.dtype} frames{found}, expected uint8 in 0..255; {_remedy(frames)}")


def _shape_hint(shape: tuple[int, ...], ndims: tuple[int, ...]) -> str:
    """What the axes probably are, and how they would be right."""
    ndim = len(shape)
    if ndim in ndims and shape[-1] == 4:
        return "; four channels: drop the last, frames[..., :3]"
    if ndim in ndims and shape[-1] == 1:
        return "; grey: repeat the channel, np.repeat(frames, 3, axis=-1)"
    if ndim in ndims and shape[-3] == 3:
        return "; channels before height: np.moveaxis(frames, -3, -1)"
    if ndim in ndims and shape[-4] == 3:
        return "; channels before time: np.moveaxis(frames, -4, -1)"
    if ndim == 4 and shape[-1] == 3:
        return "; one clip: put it into an array of many, or into a folder"
    if ndim + 1 in ndims:
        return "; grey: np.repeat(frames[..., None], 3, axis=-1)"
    return ""


def _remedy(frames: np.ndarray) -> str:
    if not np.isfinite(frames).all():
        return "some are NaN or infinite: find out why"
    if not np.issubdtype(frames.dtype, np.floating) or frames.max() > 2:
        return "round and clip them, np.clip(np.rint(frames), 0, 255).astype(np.uint8)"
    if frames.min() < 0:
        return "np.rint((frames.clip(-1, 1) + 1) * 127.5).astype(np.uint8), if they are in [-1, 1]"
    return "np.rint(frames * 255).astype(np.uint8), if they are in [0, 1]"
