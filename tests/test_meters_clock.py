"""Clocks: raw times, pauses left out, and the parts of a step."""

import time

import pytest
import torch

from bench.meters.clock import StepTimer, StopWatch, mark, synchronize
from tests.late_device import LateDevice

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


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


def test_a_mark_is_where_the_device_gets_to_and_not_where_the_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    device = LateDevice(monkeypatch)
    device.work(5.0)
    watch = StopWatch(CUDA, elapsed_s=100.0)  # waits until the device is idle
    marks = []
    for _ in range(3):
        device.work(2.0)
        device.host_s += 0.25
        marks.append(mark(CUDA))
    assert watch.elapsed_s() == 100.75
    assert [watch.at(moment) for moment in marks] == [102.0, 104.0, 106.0]
    with watch.pause():
        assert watch.elapsed_s() == 106.0
        device.work(50.0)  # a validation
    device.work(1.0)
    moment = mark(CUDA)
    synchronize(CUDA)
    assert (watch.at(moment), watch.elapsed_s()) == (107.0, 107.0)


def test_marks_of_a_cpu_are_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    host = LateDevice(monkeypatch)
    watch = StopWatch(CPU, elapsed_s=10.0)
    host.host_s += 0.5
    assert watch.at(mark(CPU)) == watch.elapsed_s() == 10.5
