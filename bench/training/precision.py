"""The precision in which a backbone runs: weights stay float32, `bf16` casts inside. One context for every call of a backbone."""

import contextlib
from collections.abc import Iterator

import torch

HALF: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}  # precision of a cell -> what autocast casts to


@contextlib.contextmanager
def autocast(device: torch.device, half: torch.dtype | None) -> Iterator[None]:
    """Autocast to `half`, or none. Where a fake CUDA device has no driver `torch.autocast` would switch itself off."""
    kind = device.type
    if half is None:
        yield
    elif kind == "cpu" or torch.cuda.is_available():
        with torch.autocast(kind, dtype=half):
            yield
    else:
        torch.set_autocast_enabled(kind, True)
        torch.set_autocast_dtype(kind, half)
        try:
            yield
        finally:
            torch.set_autocast_enabled(kind, False)
            torch.clear_autocast_cache()
