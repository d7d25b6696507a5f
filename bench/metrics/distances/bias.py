"""What a Frechet distance is at this n for no reason but n, and what it would be at infinite n. No torch."""

from __future__ import annotations

import numpy as np

from bench.metrics.distances.frechet import Features, FrechetSubsets, frechet_distance
from bench.metrics.distances.interval import NUM_GROUPS, Interval, group_of_each, interval_of, jackknife_variance

NUM_SIZES = 8
DRAWS = 8  # subsets of each size
CLIPS_PER_FEATURE = 2  # fewest clips a feature for an extrapolation
BEND = 1.2  # the distance bends away from a line in 1/n where n comes down to d


def expected_floor(real: Features, n_real: int, n_fake: int) -> float:
    """Expected Frechet distance between n_real and n_fake clips of one Gaussian population, whose covariance is that of `real`.

    (1/n1 + 1/n2) (1.25 tr S + 0.5 sum_ij l_i l_j / (l_i + l_j)), l the eigenvalues of S: what means and covariances of finite sets
    differ by, to first order in 1/n. It does not hold for n below d.
    """
    real = real.astype(np.float64)
    centred = real - real.mean(axis=0)
    values = np.square(np.linalg.svd(centred, compute_uv=False)) / (len(real) - 1)  # (d,)
    positive = values[values > 0]
    pairs = float((positive[:, None] * positive / (positive[:, None] + positive)).sum())
    return (1 / n_real + 1 / n_fake) * (1.25 * float(values.sum()) + 0.5 * pairs)


def infinite_n_clips(dim: int) -> int:
    """Fewest clips in each set that `frechet_infinite_n` takes over `dim` features."""
    return max(CLIPS_PER_FEATURE * dim, 2 * NUM_GROUPS)


def frechet_infinite_n(real: Features, fake: Features, *, seed: int = 0) -> tuple[Interval, tuple[int, ...]]:
    """Frechet distance extrapolated to infinite n, with an interval that covers the populations' distance, and the sizes behind it.

    Least squares in 1/n over `NUM_SIZES` sizes from n/4 to n, evenly spaced in 1/n, largest first, `DRAWS` seeded subsets of each.
    No size is below 1.2 d, where the line bends: with all sizes from n/4 at n = 2d the value was off by 7 standard errors. The variance is
    that of the distance at n, by jackknife, plus that of the choice of subsets. Fewer than `infinite_n_clips` do not carry it.
    """
    num, subsets = min(len(real), len(fake)), FrechetSubsets(real, fake)
    smallest = max(num / 4, BEND * real.shape[1])
    sizes = np.round(1 / np.linspace(1 / num, 1 / smallest, NUM_SIZES)).astype(int)
    generator = np.random.default_rng(seed)
    values = np.array(
        [[subsets(draw(generator, len(real), size), draw(generator, len(fake), size)) for _ in range(DRAWS)] for size in sizes]
    )  # (NUM_SIZES, DRAWS)
    if len(real) == len(fake):
        values[0] = frechet_distance(real, fake)  # there is one subset of all clips
    weights = np.linalg.pinv(np.stack([np.ones(len(sizes)), 1 / sizes], axis=1))  # (2, NUM_SIZES)
    value = float((weights @ values.mean(axis=1))[0])
    groups = group_of_each(len(real)), group_of_each(len(fake))
    variance = jackknife_variance(lambda keep: subsets(keep[groups[0]], keep[groups[1]]))
    variance += float((np.square(weights[0]) * values.var(axis=1, ddof=1)).sum()) / DRAWS
    return interval_of(value, variance), tuple(int(size) for size in sizes)


def draw(generator: np.random.Generator, num: int, size: int) -> np.ndarray:
    """A random subset as a mask (num,) with `size` true."""
    return np.argsort(generator.permutation(num)) < size
