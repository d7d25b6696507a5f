"""Files a cell leaves beside its record: lossless samples, features, averaged weights. Each is written whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS = "averaged.safetensors"  # the averaged weights of a trained cell
FEATURES = "features.safetensors"  # of generated, real and reconstructed clips, for others to score again
SHEET = "sheet.npz"  # the few clips that a report shows


def save_arrays(path: Path, **arrays: Any) -> None:
    """A compressed .npz. OSError where it cannot be written."""
    _atomically(path, ".npz", lambda temp: np.savez_compressed(temp, **arrays))


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file. OSError where it cannot be written."""
    # Clones: safetensors refuses tensors that share storage, such as views of one buffer.
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    _atomically(path, "", lambda temp: save_file(content, temp))


def _atomically(path: Path, suffix: str, write: Callable[[Path], None]) -> None:
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")  # numpy adds .npz to a name without it
    try:
        write(temp)
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
