"""Frechet distance against closed forms and 60 digits, singular or not, and the faster routes against it."""

import math
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import scipy.linalg

from bench.metrics.distances import frechet as module
from bench.metrics.distances.frechet import FrechetSubsets, fast_root_trace, frechet_distance
from bench.metrics.distances.kernel import kernel_distance


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


def hadamard_set(n: int, d: int, steps: np.ndarray, mean: float = 0.0) -> np.ndarray:
    """Features (n, d) without a rounded digit, covariance n / (n - 1) H' diag(steps^2) H, H rows of a Hadamard matrix, n a power of two.

    len(steps) < n directions; `steps` are few-digit binary fractions, so every sum is exact.
    """
    side = scipy.linalg.hadamard(max(2, 1 << (d - 1).bit_length()), dtype=float)[: len(steps), :d]
    return scipy.linalg.hadamard(n, dtype=float)[:, 1 : len(steps) + 1] * steps @ side + mean


def hadamard_distance(n: int, m: int, d: int, steps_a: np.ndarray, steps_b: np.ndarray, mean: float = 0.0) -> tuple[float, float]:
    """(distance, traces and mean) of two such sets, whose covariances commute."""
    width = 1 << (d - 1).bit_length() if d > 1 else 2  # squared norm of a row of H, whole rows only
    assert d == width, "rows are orthogonal only when whole"
    scale_a, scale_b = math.sqrt(n / (n - 1)), math.sqrt(m / (m - 1))
    of_mean = d * mean**2
    traces = width * (np.square(scale_a * steps_a).sum() + np.square(scale_b * steps_b).sum()) + of_mean
    return float(width * np.square(scale_a * steps_a - scale_b * steps_b).sum() + of_mean), float(traces)


EXACT = 1e-11  # relative to the traces and the squared difference of the means


@pytest.mark.parametrize(
    ("n", "m", "d"),
    [(2, 2, 2), (2, 2, 2048), (2, 64, 16), (4, 8, 4), (16, 16, 1024), (64, 512, 256), (256, 256, 2048), (1024, 256, 64), (4096, 4096, 64)],
)
@pytest.mark.parametrize("case", ["plain", "offset 1e6", "condition 1e16", "near-identical"])
def test_exact_closed_form(n: int, m: int, d: int, case: str) -> None:
    """Sets whose every digit is exact, so the closed form is the truth: full rank, n < d, unequal sizes, far from 0, ill-conditioned."""
    rank = min(n, m, d + 1) - 1
    generator = np.random.default_rng(n + d)
    steps_a, steps_b = (generator.integers(1, 64, rank) / 16 for _ in range(2))
    if case == "condition 1e16":
        steps_a, steps_b = 2.0 ** -np.round(np.linspace(0, 26, rank)), 2.0 ** -np.round(np.linspace(26, 0, rank))
    if case == "near-identical":
        steps_b = steps_a + (np.arange(rank) == rank // 2) * 2.0**-12
    offset, mean = (2.0**20 if case == "offset 1e6" else 0.0), (2.0**-12 if case == "near-identical" else 0.5)
    a, b = hadamard_set(n, d, steps_a, offset), hadamard_set(m, d, steps_b, offset + mean)
    expected, traces = hadamard_distance(n, m, d, steps_a, steps_b, mean)
    assert abs(frechet_distance(a, b) - expected) < EXACT * traces
    assert abs(frechet_distance(b, a) - expected) < EXACT * traces
    everything = np.ones(n, bool), np.ones(m, bool)
    assert abs(FrechetSubsets(a, b)(*everything) - expected) < 1e-6 * traces


@pytest.mark.slow
def test_exact_closed_form_at_full_size() -> None:
    generator = np.random.default_rng(0)
    steps_a, steps_b = (generator.integers(1, 64, 2048) / 16 for _ in range(2))
    a, b = hadamard_set(4096, 2048, steps_a), hadamard_set(4096, 2048, steps_b, 0.5)
    expected, traces = hadamard_distance(4096, 4096, 2048, steps_a, steps_b, 0.5)
    assert abs(frechet_distance(a, b) - expected) < EXACT * traces


def in_extended_precision(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(distance, traces and mean) with 60 digits: covariances, then eigenvalues of S_a^(1/2) S_b S_a^(1/2)."""
    with mpmath.workdps(60):
        moments = []
        for features in (a, b):
            n, d = features.shape
            x = mpmath.matrix(features.tolist())
            mean = [mpmath.fsum(x[:, j]) / n for j in range(d)]
            centred = mpmath.matrix(n, d)
            for i in range(n):
                for j in range(d):
                    centred[i, j] = x[i, j] - mean[j]
            moments.append((mean, centred.T * centred / (n - 1)))
        (mean_a, covariance_a), (mean_b, covariance_b) = moments
        values, vectors = mpmath.eigsy(covariance_a)
        root = vectors * mpmath.diag([mpmath.sqrt(max(value, 0)) for value in values]) * vectors.T
        product = mpmath.eigsy(root * covariance_b * root, eigvals_only=True)
        of_mean = mpmath.fsum((x - y) ** 2 for x, y in zip(mean_a, mean_b, strict=True))
        traces = of_mean + mpmath.fsum(covariance_a[i, i] + covariance_b[i, i] for i in range(a.shape[1]))
        return float(traces - 2 * mpmath.fsum(mpmath.sqrt(max(value, 0)) for value in product)), float(traces)


def hard_sets(case: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    n, m, d = {"n < d": (5, 4, 9), "n = 2": (2, 2, 6), "n = d": (8, 8, 8), "n = d + 1": (9, 9, 8)}.get(case, (24, 17, 8))
    mix = generator.standard_normal((d, d)), generator.standard_normal((d, d))  # covariances that do not commute
    a, b = generator.standard_normal((n, d)) @ mix[0], generator.standard_normal((m, d)) @ mix[1] + 0.3
    if case == "offset 1e6":
        return a + 1e6, b + 1e6
    if case == "narrow at 1e6":
        return a * 1e-3 + 1e6, b * 1e-3 + 1e6
    if case == "condition 1e16":
        return a * np.logspace(0, -8, d) @ mix[1], b * np.logspace(-8, 0, d) @ mix[0]
    if case == "near-identical":
        return a, a + 1e-9 * generator.standard_normal(a.shape)
    if case == "shifted copy":
        return a, a + 1e-3
    if case == "one feature repeated":
        return a[:, [0, 0, 1, 1, 1]], b[:, [0, 0, 1, 1, 1]]
    if case == "one far clip":
        a[0] += 1e9
    return a, b


HARD = ["plain", "n < d", "n = 2", "n = d", "n = d + 1", "offset 1e6", "narrow at 1e6", "condition 1e16", "near-identical", "shifted copy",
        "one feature repeated", "one far clip"]  # fmt: skip


@pytest.mark.parametrize("case", HARD)
def test_exact_against_60_digits(case: str) -> None:
    a, b = hard_sets(case)
    expected, traces = in_extended_precision(a, b)
    assert abs(frechet_distance(a, b) - expected) < EXACT * traces


@pytest.mark.parametrize("case", HARD)
def test_every_route_agrees_with_the_exact_one(case: str) -> None:
    """The resampling route, on all clips and with some left out: 1e-6 of the traces."""
    a, b = hard_sets(case)
    subsets = FrechetSubsets(a, b)
    generator = np.random.default_rng(0)
    for _ in range(4):
        keep = [np.ones(len(features), bool) for features in (a, b)]
        if len(a) > 4:
            for kept in keep:
                kept[generator.permutation(len(kept))[: len(kept) // 3]] = False
        x, y = a[keep[0]], b[keep[1]]
        expected, size = frechet_distance(x, y), traces(x, y) + np.square(x.mean(0) - y.mean(0)).sum()
        assert abs(subsets(*keep) - expected) < 1e-6 * size


def power_law(n: int, d: int, power: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scale = np.arange(1, d + 1.0) ** -power
    return generator.standard_normal((n, d)) * scale, 1.2 * generator.standard_normal((n, d)) * scale @ rotation(d, 3)


@pytest.mark.parametrize("power", [0, 1, 2, 4])
@pytest.mark.parametrize(("n", "d"), [(300, 40), (90, 80), (60, 80), (400, 200)])
def test_resampling_route_agrees_on_any_spectrum(n: int, d: int, power: float) -> None:
    a, b = power_law(n, d, power)
    keep = np.random.default_rng(0).random(n) < 0.93
    assert abs(FrechetSubsets(a, b)(keep, keep) - frechet_distance(a[keep], b[keep])) < 1e-6 * traces(a[keep], b[keep])


def test_the_fast_route_says_where_it_does_not_hold() -> None:
    """Where the predicted error is small the route holds; rank-deficient covariances are refused, whether Cholesky sees it or not."""
    well, _ = power_law(300, 40, 1)
    covariance = np.cov(well, rowvar=False)
    assert fast_root_trace(covariance, covariance) == pytest.approx(np.trace(covariance), rel=1e-12)
    thin = np.cov(well[:20], rowvar=False)
    assert fast_root_trace(covariance, thin) is None
    assert fast_root_trace(thin, covariance) is None
    assert fast_root_trace(np.diag([1.0, -1.0]), np.eye(2)) is None
    assert fast_root_trace(np.zeros((2, 2)), np.zeros((2, 2))) is None


def test_subsets_take_the_fast_route_where_they_may(monkeypatch) -> None:
    """No exact distance is computed at n = 2 d of an ordinary spectrum, nor for n < d."""
    monkeypatch.setattr(module, "frechet_distance", lambda *_: pytest.fail("the slow route"))
    for n, d in ((80, 40), (30, 40)):
        a, b = power_law(n, d, 0.5)
        FrechetSubsets(a, b)(np.arange(n) > 3, np.arange(n) > 3)


def test_inputs_are_not_written_to() -> None:
    a, b = power_law(50, 6, 1)
    copies = a.copy(), b.copy()
    frechet_distance(a, b)
    FrechetSubsets(a, b)(np.arange(50) > 3, np.ones(50, bool))
    np.testing.assert_array_equal(a, copies[0])
    np.testing.assert_array_equal(b, copies[1])


def test_no_torch() -> None:
    names = ["frechet", "kernel", "interval", "bias", "diversity", "calibration"]
    code = f"import sys, {', '.join(f'bench.metrics.distances.{name}' for name in names)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_float32_features_are_computed_in_float64() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((30, 8)).astype(np.float32) + 100 for _ in range(2))
    assert frechet_distance(a, b) == frechet_distance(a.astype(np.float64), b.astype(np.float64))


GOOD = np.random.default_rng(0).standard_normal((8, 3))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD[:1], r"second set .* at least 2 clips, got float64 \(1, 3\)"),
        (GOOD[:, :2], "3 and 2 features"),
        (np.where(np.arange(24).reshape(8, 3) == 7, np.nan, GOOD), "1 of 8 clips, first in clip 2"),
        (np.where(np.arange(24).reshape(8, 3) == 0, np.inf, GOOD), "first in clip 0"),
        (GOOD[0], r"floats \(n, d\) .* got float64 \(3,\)"),
        (GOOD.astype(int), "got int64"),
    ],
)
def test_sets_that_do_not_compare_are_errors(distance, bad, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        distance(GOOD, bad)
