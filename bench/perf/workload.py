"""An opened benchmark: its step, where the step's time goes, and what can be counted of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.meters.clock import StepTimer, synchronize
from bench.meters.operators import OperatorCounter, count_kernels
from bench.meters.storage import StorageMeter, held_bytes

WARMUP_STEPS = 3
COUNTED_STEPS = 2  # two, so that what one step leaves behind is seen by the next


@dataclass(kw_only=True)
class Workload:
    """One benchmark, ready to step."""

    step: Callable[[], object]
    device: torch.device
    alive: Callable[[], Any] = list  # tensors that live as long as the workload, in any nesting
    parts: dict[str, StepTimer] = field(default_factory=dict)  # data, forward, backward, optimiser: timers inside the step
    counts: Callable[[], dict[str, int]] = dict  # counters of its own: parameters, FLOPs

    def timed_step(self) -> tuple[float, dict[str, float]]:
        """(seconds of one step, the device waited for at both ends; seconds of each part and of the rest)."""
        synchronize(self.device)
        start_s = time.perf_counter()
        self.step()
        synchronize(self.device)
        total_s = time.perf_counter() - start_s
        parts = {name: sum(timer.read()) for name, timer in self.parts.items()}
        if parts:
            parts["rest"] = total_s - sum(parts.values())
        return total_s, parts

    def counters(self) -> dict[str, int]:
        """Exact counters, the same on every run of the same code: gated exactly, on any machine."""
        with StorageMeter(self.alive()) as storage, OperatorCounter() as operators:
            before_bytes = storage.alive_bytes
            for _ in range(COUNTED_STEPS):
                self.step()
            kept_bytes = storage.alive_bytes - before_bytes
        counters = {
            "operators": operators.num_operators,
            "peak_storage_bytes": storage.peak_bytes,
            "kept_bytes": kept_bytes,  # what the steps leave behind: more of it with every step is a leak
            "held_bytes": held_bytes(),  # at rest, by anything: a tensor kept once, in a cache, is no part of what steps allocate
            **self.counts(),
        }
        if self.device.type == "cuda":
            counters["kernels"] = count_kernels(self.step)
        for timer in self.parts.values():
            timer.read()
        return counters


def warm_up(workload: Workload) -> None:
    """First steps, which allocate, choose kernels and fill caches."""
    for _ in range(WARMUP_STEPS):
        workload.timed_step()
