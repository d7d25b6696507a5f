"""Kernel distance between two sets of features: unbiased, so it may be read where n is too small for a Frechet distance. No torch."""

from __future__ import annotations

import numpy as np

from bench.metrics.distances.frechet import Features, check_features

BLOCK = 1024  # rows of a kernel matrix in memory at once


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3), all samples, kernel (x.y / d + 1)^3; lower is better.

    Its expectation is 0 for two sets from one distribution, so a value is below 0 about half of the time there.
    """
    return KernelGroups(a, b, np.zeros(len(a), int), np.zeros(len(b), int))(np.ones(1, bool))


class KernelGroups:
    """`kernel_distance` of what is left when groups of clips are left out, `keep (G,) bool -> distance`.

    `group_a` (n,) and `group_b` (m,) say which group each clip is in. Kernels are computed once and summed by pair of groups.
    """

    def __init__(self, a: Features, b: Features, group_a: np.ndarray, group_b: np.ndarray):
        a, b = check_features(a, b)
        groups = int(max(group_a.max(), group_b.max())) + 1
        self.count_a, self.count_b = (np.bincount(group, minlength=groups) for group in (group_a, group_b))  # each (G,)
        self.within_a, self.within_b = within(a, group_a, groups), within(b, group_b, groups)  # each (G, G)
        self.between = sums_by_group(a, b, group_a, group_b, groups)  # (G, G)

    def __call__(self, keep: np.ndarray) -> float:
        num_a, num_b = int(self.count_a[keep].sum()), int(self.count_b[keep].sum())
        sum_a, sum_b, between = (float(sums[np.ix_(keep, keep)].sum()) for sums in (self.within_a, self.within_b, self.between))
        return sum_a / (num_a * (num_a - 1)) + sum_b / (num_b * (num_b - 1)) - 2 * between / (num_a * num_b)


def within(features: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums (G, G) of the kernel over ordered pairs of different clips: the diagonal is what would bias it."""
    alone = (np.square(features).sum(axis=1) / features.shape[1] + 1) ** 3  # (n,) kernel of each clip with itself
    return sums_by_group(features, features, group, group, groups) - np.diag(np.bincount(group, alone, groups))


def sums_by_group(a: np.ndarray, b: np.ndarray, group_a: np.ndarray, group_b: np.ndarray, groups: int) -> np.ndarray:
    """Sums (G, G) of (x.y / d + 1)^3 over x of each group of `a` (n, d) and y of each group of `b` (m, d)."""
    members_a, members_b = np.eye(groups)[group_a], np.eye(groups)[group_b]  # (n, G), (m, G), one 1 a row
    total = np.zeros((groups, groups))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        total += members_a[rows].T @ (((a[rows] @ b.T / a.shape[1] + 1) ** 3) @ members_b)
    return total
