"""Memory as the system and the allocator see it."""

import contextlib
import gc
import resource
from pathlib import Path

import psutil
import torch


class PhaseMemory:
    """Peak memory of one phase of the process: resident set on every machine, the allocator's two numbers on CUDA."""

    def __init__(self, device: torch.device):
        self._device = device
        self._resettable = False

    def start(self) -> None:
        """Forget the peaks so far, where the system allows it, and give cached blocks back, which would count as reserved."""
        gc.collect()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: set the resident peak back to the resident size
            self._resettable = True
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)

    def peaks(self) -> dict[str, int]:
        """Bytes since `start`: `peak_rss_bytes`, and on CUDA `peak_allocated_bytes` and `peak_reserved_bytes`."""
        peaks = {"peak_rss_bytes": _peak_rss_bytes() if self._resettable else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self._device.type == "cuda":
            peaks["peak_allocated_bytes"] = torch.cuda.max_memory_allocated(self._device)
            peaks["peak_reserved_bytes"] = torch.cuda.max_memory_reserved(self._device)
        return peaks


def _peak_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ended, a device's or the host's: torch's CPU allocator raises a plain RuntimeError."""
    kinds = torch.OutOfMemoryError | MemoryError  # as a plug-in's fault it is the cause of what was raised
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds) or "can't allocate memory" in str(error)
