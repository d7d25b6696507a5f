"""Wasserstein distances of columns, by hand."""

import math

import numpy as np
import pytest

from bench.metrics.distances.interval import jackknife
from bench.metrics.distances.wasserstein import mean_wasserstein


def test_by_hand() -> None:
    a = np.array([[0.0, 1.0], [1.0, 1.0]])
    b = np.array([[3.0, 1.0], [2.0, 1.5]])  # first column 2 away in order, second 0 and 0.5
    assert mean_wasserstein(a, b) == pytest.approx((2 + 0.25) / 2)
    assert mean_wasserstein(b, a) == mean_wasserstein(a, b)
    assert mean_wasserstein(a, a[::-1]) == 0  # of distributions: which clip is which has no say
    assert mean_wasserstein(np.array([[0.0]]), np.array([[1.0], [2.0], [6.0]])) == pytest.approx(3)  # of any two sizes


def test_rows_of_nan_are_left_out() -> None:
    a, b = np.array([[0.0, 1.0], [np.nan, 7.0], [np.nan, np.nan]]), np.array([[2.0, 2.0]])
    assert mean_wasserstein(a, b) == pytest.approx(1.5)
    assert math.isnan(mean_wasserstein(a[1:], b)) and math.isnan(mean_wasserstein(b, a[1:]))


def test_an_interval_covers_the_distance() -> None:
    generator = np.random.default_rng(0)
    draws = [(generator.random((64, 4)), generator.random((64, 4)) ** 2) for _ in range(60)]
    intervals = [jackknife(mean_wasserstein, a, b) for a, b in draws]
    expected = np.mean([interval.estimate for interval in intervals])
    assert np.mean([interval.low <= expected <= interval.high for interval in intervals]) >= 0.85
