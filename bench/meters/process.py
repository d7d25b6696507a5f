"""The process that measures: its device, what float32 means in it, the memory that it keeps, and what its collections look at.

Memory: by default glibc hands large blocks back to the system, in some processes more than in others, and the next step fetches them
again, page by page: a quarter of a million page faults a gigabyte. `tox -e speed` shows what that costs.
"""

import ctypes
import gc

import torch

from bench.shapes import Refusal
from bench.study.cell import Cell

# Parameters of mallopt (malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT_BYTES = 2**30
MOST_BEFORE_2_35 = 2**25  # glibc before 2.35 refuses a larger threshold for mmap


def keep_freed_memory() -> bool:
    """Keep what is freed, up to a gigabyte. False where the C library has no such setting (musl, macOS): nothing is changed then."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mapped = mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) or mallopt(M_MMAP_THRESHOLD, MOST_BEFORE_2_35)
    return bool(mapped and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


def leave_out_imports() -> None:
    """Collections no longer look at what is there now: half a million objects of modules, a fifth of a second, ten times a cell."""
    gc.collect()
    gc.freeze()


def use_exact_float32() -> None:
    """Float32 means float32 for convolutions too: by default cuDNN rounds them to TF32, a gift to a backbone made of them."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


def pick_device(cell: Cell) -> torch.device:
    """The device of a cell. Refusal where it asks for CUDA and there is none."""
    if cell.device == "cuda" and not torch.cuda.is_available():
        raise Refusal("device 'cuda' is asked for and torch sees no CUDA device; use device=cpu or device=auto")
    return find_here(cell.device)


def find_here(device: str) -> torch.device:
    """The device that `device` (auto, cpu, cuda) is on this machine: a CPU where there is no CUDA."""
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What the record calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
