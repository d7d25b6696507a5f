"""The jackknife interval against the textbook, and how often it covers."""

import math

import numpy as np
import pytest

from bench.metrics.frechet import frechet_distance
from bench.metrics.interval import group_of_each, jackknife, jackknife_difference
from bench.metrics.kernel import kernel_distance

GOOD = np.random.default_rng(0).standard_normal((8, 3))


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
    with pytest.raises(ValueError, match="needs at least 4 groups and 16 clips, got 15"):
        jackknife(frechet_distance, GOOD.repeat(2, axis=0)[:15], GOOD.repeat(4, axis=0))
