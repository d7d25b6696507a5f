"""The jackknife interval against the textbook, and how often it covers."""

import math

import numpy as np
import pytest

from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.distances.interval import (
    by_group,
    group_of_each,
    interval_of,
    jackknife,
    jackknife_difference,
    jackknife_variance,
)
from bench.metrics.distances.kernel import kernel_distance

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
    draws = [(generator.standard_normal((64, 4)), 1.3 * generator.standard_normal((64, 4)) + 0.5) for _ in range(100)]
    intervals = [jackknife(distance, a, b) for a, b in draws]
    truth = np.mean([interval.estimate for interval in intervals])
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.99
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
        counts = np.bincount(group_of_each(n), minlength=16)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(group_of_each(64), group_of_each(64))
    assert not np.array_equal(group_of_each(64), np.arange(64) % 16)
    with pytest.raises(ValueError, match="with 16 groups needs as many clips, got 15"):
        jackknife(frechet_distance, GOOD.repeat(2, axis=0)[:15], GOOD.repeat(4, axis=0))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(("n", "m", "d"), [(64, 64, 6), (40, 50, 100), (33, 200, 10)])
def test_faster_routes_give_the_same_interval(distance, n: int, m: int, d: int) -> None:
    """A statistic with its own way to leave clips out, and the same one called on what is left."""
    generator = np.random.default_rng(n)
    real, fake = generator.standard_normal((n, d)), 1.2 * generator.standard_normal((m, d)) + 0.2
    other = generator.standard_normal((m, d))
    fast, slow = jackknife(distance, real, fake), jackknife(lambda a, b: distance(a, b), real, fake)
    assert fast.estimate == slow.estimate == distance(real, fake)
    assert fast.standard_error == pytest.approx(slow.standard_error, rel=1e-4)
    fast, slow = jackknife_difference(distance, real, fake, other), jackknife_difference(lambda a, b: distance(a, b), real, fake, other)
    assert (fast.estimate, fast.standard_error) == (slow.estimate, pytest.approx(slow.standard_error, rel=1e-4))


def test_variance_of_a_sum_over_pairs() -> None:
    """For the squared length of a mean around 0 the plain jackknife is twice too large, and much of the excess is taken off."""
    generator = np.random.default_rng(0)
    draws = generator.standard_normal((200, 16, 60))

    def length(rows: np.ndarray) -> float:
        return float(np.square(rows.mean(axis=0)).sum())

    plain, corrected = [], []
    for rows in draws:
        without = np.array([length(np.delete(rows, g, axis=0)) for g in range(16)])
        plain.append(15 / 16 * np.square(without - without.mean()).sum())
        corrected.append(jackknife_variance(lambda keep, rows=rows: length(rows[keep]), 16))
    truth = 2 * 60 / 16**2  # of a chi-squared with 60 degrees of freedom over 16
    assert np.mean(plain) / truth == pytest.approx(2, rel=0.2)
    assert np.mean(corrected) / truth == pytest.approx(1.55, rel=0.06)


@pytest.mark.parametrize("groups", [4, 5, 7, 16, 40])
def test_pairs_take_nothing_off_a_mean(groups: int) -> None:
    numbers = np.random.default_rng(0).standard_normal(groups)
    variance = jackknife_variance(lambda keep: float(numbers[keep].mean()), groups)
    assert variance == pytest.approx(np.var(numbers, ddof=1) / groups, rel=1e-9)


def test_at_most_three_eighths_are_taken_off() -> None:
    """Pairs are at most half of the jackknife's variance, whatever their estimate says."""
    numbers = np.random.default_rng(0).standard_normal(16)

    def value(keep: np.ndarray) -> float:
        return float(numbers[keep].sum() if keep.sum() > 14 else 1e3 * numbers[keep].sum())

    without = np.array([np.delete(numbers, g).sum() for g in range(16)])
    assert jackknife_variance(value, 16) == pytest.approx(15 / 16 * np.square(without - without.mean()).sum() * 0.625)


def test_a_pair_of_groups_is_left_out_once() -> None:
    """4 groups have 6 pairs, and steps of 1 and 2 meet some of them twice."""
    seen = []
    jackknife_variance(lambda keep: seen.append(tuple(keep)) or float(keep @ [1, 5, 2, 9]) / keep.sum(), 4)
    assert len(seen) == len(set(seen)) == 4 + 1 + 6


def test_verdict_on_two_models_of_one_distribution() -> None:
    """Called different in at most 15 of 200 runs. More sizes and spectra: reports/calibration."""
    generator = np.random.default_rng(3)
    different = 0
    for _ in range(200):
        interval = jackknife_difference(frechet_distance, *generator.standard_normal((3, 32, 3)))
        different += not interval.low <= 0 <= interval.high
    assert different <= 15


def test_two_models_that_differ_are_called_different() -> None:
    generator = np.random.default_rng(3)
    called = 0
    for _ in range(40):
        real, fake, other = (generator.standard_normal((64, 8)) for _ in range(3))
        interval = jackknife_difference(frechet_distance, real, fake + 0.7, other + 0.2)
        called += interval.low > 0
    assert called >= 30


def test_groups_are_shared_between_both_terms_of_a_difference() -> None:
    """Where both models err by one and the same draw of the real clips, nothing is left of its noise."""
    generator = np.random.default_rng(1)
    real, fake = generator.standard_normal((64, 3)), generator.standard_normal((64, 3))

    def mean_gap(a: np.ndarray, b: np.ndarray) -> float:
        return float((b.mean(axis=0) - a.mean(axis=0)).sum())

    interval = jackknife_difference(mean_gap, real, fake + 1, fake)
    assert interval.estimate == pytest.approx(3)
    assert interval.standard_error < 1e-12


def test_by_group_keeps_whole_groups() -> None:
    sets = GOOD.repeat(4, axis=0), GOOD.repeat(3, axis=0)  # 32 and 24 clips
    groups = [group_of_each(len(features)) for features in sets]
    keep = np.arange(16) != 1
    value = by_group(lambda a, b: float(len(a) * 100 + len(b)), *sets)
    assert value(keep) == (groups[0] != 1).sum() * 100 + (groups[1] != 1).sum()
    flat = interval_of(5.0, 0.0)
    assert (flat.estimate, flat.low, flat.high, flat.standard_error) == (5, 5, 5, 0)
