"""Clocks: raw times, pauses left out, and the parts of a step."""

import time

import torch

from bench.meters.clock import StepTimer, StopWatch

CPU = torch.device("cpu")


def test_step_timer_keeps_raw_times() -> None:
    timer = StepTimer(CPU)
    for duration_s in (0.01, 0.03):
        with timer.step():
            time.sleep(duration_s)
    times = timer.read()
    assert len(times) == 2
    assert times[0] >= 0.01
    assert times[1] >= 0.03
    assert timer.read() == []


def test_a_timed_function_is_the_function() -> None:
    timer = StepTimer(CPU)

    def add(a: int, *, b: int) -> int:
        """Sum."""
        return a + b

    timed = timer.timed(add)
    assert [timed(1, b=2), timed(3, b=4)] == [3, 7]
    assert timed.__doc__ == "Sum."
    assert len(timer.read()) == 2


def test_stop_watch_leaves_pauses_out() -> None:
    watch = StopWatch(CPU, elapsed_s=100.0)
    time.sleep(0.1)
    with watch.pause():
        inside_s = watch.elapsed_s()
        time.sleep(0.5)
        assert watch.elapsed_s() == inside_s
    assert 100.1 <= inside_s <= watch.elapsed_s() < 100.5
