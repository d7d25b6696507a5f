"""Kernel distance against arithmetic by hand, and unbiased where a Frechet distance is not."""

import numpy as np
import pytest

from bench.metrics.distances import kernel as module
from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.distances.kernel import KernelGroups, kernel_distance


def test_by_hand() -> None:
    a, b = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])
    # d = 1. Within a: k(1, 2) = 27. Within b: k(0, 1) = 1. Between: k(1,0) k(1,1) k(2,0) k(2,1) = 1, 8, 1, 27, mean 9.25
    assert kernel_distance(a, b) == pytest.approx(27 + 1 - 2 * 9.25)


def test_by_hand_in_two_dimensions() -> None:
    a, b = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 2.0], [0.0, 0.0], [2.0, 0.0]])
    # x.y / 2 + 1. Within a: 1. Within b, pairs: 1, (4/2+1)^3 = 27, 1. Between: row 1: 27, 1, 27; row 2: 27, 1, 1
    assert kernel_distance(a, b) == pytest.approx(1 + 29 / 3 - 2 * 84 / 6)


def test_a_loop_over_pairs_agrees() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((5, 3)), generator.standard_normal((7, 3)) + 1

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * between, rel=1e-12)
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a), rel=1e-12)


def test_unbiased_where_frechet_is_not() -> None:
    generator = np.random.default_rng(0)
    pairs = [(generator.standard_normal((16, 8)), generator.standard_normal((16, 8))) for _ in range(300)]
    values = [kernel_distance(a, b) for a, b in pairs]
    standard_error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * standard_error
    assert min(values) < 0
    assert np.mean([frechet_distance(a, b) for a, b in pairs[:20]]) > 1


@pytest.mark.parametrize("offset", [0.0, 2.0])
@pytest.mark.parametrize(("n", "m", "d"), [(4, 4, 2), (6, 30, 3), (40, 10, 50)])
def test_unbiased_at_any_sizes(n: int, m: int, d: int, offset: float) -> None:
    """The mean over draws of one distribution is 0 within its standard error; with the diagonal kept it is many away."""
    generator = np.random.default_rng(n)
    values, biased = [], []
    for _ in range(600):
        a, b = generator.standard_normal((n, d)) + offset, generator.standard_normal((m, d)) + offset
        values.append(kernel_distance(a, b))
        biased.append(float(((a @ a.T / d + 1) ** 3).mean() + ((b @ b.T / d + 1) ** 3).mean() - 2 * ((a @ b.T / d + 1) ** 3).mean()))
    assert abs(np.mean(values)) < 3.5 * np.std(values) / 600**0.5
    assert abs(np.mean(biased)) > 5 * np.std(values) / 600**0.5


def test_groups_left_out_equal_the_distance_of_what_is_left() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((37, 5)), generator.standard_normal((23, 5)) + 1
    group_a, group_b = np.arange(37) % 6, generator.permutation(23) % 6
    groups = KernelGroups(a, b, group_a, group_b)
    assert groups(np.ones(6, bool)) == pytest.approx(kernel_distance(a, b), rel=1e-12)
    for left_out in ([0], [5], [1, 4], [0, 1, 2, 3, 4]):
        keep = ~np.isin(np.arange(6), left_out)
        assert groups(keep) == pytest.approx(kernel_distance(a[keep[group_a]], b[keep[group_b]]), rel=1e-12)


def test_blocks_change_nothing(monkeypatch) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((37, 5)), generator.standard_normal((23, 5)) + 1
    whole = kernel_distance(a, b)
    monkeypatch.setattr(module, "BLOCK", 8)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)


def test_a_set_and_its_copy_are_below_0() -> None:
    """Unbiased, not clipped: every pair but the diagonal is in both means, and the diagonal only between."""
    a = np.random.default_rng(0).standard_normal((20, 4))
    assert kernel_distance(a, a.copy()) < 0
