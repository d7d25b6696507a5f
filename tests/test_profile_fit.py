"""Searches for the largest that fits, cards and their reserve, and where two lines cross."""

import math
from collections.abc import Callable

import pytest

from bench.commands.profile import cards, fit
from bench.commands.profile.cards import CARDS, GIB, find_card
from bench.commands.profile.cross import crossings, grid, ratio, where_it_crosses
from bench.commands.profile.result import CrossPoint
from bench.shapes import Refusal, check_divisible

COSTS: dict[str, Callable[[int], int]] = {
    "line": lambda n: 500 + 7 * n,
    "square": lambda n: 3 * n * n + 40,
    "mixed": lambda n: 500 + 7 * n + n * n // 100,
    "plateau, then a line": lambda n: max(10_000, 13 * n),
    "two lines": lambda n: max(30 * n + 500, 44 * n + 3),
    "steps": lambda n: 100 * (n // 10),
    "cliff": lambda n: n if n < 77 else 10**12,
}


@pytest.mark.parametrize("guess", [2, 16, 5000])
@pytest.mark.parametrize("limit", [507, 9_999, 75_000, 10**7])
@pytest.mark.parametrize("name", COSTS)
def test_the_largest_is_the_largest(name: str, limit: int, guess: int) -> None:
    cost, calls = COSTS[name], []

    def counted(n: int) -> int:
        calls.append(n)
        return cost(n)

    found = fit.largest(counted, limit, guess=guess)
    assert found == 0 or cost(found) <= limit
    assert found == fit.MOST_UNITS or cost(found + 1) > limit or cost(found) >= (1 - fit.CLOSE) * limit
    assert len(calls) == len(set(calls)), "no point is looked at twice"
    assert len(calls) <= (12 if name in ("line", "square", "mixed") else 40)


def test_small_numbers_are_exact_and_large_ones_take_few_looks() -> None:
    calls: list[int] = []

    def cost(n: int) -> int:
        calls.append(n)
        return 10_000 + 3 * n

    assert fit.largest(lambda n: 1000 * n, 58_500) == 58
    assert fit.largest(cost, 10**6) in range(329_600, 330_001)
    assert len(calls) <= 8


def test_limits_of_a_search() -> None:
    assert fit.largest(lambda n: n, 100, most=7) == 7
    assert fit.largest(lambda n: 5 * n, 4) == 0
    assert fit.largest(lambda n: 5 * n, 5, most=1) == 1


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 39, 40, 43, 80, 200, 511, 512, 600])
@pytest.mark.parametrize("guess", [0, 1, 40, 300, 512])
def test_what_is_tried_is_the_largest_with_few_tries(guess: int, limit: int) -> None:
    asked: list[int] = []

    def fits(n: int) -> bool:
        asked.append(n)
        return n <= limit

    found, true = fit.largest_tried(fits, guess, 512), min(limit, 512)
    assert found <= true and true - found <= fit.NEAR * max(found, 1)
    assert found == 0 or found in asked  # nothing is said to fit that did not
    assert len(asked) == len(set(asked)) and all(1 <= n <= 512 for n in asked) and asked[0] == max(guess, 1)
    assert len(asked) <= (8 if guess and abs(true / guess - 1) < 0.1 else 20)


def test_units_and_limits_are_those_of_the_backbones_own_check() -> None:
    def check(size: int) -> None:
        check_divisible("X", (1, size, size), (1, 4, 4))
        if size > 100:
            raise Refusal(f"X has positions up to 100, got {size}")

    assert fit.unit(check) == 4
    assert fit.most_units(check, 4) == 25
    assert fit.most_units(lambda size: None, 1) == fit.MOST_UNITS
    with pytest.raises(ValueError, match="divisible by 256"):
        fit.unit(lambda size: check_divisible("X", (1, size, size), (1, 256, 256)))


@pytest.mark.parametrize("text", ["H100-80GB", "h100-80gb", "H100 80GB", "h10080gb"])
def test_a_card_by_any_spelling(text: str) -> None:
    assert find_card(text) is CARDS["H100-80GB"]


def test_every_card_has_memory_less_than_its_name_says_and_sane_rates() -> None:
    for name, card in CARDS.items():
        marked = [int(part[:-2]) for part in name.replace("-", " ").split() if part.endswith("GB")]
        assert not marked or card.memory_bytes < marked[0] * GIB
        bf16, fp32 = card.peaks["bf16"], card.peaks["fp32"]
        assert fp32 is not None
        assert 5e12 < fp32 < 2e14
        assert bf16 is None or 1.5 * fp32 < bf16 < 1e15


def test_the_reserve_is_taken_off() -> None:
    assert find_card("24GiB").memory_bytes == 24 * GIB
    assert find_card("24 gib").usable_bytes == int(23 * GIB * 0.95)
    assert find_card("24GiB").peaks == {"bf16": None, "fp32": None}
    assert cards.RESERVED_BYTES == GIB
    with pytest.raises(ValueError, match="no larger than the reserve of 1 GiB"):
        find_card("1GiB")


def test_an_unknown_card() -> None:
    with pytest.raises(
        ValueError, match=r"unknown card 'H100-80G' \(did you mean 'H100-80GB'\?\); known: .*RTX 4090.*or a size such as 24GiB"
    ):
        find_card("H100-80G")
    with pytest.raises(ValueError, match="unknown card '24GB'"):
        find_card("24GB")


def point(frames: int, size: int, first: float, second: float, pairs: list[tuple[float, float]] | None = None) -> CrossPoint:
    flops = (round(first * 1000), round(second * 1000))
    return CrossPoint(shape=(frames, size, size), flops=flops, peak_bytes=(100, 50), pairs_s=pairs or [])


def test_ratio_is_first_over_second_and_the_median_of_pairs() -> None:
    one = point(1, 8, 2, 4, [(1.0, 2.0), (3.0, 2.0), (9.0, 1.0)])
    assert [ratio(one, quantity) for quantity in ("flops", "peak_bytes", "step_time_s")] == [0.5, 2.0, 1.5]
    assert ratio(point(1, 8, 2, 4), "step_time_s") is None
    assert ratio(point(1, 8, 2, 4, [(1.0, 2.0), (4.0, 2.0)]), "step_time_s") == pytest.approx(1.0)


def test_crossing_is_found_on_power_laws() -> None:
    """n^3 / 1000 n crosses at sqrt(1000) whatever the points."""
    line = [(float(n), n**3 / (1000 * n)) for n in (8, 16, 32, 64, 128)]
    assert where_it_crosses(line) == pytest.approx([math.sqrt(1000)])
    assert where_it_crosses([(1.0, 0.5), (2.0, 2.0), (4.0, 0.5)]) == pytest.approx([math.sqrt(2), 2 * math.sqrt(2)])
    assert where_it_crosses([(1.0, 1.5), (2.0, 1.1)]) == []


def test_crossings_along_both_axes() -> None:
    points = [point(t, s, s * s, 16 * t) for t in (1, 4, 16) for s in (2, 8, 32)]
    found = {(each.quantity, each.along, each.held): each for each in crossings(points)}
    assert found["flops", "size", 4].at == pytest.approx([8.0])
    assert found["flops", "frames", 8].at == pytest.approx([4.0])
    assert found["flops", "frames", 2].at == []
    assert found["flops", "size", 4].span == (2, 32)
    assert found["peak_bytes", "size", 4].at == []
    assert not [key for key in found if key[0] == "step_time_s"]


def test_grid_is_around_the_shape_and_takes_no_more_than_both_do() -> None:
    assert grid((16, 32, 32), 4, 1, 10**6, 10**6) == [(t, s, s) for t in (4, 8, 16, 32, 64) for s in (8, 16, 32, 64, 128)]
    assert grid((1, 8, 8), 8, 2, 16, 4) == [(t, s, s) for t in (2, 4) for s in (8, 16)]
