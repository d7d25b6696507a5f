"""What the device says of itself: energy, this process's memory, and whether another process was there. CUDA through NVML."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch

from bench.records.environment import own_cpus

PACKAGES = Path("/sys/class/powercap")  # energy counters of processor packages, where the system shows them


class EnergyMeter:
    """Joules of the whole device since it was made, other processes' work included."""

    def __init__(self, device: torch.device):
        self._device = device
        self._start = _energy(device)

    def joules(self) -> float | None:
        """None where the device does not report its energy."""
        now = _energy(self._device)
        if now is None or self._start is None:
            return None
        # A package's counter starts again from 0 at its limit.
        return sum(end - start if end >= start else end - start + limit for (start, _), (end, limit) in zip(self._start, now, strict=True))


class Neighbours:
    """Whether other processes were on the device: they make a timing worthless on a GPU, and slow on a CPU."""

    def __init__(self, device: torch.device):
        self._device = device
        self.most_others = 0  # processes on the GPU beside this one, at any look
        self._start_s = time.perf_counter()
        self._start_cpu_s = _cpu_times_s()
        self.look()

    def look(self) -> None:
        """Count who is on the GPU now; nothing to do on a CPU."""
        if self._device.type != "cuda":
            return
        with contextlib.suppress(pynvml.NVMLError):
            processes = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(_handle(self._device))}
            # In a container this process may go by another number: without its own on the list, one of them is this one.
            self.most_others = max(self.most_others, len(processes) - 1)

    def cpu_share(self, of_all: Callable[[float], float] = lambda own_s: own_s) -> float:
        """Part of the processors that this process may use that others took since the start, in [0, 1].

        `of_all`: seconds that this process used -> those of all that work with it on these processors.
        """
        busy_s, own_s = (end - start for start, end in zip(self._start_cpu_s, _cpu_times_s(), strict=True))
        own_s = of_all(own_s)
        available_s = (time.perf_counter() - self._start_s) * len(own_cpus())
        return min(1.0, max(0.0, (busy_s - own_s) / available_s))


def own_bytes(device: torch.device) -> int | None:
    """What the driver counts as this process's on a CUDA device: context, kernels and libraries too. None where it does not tell."""
    with contextlib.suppress(pynvml.NVMLError):
        used = {process.pid: process.usedGpuMemory for process in pynvml.nvmlDeviceGetComputeRunningProcesses(_handle(device))}
        # By another number, as in a container, it is told apart where it is alone.
        return used.get(os.getpid(), next(iter(used.values())) if len(used) == 1 else None)
    return None


def _energy(device: torch.device) -> list[tuple[float, float]] | None:
    """(joules so far, where the counter starts again) of each part of the device."""
    if device.type == "cuda":
        with contextlib.suppress(pynvml.NVMLError):
            return [(pynvml.nvmlDeviceGetTotalEnergyConsumption(_handle(device)) / 1000, 0.0)]
        return None
    parts = []
    for zone in sorted(PACKAGES.glob("intel-rapl:?")):  # AMD's too
        try:
            joules, limit = (int((zone / name).read_text()) / 1e6 for name in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):
            return None
        parts.append((joules, limit))
    return parts or None


def _handle(device: torch.device) -> Any:
    """NVML's handle of a CUDA device, by its identity: CUDA_VISIBLE_DEVICES changes numbers."""
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _cpu_times_s() -> tuple[float, float]:
    """Seconds that the processors this process may use were busy, and that this process used."""
    every = psutil.cpu_times(percpu=True)
    busy_s = sum(sum(every[cpu]) - every[cpu].idle - getattr(every[cpu], "iowait", 0.0) for cpu in own_cpus() if cpu < len(every))
    own = psutil.Process().cpu_times()
    return busy_s, own.user + own.system
