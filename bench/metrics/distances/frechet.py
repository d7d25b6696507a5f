"""Frechet distance between two sets of features. Knows features, not clips, extractors or names; no torch.

float64 throughout; covariance divides by n - 1. Two routes: `frechet_distance` is what a report says, `FrechetSubsets` is for loops
over resampled sets.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import scipy  # its parts are imported when they are used: whoever only names distances needs none

from bench.shapes import Refusal

Features = np.ndarray  # (n, d), a row a clip

MIN_CLIPS = 2  # a covariance over n - 1 needs two
LARGEST = 1e150  # the square of a larger feature overflows
FAST_TOLERANCE = 1e-7  # largest predicted error of the fast route, relative to the traces; it must agree to 1e-6
EPSILON = float(np.finfo(np.float64).eps)


def check_features(a: Features, b: Features) -> tuple[Features, Features]:
    """Both sets as float64 (n, d) and (m, d). Refusal where they are not two sets of features that compare."""
    for name, features in (("first", a), ("second", b)):
        if features.ndim != 2 or len(features) < MIN_CLIPS or not np.issubdtype(features.dtype, np.floating):
            raise Refusal(
                f"the {name} set of features must be floats (n, d) of at least {MIN_CLIPS} clips, got {features.dtype} {features.shape}"
            )
        bad = ~(np.abs(features.astype(np.float64, copy=False)) < LARGEST).all(axis=1)
        if bad.any():
            raise Refusal(
                f"the {name} set has NaN or infinite features in {bad.sum()} of {len(features)} clips, first in clip {bad.argmax()}"
                f" (infinite begins at {LARGEST:g} here)"
            )
    if a.shape[1] != b.shape[1]:
        raise Refusal(f"the two sets have {a.shape[1]} and {b.shape[1]} features a clip; were they made by one extractor?")
    return a.astype(np.float64), b.astype(np.float64)


def frechet_distance(a: Features, b: Features) -> float:
    """|mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), S over n - 1; lower is better, never below 0 but for rounding.

    With X, Y the centred features over sqrt(n - 1), S_a = X'X and S_b = Y'Y, and tr (S_a S_b)^(1/2) is the sum of the singular values
    of X Y'. No matrix root and no squared condition number, so it holds to rounding for n < d too. QR first: X Y' and R_x R_y' have
    the same singular values, and the second is at most d x d.
    """
    a, b = near_origin(a, b)
    mean_a, mean_b = mean_of(a), mean_of(b)  # (d,)
    root_a, root_b = covariance_root(a - mean_a), covariance_root(b - mean_b)  # (min(n, d), d)
    trace = np.square(root_a).sum() + np.square(root_b).sum() - 2 * scipy.linalg.svdvals(root_a @ root_b.T).sum()
    return float(np.square(mean_a - mean_b).sum() + trace)


def near_origin(a: Features, b: Features) -> tuple[Features, Features]:
    """Both sets minus one clip, so that a large common offset is gone before a digit is rounded; the distance does not change."""
    a, b = check_features(a, b)
    pivot = a[0].copy()
    return a - pivot, b - pivot


def mean_of(features: Features) -> np.ndarray:
    """Mean (d,) in two passes: the second adds what rounding lost in the first."""
    first = features.mean(axis=0)
    return np.asarray(first + (features - first).mean(axis=0))


def covariance_root(centred: np.ndarray) -> np.ndarray:
    """R (min(n, d), d) with R'R the covariance of centred features (n, d)."""
    scaled = centred / math.sqrt(len(centred) - 1)
    return np.asarray(np.linalg.qr(scaled, mode="r")) if len(scaled) > scaled.shape[1] else scaled


def fast_root_trace(covariance_a: np.ndarray, covariance_b: np.ndarray) -> float | None:
    """tr (S_a S_b)^(1/2) from the eigenvalues of L' S_b L with S_a = L L', or None where that might not hold to `FAST_TOLERANCE`.

    One Cholesky factor and one symmetric eigenproblem without vectors: about half the work of any other route. But eigenvalues carry an
    absolute error, whose root is large where they are small, so the error is predicted from the eigenvalues that came out.
    """
    try:
        # The stubs know this driver only together with vectors.
        values = scipy.linalg.eigh(  # type: ignore[call-overload]
            covariance_b, covariance_a, type=2, eigvals_only=True, driver="gv", check_finite=False
        )
    except np.linalg.LinAlgError:  # not positive definite
        return None
    noise = 8 * EPSILON * float(np.linalg.norm(covariance_a) * np.linalg.norm(covariance_b))
    error = float((noise / np.sqrt(np.maximum(values, noise))).sum()) if noise > 0 else math.inf
    if not error <= FAST_TOLERANCE * float(np.trace(covariance_a) + np.trace(covariance_b)):
        return None
    return float(np.sqrt(np.maximum(values, 0)).sum())


class Sums:
    """One set's sum and outer products, from which those of any subset follow by taking off what is left out."""

    def __init__(self, features: Features):
        self.features = features

    @cached_property
    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum (d,) and sum of outer products (d, d) of all clips."""
        return self.features.sum(axis=0), self.features.T @ self.features

    def moments(self, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d) over n - 1 of the clips where `keep` (n,) is true."""
        num = int(keep.sum())
        few = self.features[keep if 2 * num <= len(keep) else ~keep]
        sums, outer = few.sum(axis=0), few.T @ few
        if 2 * num > len(keep):
            sums, outer = self.total[0] - sums, self.total[1] - outer
        mean = sums / num
        return mean, (outer - num * np.outer(mean, mean)) / (num - 1)


class FrechetSubsets:
    """Frechet distance of many subsets of two sets, `(keep_a (n,) bool, keep_b (m,) bool) -> distance`, for resampling.

    Within 1e-6 of `frechet_distance`, relative to the traces, and much faster. More clips than features: moments and `fast_root_trace`.
    Fewer: singular values of the n x n matrix X Y', exact. Where neither holds, `frechet_distance` itself.
    """

    def __init__(self, a: Features, b: Features):
        a, b = near_origin(a, b)
        centre = (mean_of(a) + mean_of(b)) / 2  # moments of a subset are then sums of small numbers
        self.a, self.b = a - centre, b - centre
        self.sums_a, self.sums_b = Sums(self.a), Sums(self.b)

    @cached_property
    def products(self) -> np.ndarray:
        """x.y of every pair, (n, m)."""
        return np.asarray(self.a @ self.b.T)

    def __call__(self, keep_a: np.ndarray, keep_b: np.ndarray) -> float:
        counts, d = (int(keep_a.sum()), int(keep_b.sum())), self.a.shape[1]
        if min(counts) > d:
            (mean_a, covariance_a), (mean_b, covariance_b) = self.sums_a.moments(keep_a), self.sums_b.moments(keep_b)
            root_trace = fast_root_trace(covariance_a, covariance_b)
            if root_trace is not None:
                traces = float(np.trace(covariance_a) + np.trace(covariance_b))
                return float(np.square(mean_a - mean_b).sum()) + traces - 2 * root_trace
        elif max(counts) <= 2 * d:
            return self.from_products(keep_a, keep_b)
        return frechet_distance(self.a[keep_a], self.b[keep_b])

    def from_products(self, keep_a: np.ndarray, keep_b: np.ndarray) -> float:
        """The sum of the singular values of the centred x.y over sqrt((n - 1) (m - 1)) is the root's trace."""
        a, b = self.a[keep_a], self.b[keep_b]
        mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
        products = self.products[np.ix_(keep_a, keep_b)]  # (n, m)
        products = products - products.mean(axis=0) - products.mean(axis=1, keepdims=True) + products.mean()
        roots = float(scipy.linalg.svdvals(products, overwrite_a=True, check_finite=False).sum())
        traces = np.square(a - mean_a).sum() / (len(a) - 1) + np.square(b - mean_b).sum() / (len(b) - 1)
        return float(np.square(mean_a - mean_b).sum() + traces - 2 * roots / math.sqrt((len(a) - 1) * (len(b) - 1)))
