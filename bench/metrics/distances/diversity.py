"""How much of the real clips a model covers, and how much of what it makes is real: four shares over nearest neighbours. No torch.

Precision and recall: Kynkaanniemi et al. 2019. Density and coverage: Naeem et al. 2020, which one outlier does not inflate.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist

from bench.metrics.distances.frechet import Features, check_features

NUM_NEIGHBOURS = 5
BLOCK = 1024  # rows of a distance matrix in memory at once


def diversity(real: Features, fake: Features, num_neighbours: int = NUM_NEIGHBOURS) -> dict[str, float]:
    """Higher is better; all but density are in [0, 1].

    precision: generated clips inside the ball of some real clip. recall: real clips inside the ball of some generated clip. density: real
    balls that hold a generated clip, mean over the generated clips, over k; may exceed 1. coverage: real clips whose ball holds some
    generated clip. The ball of a clip reaches to its `num_neighbours`-th nearest other clip of its own set, so that a set needs more clips
    than that; a clip on its edge is inside. Ties count as inside on both sides, so identical sets score 1 whatever is repeated in them.
    """
    real, fake = check_features(real, fake)
    real_radius, fake_radius = radius(real, num_neighbours), radius(fake, num_neighbours)  # (n,), (m,)
    inside_of = np.zeros(len(fake), int)  # real balls that each generated clip is in
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, distances in blocks(real, fake):
        in_real = distances <= real_radius[rows, None]
        inside_of += in_real.sum(axis=0)
        covered[rows] = in_real.any(axis=1)
        recalled[rows] = (distances <= fake_radius).any(axis=1)
    return {
        "precision": float((inside_of > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(inside_of.mean() / num_neighbours),
        "coverage": float(covered.mean()),
    }


def radius(features: Features, num_neighbours: int) -> np.ndarray:
    """Squared distance (n,) from each clip to its k-th nearest other clip: place k in order, as place 0 is the clip itself."""
    return np.concatenate(
        [np.partition(distances, num_neighbours, axis=1)[:, num_neighbours] for _, distances in blocks(features, features)]
    )


def blocks(a: Features, b: Features) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of `BLOCK` rows of `a` at a time to all of `b`, (rows, m).

    From differences, not from x.x - 2 x.y + y.y: equal distances come out equal to the last digit, so a tie is a tie.
    """
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, cdist(a[rows], b, "sqeuclidean")
