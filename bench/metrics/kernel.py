"""Kernel distance between two sets of features: unbiased, so it may be read where n is too small for a Frechet distance."""

from __future__ import annotations

import numpy as np

from bench.metrics.frechet import Features, check_features


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3), all samples, kernel (x.y / d + 1)^3; lower is better.

    Its expectation is 0 for two sets from one distribution, so a value is below 0 about half of the time there.
    """
    a, b = check_features(a, b)
    return within(a) + within(b) - 2 * float(cubic_kernel(a, b).mean())


def within(features: np.ndarray) -> float:
    """Mean kernel over ordered pairs of different clips: the diagonal is what would bias it."""
    n = len(features)
    gram = cubic_kernel(features, features)  # (n, n)
    return float((gram.sum() - np.trace(gram)) / (n * (n - 1)))


def cubic_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(x.y / d + 1)^3 for every pair: (n, d), (m, d) -> (n, m)."""
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)
