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


Mark = Any  # a moment of a device: a CUDA event, which tells its time once the device got there; the clock in seconds on a CPU


def mark(device: torch.device) -> Mark:
    """The moment at which the device is through with all that it was given so far. Waits for nothing."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: Mark, end: Mark) -> float:
    """From one mark of a device to another. On CUDA it must have got to both."""
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000


class StepTimer:
    """Time of each step without waiting for the device: CUDA events, read back later; the clock on a CPU."""

    def __init__(self, device: torch.device):
        self._device = device
        self._pending: list[tuple[Mark, Mark]] = []

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, each call of it recorded as a step."""
        return self.step()(function)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Record the block as one step."""
        start = mark(self._device)
        yield
        self._pending.append((start, mark(self._device)))

    def read(self) -> list[float]:
        """Seconds of the steps recorded since the last read. On CUDA this waits for them."""
        return [seconds_between(start, end) for start, end in self.read_marks()]

    def read_marks(self) -> list[tuple[Mark, Mark]]:
        """Start and end of each of the same steps."""
        pending, self._pending = self._pending, []
        if pending and self._device.type == "cuda":
            pending[-1][1].synchronize()
        return pending


class StopWatch:
    """Wall clock of a loop, with pauses (checkpoints, validation) left out; the device is waited for at both ends of a pause."""

    def __init__(self, device: torch.device, elapsed_s: float = 0.0):
        self._device = device
        self._started_s: float | None = None  # of the host's clock; None in a pause
        self._go_on(elapsed_s)

    def elapsed_s(self) -> float:
        """Seconds so far on the host's clock, pauses excluded. Does not wait for the device, which may be steps behind."""
        return self._elapsed_s + (0.0 if self._started_s is None else time.perf_counter() - self._started_s)

    def at(self, moment: Mark) -> float:
        """Seconds of the loop at a mark made since the last pause. On CUDA the device must have got there."""
        return self._at_origin_s + seconds_between(self._origin, moment)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the block out."""
        synchronize(self._device)
        self._elapsed_s, self._started_s = self.elapsed_s(), None
        try:
            yield
        finally:
            self._go_on(self._elapsed_s)

    def _go_on(self, elapsed_s: float) -> None:
        """Start to count, with the device idle: its marks and the host's clock then have one origin."""
        self._elapsed_s = self._at_origin_s = elapsed_s
        synchronize(self._device)
        self._started_s = time.perf_counter()
        self._origin = mark(self._device)
