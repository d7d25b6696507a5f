"""Frechet distance against closed forms, where the covariance is singular."""

import math

import numpy as np
import pytest
import torch

from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel import kernel_distance


def with_moments(mean: np.ndarray, deviations: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Features (n, d) whose sample mean and covariance (over n - 1) are exactly `mean` and diag(deviations^2)."""
    noise = np.random.default_rng(seed).standard_normal((n, len(mean)))
    orthonormal, _ = np.linalg.qr(noise - noise.mean(axis=0))
    return math.sqrt(n - 1) * orthonormal * deviations + mean


def traces(*sets: np.ndarray) -> float:
    return float(sum(np.var(features, axis=0, ddof=1).sum() for features in sets))


def rotation(d: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def test_diagonal_gaussians_match_the_closed_form() -> None:
    mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, -1.0])
    a, b = with_moments(mean_a, np.array([1.0, 2.0, 3.0]), 10, 1), with_moments(mean_b, np.array([2.0, 2.0, 0.5]), 17, 2)
    # 1 + 0 + 9 from the means, 1 + 0 + 6.25 from the deviations
    assert frechet_distance(a, b) == pytest.approx(17.25, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(17.25, rel=1e-12)


def test_covariance_divides_by_n_minus_1() -> None:
    a, b = np.array([[0.0], [2.0]]), np.array([[0.0], [0.0], [6.0]])
    # means 1 and 2; variances 2 and 12 over n - 1, (1 and 8 over n)
    assert frechet_distance(a, b) == pytest.approx(1 + (math.sqrt(12) - math.sqrt(2)) ** 2, rel=1e-12)


def test_covariances_that_do_not_commute() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((50, 5)) @ generator.standard_normal((5, 5)), generator.standard_normal((60, 5)) + 1
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    root_trace = np.sqrt(np.linalg.eigvals(product).real).sum()
    expected = np.square(a.mean(0) - b.mean(0)).sum() + traces(a, b) - 2 * root_trace
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_fewer_clips_than_features_is_exact() -> None:
    """Features that fill 4 of 50 dimensions, rotated: n < d and a singular covariance, but the distance of the 4-dimensional ones."""
    a, b = with_moments(np.zeros(4), np.array([1.0, 2, 3, 4]), 9, 1), with_moments(np.ones(4), np.array([4.0, 3, 2, 1]), 12, 2)
    turn = rotation(50)[:4]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(4 + 9 + 1 + 1 + 9, rel=1e-12)
    # n < d on one side only
    many = with_moments(np.ones(4), np.array([4.0, 3, 2, 1]), 80, 3)
    assert frechet_distance(a @ turn, many @ turn) == pytest.approx(24, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(2, 1), (64, 400), (500, 40), (41, 40)])
def test_a_set_is_at_distance_0_from_itself(n: int, d: int) -> None:
    features = np.random.default_rng(0).standard_normal((n, d)) * np.logspace(-3, 3, d)
    assert abs(frechet_distance(features, features.copy())) < 1e-11 * traces(features, features)


@pytest.mark.parametrize(("n", "d"), [(64, 400), (500, 40)])
def test_a_large_common_offset_changes_nothing(n: int, d: int) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((n, d)), generator.standard_normal((n, d)) + 0.5
    assert frechet_distance(a + 1e6, b + 1e6) == pytest.approx(frechet_distance(a, b), rel=1e-7)


def test_float32_features_are_computed_in_float64() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((30, 8)).astype(np.float32) + 100 for _ in range(2))
    assert frechet_distance(a, b) == frechet_distance(a.astype(np.float64), b.astype(np.float64))


GOOD = np.random.default_rng(0).standard_normal((8, 3))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD[:1], "second set has 1 clips"),
        (GOOD[:, :2], "3 and 2 features"),
        (np.where(np.arange(24).reshape(8, 3) == 7, np.nan, GOOD), "1 of 8 clips, first in clip 2"),
        (np.where(np.arange(24).reshape(8, 3) == 0, np.inf, GOOD), "first in clip 0"),
        (GOOD[0], r"float array \(n, d\), got float64 \(3,\)"),
        (GOOD.astype(int), "got int64"),
        (torch.zeros(8, 3), "got Tensor"),
    ],
)
def test_sets_that_do_not_compare_are_errors(distance, bad, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        distance(GOOD, bad)
