"""Memory as the system, CUDA's allocator and its driver see it: all that is asked of `torch.cuda` about memory is asked here."""

import contextlib
import gc
import resource
from pathlib import Path

import psutil
import torch

from bench.meters.device import own_bytes

# What is found on CUDA -> its name in `torch.cuda.memory_stats`, whose documentation says what each is. Peaks are set back at a start;
# events are counted since the process began.
_PEAKS = {
    "peak_allocated_bytes": "allocated_bytes.all.peak",
    "peak_reserved_bytes": "reserved_bytes.all.peak",
    "peak_inactive_split_bytes": "inactive_split_bytes.all.peak",  # free parts of blocks that were split: not to be given back
}
_EVENTS = {
    "num_alloc_retries": "num_alloc_retries",  # the card was full: the cache was emptied, and the allocation tried again
    "num_ooms": "num_ooms",  # errors thrown, caught ones too
}
FOUND = ("peak_rss_bytes", *_PEAKS, "peak_process_bytes", *_EVENTS)  # all that a phase may tell


class PhaseMemory:
    """Memory of one phase of the process: resident set on every machine; on CUDA what allocator and driver tell."""

    def __init__(self, device: torch.device):
        self._device = device
        self._resettable = False
        self._before = dict.fromkeys(_EVENTS, 0)

    def start(self) -> None:
        """Forget the peaks so far, where the system allows it, and give cached blocks back, which would count as reserved."""
        gc.collect()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: set the resident peak back to the resident size
            self._resettable = True
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = self._stats(_EVENTS)

    def peaks(self) -> dict[str, int]:
        """Bytes and counts since `start`, without one since the process began; names as in FOUND.

        `peak_rss_bytes`; on CUDA peaks of `allocated` and `reserved` bytes and of those that are `inactive_split`, `num_alloc_retries`
        and `num_ooms`; and `peak_process_bytes`, what the process has of the device now, with its context and libraries, where the
        driver tells.
        """
        peaks = {"peak_rss_bytes": _peak_rss_bytes() if self._resettable else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self._device.type == "cuda":
            events = self._stats(_EVENTS)
            peaks |= self._stats(_PEAKS)
            peaks |= {name: events[name] - before for name, before in self._before.items()}
            # The allocator gives nothing back of itself, so that now is the most so far, but for what a retry gave back.
            if (process_bytes := own_bytes(self._device)) is not None:
                peaks["peak_process_bytes"] = process_bytes
        return peaks

    def _stats(self, names: dict[str, str]) -> dict[str, int]:
        """Nothing where CUDA has not begun."""
        stats = torch.cuda.memory_stats(self._device)
        return {name: int(stats.get(key, 0)) for name, key in names.items()}


def let_go(device: torch.device) -> None:
    """Give back what nothing holds: cycles of objects, and on CUDA the allocator's cache."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _peak_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


# A CPU's allocator, CUDA itself, cuBLAS and cuDNN raise plain RuntimeErrors (torch's c10/core/impl/alloc_cpu.cpp,
# c10/cuda/CUDAException.cpp, aten/src/ATen/cuda/Exceptions.h).
_FULL = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ended, a device's or the host's."""
    kinds = torch.OutOfMemoryError | MemoryError  # as a plug-in's fault it is the cause of what was raised
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds) or any(text in str(error) for text in _FULL)
