"""Contenders that take turns: who is first, what a ratio is of, and the rows that are left for the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.perf.turns import RandomClips, alternate, dit, peak_bytes, report, step_s


class Bench:
    """pytest-benchmark's fixture, as far as it is used."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, call: Callable[[], None], *, rounds: int) -> None:
        for _ in range(rounds):
            call()


def test_another_one_is_first_each_time_and_ratios_are_of_pairs() -> None:
    called: list[str] = []
    seconds = {"ours": iter([9.0, 1.0, 2.0, 4.0]), "theirs": iter([9.0, 3.0, 4.0, 20.0])}

    def taken(name: str) -> float:
        called.append(name)
        return next(seconds[name])

    benchmark = Bench()
    ratios = alternate(benchmark, 3, {name: lambda name=name: taken(name) for name in seconds})  # type: ignore[misc]
    assert ratios == {"theirs": [3.0, 2.0, 5.0]}  # less the warm-up
    assert called == ["ours", "theirs"] * 2 + ["theirs", "ours", "ours", "theirs"]
    report(benchmark, "rivals", "a case", ratios, threads=1)
    (row,) = benchmark.extra_info["rows"]
    assert list(row) == ["table", "case", "against", "threads", "ratio", "low", "high", "pairs"]
    assert (row["against"], row["ratio"], row["pairs"]) == ("theirs", 3.0, 3)


def test_calls_of_a_round_are_made_from_its_number_and_repeated_where_shapes_are_new() -> None:
    numbers: list[int] = []

    def calls(number: int) -> dict[str, Callable[[], float]]:
        return {"ours": lambda: numbers.append(number) or 1.0}

    alternate(Bench(), 2, calls, warm=True)
    assert numbers == [0, 0, 0, 0, 1, 1]


def test_a_step_leaves_gradients_and_the_same_peak_each_time() -> None:
    model, clips = dit("XS/2"), RandomClips([(1, 4, 4), (2, 4, 2)])
    assert clips.num_tokens == 8
    assert step_s(model, clips) > 0
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())
    assert peak_bytes(model, clips) == peak_bytes(model, clips) > 4 * sum(weight.numel() for weight in model.parameters())
    assert RandomClips([(1, 4, 4)], half=torch.bfloat16).loss(model).dtype == torch.float32
