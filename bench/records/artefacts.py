"""Files a cell leaves beside its record: lossless samples, features, averaged weights. Each is written whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.files import replacing, rust_errors
from bench.data.media.arrays import read_npz
from bench.data.ragged import Frames, Ragged, clip_shapes
from bench.shapes import Refusal, bounding_shape, told_of

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "averaged.safetensors"  # the averaged weights of a trained cell
FEATURES = "features.safetensors"  # of generated, real and reconstructed clips, for others to score again
PHYSICS = "physics.npz"  # scores clip by clip, readings and frames of a physics world, by region
SHEET = "sheet.npz"  # the few clips that a report shows
POINT = "point-"  # averaged weights at a point of the training, until they were sampled
GREY = 128  # around clips that are smaller than others


def point_file(part: float) -> str:
    """Name of the averaged weights at a part of the budget."""
    return f"{POINT}{part:g}.safetensors"


def save_arrays(path: Path, **arrays: Any) -> None:
    """A compressed .npz. StoreError where it cannot be written."""
    with replacing(path) as temp, temp.open("wb") as file:  # to a name numpy would add .npz
        np.savez_compressed(file, **arrays)


def save_frames(path: Path, frames: Frames, **arrays: Any) -> None:
    """Clips as `frames` (N, T, H, W, 3); of many shapes as `frames`, one behind the other, and `shapes` (N, 4). StoreError as above."""
    stored = {"frames": frames.flat, "shapes": np.array(frames.shapes)} if isinstance(frames, Ragged) else {"frames": frames}
    save_arrays(path, **stored, **arrays)


def load_frames(path: Path) -> Frames:
    """What `save_frames` left. Refusal, with the file, where it is not that."""
    with told_of(f"{path} is damaged"):
        arrays = read_npz(path)
        if "frames" not in arrays:
            raise Refusal("has no frames")
    frames, shapes = arrays["frames"], arrays.get("shapes")
    if shapes is not None:
        if shapes.ndim != 2 or shapes.dtype.kind != "i":
            raise Refusal(f"{path} is damaged (shapes {shapes.dtype} {shapes.shape})")
        with told_of(f"{path} is damaged"):
            return Ragged(frames, shapes.tolist())
    if frames.ndim != 5:
        raise Refusal(f"{path} is damaged (frames of shape {frames.shape})")
    return np.asarray(frames)


def framed(frames: Frames) -> np.ndarray:
    """Clips as one array (N, T, H, W, 3): those of many shapes on a grey ground as large as the largest, a short one's last frame held."""
    if not isinstance(frames, Ragged):
        return np.array(frames)
    num_frames, height, width = bounding_shape(clip_shapes(frames))
    canvas = np.full((len(frames), num_frames, height, width, 3), GREY, np.uint8)
    for target, clip in zip(canvas, frames, strict=True):
        top, left = (height - clip.shape[1]) // 2, (width - clip.shape[2]) // 2
        held = clip[np.minimum(np.arange(num_frames), len(clip) - 1)]
        target[:, top : top + clip.shape[1], left : left + clip.shape[2]] = held
    return canvas


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file that says in its header what is in it. StoreError where it cannot be written."""
    from safetensors.torch import save_file

    # Clones: safetensors refuses tensors that share storage, such as views of one buffer.
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    with replacing(path) as temp, rust_errors():
        save_file(content, temp, metadata={"sha256": content_sha256(content)})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What `save_tensors` left. Refusal, with the file, where it is not that."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            content, metadata = {name: file.get_tensor(name) for name in sorted(file.keys())}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise Refusal(f"{path} is no file of weights, or is cut short ({error})") from error
    if metadata.get("sha256") != content_sha256(content):
        raise Refusal(f"{path} is not what was written: it is damaged, or was edited")
    return content


def content_sha256(content: Any) -> str:
    """SHA-256 of dicts and lists of tensors and plain values, types and shapes included."""
    import torch

    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                digest.update(f"{key!r}:".encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            digest.update(f"{len(value)} of ".encode())
            for each in value:
                add(each)
        elif isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{value!r};".encode())

    add(content)
    return digest.hexdigest()
