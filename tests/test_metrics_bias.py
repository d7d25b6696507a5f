"""The expected floor and the distance at infinite n against simulation, where the truth is known."""

import numpy as np
import pytest

from bench.metrics.distances.bias import draw, expected_floor, frechet_infinite_n
from bench.metrics.distances.frechet import frechet_distance


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("n", "m", "tolerance"), [(200, 200, 0.05), (100, 400, 0.06), (40, 40, 0.15)])
def test_floor_is_the_mean_of_real_against_real(power: float, n: int, m: int, tolerance: float) -> None:
    generator = np.random.default_rng(0)
    scale = np.arange(1, 21.0) ** -power
    alike = [frechet_distance(generator.standard_normal((n, 20)) * scale, generator.standard_normal((m, 20)) * scale) for _ in range(300)]
    real = generator.standard_normal((20000, 20)) * scale + 7
    floor = expected_floor(real, n, m)
    assert floor == pytest.approx(np.mean(alike), rel=tolerance)
    assert expected_floor(real, m, n) == floor


def test_floor_by_hand() -> None:
    """d = 1, variance s: (1/n + 1/m) (1.25 s + 0.25 s)."""
    real = np.array([[1.0], [3.0], [5.0]])  # variance 4
    assert expected_floor(real, 10, 40) == pytest.approx((1 / 10 + 1 / 40) * 1.5 * 4)
    assert expected_floor(np.ones((5, 2)), 10, 10) == 0


def test_floor_from_the_real_features_at_hand() -> None:
    """A plug-in from n = 4 d clips is within a tenth of what a large sample says."""
    generator = np.random.default_rng(0)
    large, small = generator.standard_normal((20000, 30)), generator.standard_normal((120, 30))
    assert expected_floor(small, 120, 120) == pytest.approx(expected_floor(large, 120, 120), rel=0.15)


def test_infinite_n_recovers_the_populations_distance() -> None:
    """Mean over repeats within 3 standard errors of the truth, from which the plain distance is 20 away; 8 sizes from n/4 to n."""
    generator = np.random.default_rng(0)
    truth = 16 * (0.3**2 + 0.2**2)
    pairs = [(generator.standard_normal((200, 16)), 1.2 * generator.standard_normal((200, 16)) + 0.3) for _ in range(40)]
    found = [frechet_infinite_n(a, b)[0] for a, b in pairs]
    values = np.array([one.estimate for one in found])
    assert abs(values.mean() - truth) < 3 * values.std(ddof=1) / 40**0.5
    plain = np.array([frechet_distance(a, b) for a, b in pairs])
    assert plain.mean() - truth > 10 * plain.std(ddof=1) / 40**0.5
    assert 0.85 <= np.mean([one.low <= truth <= one.high for one in found]) <= 1
    assert np.mean([one.standard_error for one in found]) == pytest.approx(values.std(ddof=1), rel=0.35)
    _, sizes = frechet_infinite_n(*pairs[0])
    assert (len(sizes), sizes[0], sizes[-1]) == (8, 200, 50)


def test_infinite_n_is_a_line_through_means_when_the_distance_is() -> None:
    """On a function that is exactly value + slope / n the extrapolation is exact."""
    _, sizes = frechet_infinite_n(*np.random.default_rng(0).standard_normal((2, 100, 4)))
    weights = np.linalg.pinv(np.stack([np.ones(8), 1 / np.array(sizes)], axis=1))
    assert weights @ (3 + 7 / np.array(sizes)) == pytest.approx([3, 7])


def test_infinite_n_is_seeded() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 100, 4))
    assert frechet_infinite_n(a, b, seed=1) == frechet_infinite_n(a, b, seed=1)
    assert frechet_infinite_n(a, b, seed=1) != frechet_infinite_n(a, b, seed=2)


def test_infinite_n_leaves_out_sizes_where_the_line_bends() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 100, 50))
    found, sizes = frechet_infinite_n(a, b)
    assert sizes[-1] == 60
    assert abs(found.estimate) < 0.1 * frechet_distance(a, b)


def test_sets_of_different_sizes() -> None:
    generator = np.random.default_rng(0)
    found, sizes = frechet_infinite_n(generator.standard_normal((300, 6)), generator.standard_normal((100, 6)) + 1)
    assert sizes[0] == 100
    assert found.low < 6 < found.high


def test_a_draw_has_its_size() -> None:
    keep = draw(np.random.default_rng(0), 30, 11)
    assert (keep.dtype, keep.shape, keep.sum()) == (bool, (30,), 11)
