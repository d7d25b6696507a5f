"""Time without waiting for the device: of steps, of the parts of a step, and of a loop with its pauses left out."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the device; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StepTimer:
    """Time of each step without waiting for the device: CUDA events, read back later; the clock on a CPU."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._pending: list[tuple[Any, Any]] = []

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, each call of it recorded as a step."""
        return self.step()(function)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Record the block as one step."""
        start = self._mark()
        yield
        self._pending.append((start, self._mark()))

    def read(self) -> list[float]:
        """Seconds of the steps recorded since the last read. On CUDA this waits for them."""
        pending, self._pending = self._pending, []
        if not self._cuda:
            return [end - start for start, end in pending]
        if pending:
            pending[-1][1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pending]

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class StopWatch:
    """Wall clock of a loop, with pauses (checkpoints, validation) left out; the device is waited for at both ends of a pause."""

    def __init__(self, device: torch.device, elapsed_s: float = 0.0):
        self._device = device
        self._elapsed_s = elapsed_s
        synchronize(device)
        self._started_s: float | None = time.perf_counter()  # None in a pause

    def elapsed_s(self) -> float:
        """Seconds so far, pauses excluded. Does not wait for the device."""
        return self._elapsed_s + (0.0 if self._started_s is None else time.perf_counter() - self._started_s)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the block out."""
        synchronize(self._device)
        self._elapsed_s, self._started_s = self.elapsed_s(), None
        try:
            yield
        finally:
            synchronize(self._device)
            self._started_s = time.perf_counter()
