"""Warm-up is found in the data: its end is planted, and found."""

import random

import pytest

from bench.meters.warmup import num_warmup_steps


def noisy(num: int, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [generator.lognormvariate(0, 0.05) for _ in range(num)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("planted", [1, 3, 12, 40])
def test_a_planted_warm_up_is_found(planted: int, seed: int) -> None:
    times = noisy(200, seed)
    for step in range(planted):
        times[step] *= 3 - 1.5 * step / planted  # from three times down to one and a half
    assert planted <= num_warmup_steps(times) <= planted + 5


@pytest.mark.parametrize("seed", range(5))
def test_steady_steps_lose_the_first_alone_or_little_more(seed: int) -> None:
    assert 1 <= num_warmup_steps(noisy(200, seed)) <= 5


def test_one_slow_step_in_the_middle_is_no_warm_up() -> None:
    times = noisy(200, 0)
    times[50] *= 10
    assert num_warmup_steps(times) <= 5


def test_a_machine_that_slows_down_is_not_warming_up() -> None:
    assert num_warmup_steps([1.0] * 100 + [1.3] * 100) == 1


def test_short_runs() -> None:
    assert [num_warmup_steps([1.0] * num) for num in (0, 1, 4, 5, 9)] == [0, 0, 0, 1, 1]
    assert num_warmup_steps([9.0] * 5 + [1.0] * 5) == 5
