"""Frechet distance against closed forms, where the covariance is singular, and its jackknife interval."""

import math
import time

import numpy as np
import pytest
import torch

from bench.metrics.frechet import FrechetDistance, frechet_distance, group_of_each, jackknife, jackknife_difference
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


def test_jackknife_of_a_mean_is_the_textbook_standard_error() -> None:
    """For a difference of means with groups of one, the jackknife gives the standard error of n paired differences exactly."""
    generator = np.random.default_rng(3)
    a, b = generator.standard_normal((16, 1)), generator.standard_normal((16, 1)) + 2
    interval = jackknife(lambda x, y: float(y.mean() - x.mean()), a, b)
    expected = np.std(b - a, ddof=1) / 4
    assert interval.estimate == pytest.approx((b - a).mean())
    assert interval.standard_error == pytest.approx(expected)
    assert interval.high - interval.estimate == pytest.approx(2.13144954556 * expected)  # Student t, 15 degrees of freedom
    assert interval.estimate - interval.low == pytest.approx(interval.high - interval.estimate)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_jackknife_covers_the_expected_distance(distance) -> None:
    """95 % intervals contain the mean over repeats about 95 % of the time. A percentile bootstrap contains a Frechet mean almost never."""
    generator = np.random.default_rng(0)
    draws = [(generator.standard_normal((64, 4)), 1.3 * generator.standard_normal((64, 4)) + 0.5) for _ in range(150)]
    intervals = [jackknife(distance, a, b) for a, b in draws]
    truth = np.mean([interval.estimate for interval in intervals])
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.995
    spread = np.std([interval.estimate for interval in intervals])
    assert np.mean([interval.standard_error for interval in intervals]) == pytest.approx(spread, rel=0.25)


def test_jackknife_difference_shares_the_real_clips() -> None:
    generator = np.random.default_rng(1)
    real, fake_a, fake_b = (generator.standard_normal((64, 4)) + shift for shift in (0, 1, 1.2))
    interval = jackknife_difference(frechet_distance, real, fake_a, fake_b)
    assert interval.estimate == pytest.approx(frechet_distance(real, fake_a) - frechet_distance(real, fake_b), rel=1e-12)
    same = jackknife_difference(frechet_distance, real, fake_a, fake_a)
    assert (same.estimate, same.standard_error) == (0, 0)
    swapped = jackknife_difference(frechet_distance, real, fake_b, fake_a)
    assert (swapped.low, swapped.high) == pytest.approx((-interval.high, -interval.low))
    # shared real clips cancel: tighter than two independent intervals
    alone = [jackknife(frechet_distance, real, fake).standard_error for fake in (fake_a, fake_b)]
    assert interval.standard_error < math.hypot(*alone)


def test_jackknife_groups_are_even_shuffled_and_repeatable() -> None:
    for n in (16, 17, 64, 100):
        counts = np.bincount(group_of_each(n, 16), minlength=16)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(group_of_each(64, 16), group_of_each(64, 16))
    assert not np.array_equal(group_of_each(64, 16), np.arange(64) % 16)
    with pytest.raises(ValueError, match="needs at least 2 groups and 16 clips, got 15"):
        jackknife(frechet_distance, GOOD.repeat(2, axis=0)[:15], GOOD.repeat(4, axis=0))


def test_jackknife_at_the_size_of_a_quick_study_is_fast() -> None:
    generator = np.random.default_rng(0)
    a, b, c = (generator.standard_normal((64, 400)) for _ in range(3))
    start = time.perf_counter()
    jackknife(frechet_distance, a, b)
    jackknife_difference(frechet_distance, a, b, c)
    assert time.perf_counter() - start < 5


def test_metric_equals_the_function_in_any_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(20, 6, generator=generator), torch.randn(14, 6, generator=generator) + 1
    metric = FrechetDistance()
    for batch in fake.split(5):
        metric.update(batch, real=False)
    for batch in real.split(7):
        assert metric(batch, real=True) is None, "forward only updates: a batch has no distance"
    value = metric.compute()
    assert value.dtype == torch.float64
    assert value.item() == frechet_distance(real.numpy(), fake.numpy())
    metric.reset()
    metric.update(fake, real=False)
    with pytest.raises(ValueError, match="no real features"):
        metric.compute()


def test_metric_refuses_a_change_of_precision() -> None:
    metric = FrechetDistance()
    with pytest.raises(ValueError, match="float32"):
        metric.update(torch.zeros(4, 3, dtype=torch.float16), real=True)
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        metric.update(torch.zeros(3), real=True)
    with pytest.raises(RuntimeError, match="float32"):
        metric.set_dtype(torch.float16)
    metric.update(torch.zeros(4, 3), real=True)
    metric.update(torch.zeros(4, 3), real=False)
    metric.real_features = [features.half() for features in metric.real_features]
    metric._computed = None
    with pytest.raises(RuntimeError, match=r"real features became torch\.float16"):
        metric.compute()
