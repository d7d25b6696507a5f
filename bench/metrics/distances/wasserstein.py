"""How far apart two sets of clips are in a few plain quantities that share a unit, each on its own. No torch."""

from __future__ import annotations

import math

import numpy as np


def mean_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Quantities (n, D) and (m, D) -> mean over D of the 1-D Wasserstein distances, in their unit; lower is better.

    Rows with NaN are clips that have no such quantities and are left out; NaN where a set has no other. Never below 0, and above it for two
    sets of one distribution, by about a quantity's spread over the root of n: read it beside real against real.
    """
    from scipy.stats import wasserstein_distance  # takes a second to import, and whoever only names measures needs none of it

    a, b = (rows[~np.isnan(rows).any(axis=1)] for rows in (a, b))
    if not len(a) or not len(b):
        return math.nan
    return float(np.mean([wasserstein_distance(x, y) for x, y in zip(a.T, b.T, strict=True)]))
