"""`acceleration.compile: auto`: the ways to run a contender's step, tried on the cell's own first batches, and the fastest kept.

What a way computes is the same, and a trial leaves no trace: weights, optimiser, average, random numbers and draws are as if none had been.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bench.meters.clock import synchronize
from bench.records.record import AccelerationTrial
from bench.training.half_weights import undisturbed
from bench.training.step import TrainStep

WARM_UP, TIMED = 3, 8  # passes of each way
MOST_S = 600.0  # of all ways together; what has not begun by then is not tried
# Largest relative difference of a loss from that of the way as it is: orders of sums differ, and in half precision roundings do.
TOLERANCE = {None: 1e-4, torch.bfloat16: 2e-2}


def candidates(device: torch.device, *, has_blocks: bool, one_shape: bool) -> list[str]:
    """The ways that are tried: values of `acceleration.compile`.

    On a CPU the way as it is alone: compiling takes minutes there, for about a tenth of the time of a step, and there is no graph to
    capture. Whoever has hours of steps asks for `blocks`.
    """
    if device.type != "cuda":
        return ["none"]
    return ["none", *(["graphs"] if one_shape else []), *(["blocks"] if has_blocks else [])]  # what takes longest last


def choose(step: TrainStep, ways: list[str], apply: Callable[[str, Any], None], batches: list[Any]) -> AccelerationTrial:
    """The fastest of the ways, by forward and backward. `apply(way, batch)` makes the step run so; `batches` are what a run draws."""
    if len(ways) == 1:
        return AccelerationTrial(chosen=ways[0])
    times: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    expected: list[float] = []
    start_s = time.perf_counter()
    for way in ways:
        if time.perf_counter() - start_s > MOST_S:
            reasons[way] = f"no time was left of {MOST_S:g} s"
            continue
        try:
            with _without_trace(step):
                apply(way, batches[0])
                found = [_timed(step, batches[number % len(batches)]) for number in range(WARM_UP + TIMED)]
        except RuntimeError as error:  # of a compiler, a capture, or for want of memory: the way is not on offer here
            reasons[way] = " ".join(str(error).split())[:200] or type(error).__name__
            continue
        losses = [loss for loss, _ in found]
        expected = expected or losses
        gap = max(abs(loss - right) / abs(right) for loss, right in zip(losses, expected, strict=True))
        if gap <= TOLERANCE[step.half]:
            times[way] = [seconds for _, seconds in found[WARM_UP:]]
        else:
            reasons[way] = f"its losses differ by {gap:.2g}"
    if not times:
        raise RuntimeError(f"no way to run the step: {reasons}")
    fastest = min(times, key=lambda way: statistics.median(times[way]))
    return AccelerationTrial(chosen=fastest, pass_time_s=times, left_out=reasons, wall_time_s=time.perf_counter() - start_s)


def _timed(step: TrainStep, batch: Any) -> tuple[float, float]:
    """Loss of a pass, and its seconds."""
    synchronize(step.device)
    start_s = time.perf_counter()
    loss = batch.loss(step.predict)
    step.backward(loss)
    synchronize(step.device)
    seconds = time.perf_counter() - start_s
    step.optimizer.zero_grad(set_to_none=True)
    return loss.item(), seconds


@contextmanager
def _without_trace(step: TrainStep) -> Iterator[None]:
    """Random numbers are the same for every way, and afterwards as before; no gradient is left."""
    with undisturbed(step.backbone):
        try:
            yield
        finally:
            step.optimizer.zero_grad(set_to_none=True)
