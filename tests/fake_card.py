"""A GPU's memory in numbers that a test sets: what CUDA's allocator counts, and what the driver says of processes."""

from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch

from bench.meters import device

CUDA = torch.device("cuda")


def running(monkeypatch: pytest.MonkeyPatch, processes: Mapping[int, int | None]) -> None:
    """Processes on the GPU, and the bytes of each; None: the driver does not tell."""
    monkeypatch.setattr(device, "_handle", lambda device: None)
    found = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes.items()]
    monkeypatch.setattr(device.pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: found)


class FakeCard:
    """In the place of `torch.cuda`'s allocator; names as in `torch.cuda.memory_stats`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.allocated = self.reserved = self.split = 0  # peaks
        self.retries = self.ooms = 0
        self.done: list[str] = []
        monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: self._stats())
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: self.done.append("emptied"))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: self._reset())
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        running(monkeypatch, {})

    def _stats(self) -> dict[str, int]:
        peaks = {"allocated_bytes": self.allocated, "reserved_bytes": self.reserved, "inactive_split_bytes": self.split}
        found = {f"{name}.all.peak": value for name, value in peaks.items()}
        return {**found, "allocated_bytes.all.current": 1, "num_alloc_retries": self.retries, "num_ooms": self.ooms}

    def _reset(self) -> None:
        self.done.append("reset")
        self.allocated = self.reserved = self.split = 0
