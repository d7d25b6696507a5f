"""Steps measured on a device that is here: the memory of each backbone alone, then the time of all of them, their steps in turn."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bench.backbone import load_backbone
from bench.commands.profile.result import Timing
from bench.meters.clock import synchronize
from bench.meters.memory import PhaseMemory, is_out_of_memory, let_go
from bench.meters.warmup import num_warmup_steps
from bench.records.record import Memory
from bench.shapes import LatentSpec
from bench.training.predict import to_memory
from bench.training.step import StepBatch, Stepper, StepPoint, make_batch

SECONDS = 20.0  # of timing one phase, all backbones together
FEWEST_ROUNDS, MOST_ROUNDS = 3, 50
MEMORY_STEPS = 2  # under the allocator's eyes


@dataclass(frozen=True, kw_only=True)
class Request:
    """Backbones and the step of each that was asked for."""

    names: tuple[str, ...]
    spec: LatentSpec
    point: StepPoint
    precision: str  # key of DTYPES


class NotMeasured(Exception):
    """A step ran out of memory, or is not worth trying. A result, not a fault."""


def build(name: str, spec: LatentSpec, device: torch.device) -> Any:
    """A backbone with random weights on the device; the caller's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone: Any = load_backbone(name, spec)
    return backbone.to(device)


def measure_memory(request: Request, name: str, phase: str, device: torch.device) -> tuple[Memory, dict[str, int]]:
    """(storage peak of a step with its optimiser in place, peaks of CUDA's allocator) of a backbone that has the device to itself."""
    with out_of_memory():
        stepper, batch = _prepare(request, name, phase, device)
        stepper.step(phase, batch)
        with stepper.meter(phase, batch) as meter:
            stepper.step(phase, batch)
        peaks: dict[str, int] = {}
        if device.type == "cuda":
            memory = PhaseMemory(device)
            memory.start()
            for _ in range(MEMORY_STEPS):
                stepper.step(phase, batch)
            peaks = memory.peaks()
    return to_memory(meter), peaks


def try_step(request: Request, name: str, phase: str, device: torch.device) -> dict[str, int] | None:
    """What allocator and driver find in real steps of a backbone that has the device to itself; None where memory ended.

    The allocator's cache is empty before and after.
    """
    let_go(device)
    found = _tried(request, name, phase, device)
    let_go(device)  # here nothing holds what an error held: the frames that it passed through
    return found


def _tried(request: Request, name: str, phase: str, device: torch.device) -> dict[str, int] | None:
    try:
        stepper, batch = _prepare(request, name, phase, device)
        memory = PhaseMemory(device)
        memory.start()
        for _ in range(MEMORY_STEPS):
            stepper.step(phase, batch)
        synchronize(device)
        return memory.peaks()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def measure_times(
    request: Request, names: Sequence[str], phase: str, device: torch.device, tell: Callable[[str], None]
) -> dict[str, Timing]:
    """Steps of `names` in turn (A B, B A, ...), so that what else the machine does falls on all alike."""
    with out_of_memory():
        ready = {name: _prepare(request, name, phase, device) for name in names}
        steps: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in names}
        start_s, rounds = time.perf_counter(), 0
        while rounds < FEWEST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - start_s < SECONDS):
            if rounds % 10 == 0:  # a log has a line for what it is told
                tell(f"timing {phase} steps, round {rounds + 1}")
            for name in names if rounds % 2 == 0 else reversed(names):
                steps[name].append(timed_step(*ready[name], phase))
            rounds += 1
    found = {}
    for name, taken in steps.items():
        times_s = [step_time_s for step_time_s, _ in taken]
        parts_s = {part: [parts[part] for _, parts in taken] for part in taken[0][1]}
        found[name] = Timing(step_time_s=times_s, parts_s=parts_s, num_warmup_steps=num_warmup_steps(times_s))
    return found


def timed_step(stepper: Stepper, batch: StepBatch, phase: str) -> tuple[float, dict[str, float]]:
    """(seconds of one step, the device waited for at both ends; seconds of its parts)."""
    synchronize(stepper.device)
    start_s = time.perf_counter()
    stepper.step(phase, batch)
    synchronize(stepper.device)
    return time.perf_counter() - start_s, stepper.read_timers()


def measure_pairs(steppers: Sequence[Stepper], spec: LatentSpec, point: StepPoint, num_pairs: int) -> list[tuple[float, float]]:
    """Seconds of training steps of two backbones in turn, after one of each that is not counted."""
    with out_of_memory():
        batches = [make_batch(spec, point, "training", stepper.device) for stepper in steppers]
        pairs: list[tuple[float, float]] = []
        for index in range(num_pairs + 1):
            order = (0, 1) if index % 2 == 0 else (1, 0)
            times = {which: timed_step(steppers[which], batches[which], "training")[0] for which in order}
            pairs.append((times[0], times[1]))
    return pairs[1:]


@contextmanager
def out_of_memory() -> Iterator[None]:
    """NotMeasured where the device's memory ends inside; what was built there is let go of."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise NotMeasured("out of memory") from error
        raise
    finally:
        gc.collect()


def _prepare(request: Request, name: str, phase: str, device: torch.device) -> tuple[Stepper, StepBatch]:
    trains = phase == "training"
    stepper = Stepper(build(name, request.spec, device).train(trains), device, request.precision, trains=trains)
    return stepper, make_batch(request.spec, request.point, phase, device)
