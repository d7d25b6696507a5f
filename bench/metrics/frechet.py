"""Frechet distance between two sets of features. Knows features, not clips, extractors or names; no torch.

float64 throughout; covariance divides by n - 1.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

Features = np.ndarray  # (n, d), a row a clip

MIN_CLIPS = 2  # a covariance over n - 1 needs two


def check_features(a: Features, b: Features) -> tuple[Features, Features]:
    """Both sets as float64 (n, d) and (m, d). ValueError where they are not two sets of features that compare."""
    for name, features in (("first", a), ("second", b)):
        if not isinstance(features, np.ndarray) or features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
            found = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
            raise ValueError(f"the {name} set of features must be a float array (n, d), got {found}")
        if len(features) < MIN_CLIPS:
            raise ValueError(f"the {name} set has {len(features)} clips, a distance needs at least {MIN_CLIPS}")
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise ValueError(
                f"the {name} set has NaN or infinite features in {bad.sum()} of {len(features)} clips, first in clip {bad.argmax()}"
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the two sets have {a.shape[1]} and {b.shape[1]} features a clip; were they made by one extractor?")
    return a.astype(np.float64), b.astype(np.float64)


def frechet_distance(a: Features, b: Features) -> float:
    """|mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), S over n - 1; lower is better, never below 0 but for rounding.

    With X, Y the centred features over sqrt(n - 1), S_a = X'X and S_b = Y'Y, and tr (S_a S_b)^(1/2) is the sum of the singular values
    of X Y'. No matrix root and no squared condition number, so it holds to rounding for n < d too. QR first: X Y' and R_x R_y' have
    the same singular values, and the second is at most d x d.
    """
    a, b = check_features(a, b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)  # (d,)
    root_a, root_b = (covariance_root(features - mean) for features, mean in ((a, mean_a), (b, mean_b)))  # (min(n, d), d)
    trace = np.square(root_a).sum() + np.square(root_b).sum() - 2 * scipy.linalg.svdvals(root_a @ root_b.T).sum()
    return float(np.square(mean_a - mean_b).sum() + trace)


def covariance_root(centred: np.ndarray) -> np.ndarray:
    """R (min(n, d), d) with R'R the covariance of centred features (n, d)."""
    scaled = centred / math.sqrt(len(centred) - 1)
    return np.asarray(np.linalg.qr(scaled, mode="r")) if len(scaled) > scaled.shape[1] else scaled
