"""How much of a level a look at the seeds may spend, so that all looks together spend it once. Knows no torch and no values.

Whoever tests after every added seed at the level of one test is wrong far more often than that level says. Here a level `a` is spent as
`a (n / most) ** POWER` by the time of n seeds (Lan and DeMets 1983, Kim and DeMets 1987): little at three seeds, whose spread is hardly
known, and most of it at the end, so that a difference which needs all seeds is found nearly as often as by one test of them. The p-value
that a look must be below follows from the normal random walk; that Welch's p-values may be held against it, few seeds and unequal spreads
included, is shown by simulation (`reports/calibration/sequential.md`).
"""

from functools import cache

import numpy as np
from scipy.special import ndtr, ndtri

from bench.report.verdicts.claims import LEVELS
from bench.study.looks import Looks

POWER = 2.0
EXTENDED = 0.5  # of a level for every time that a study of fixed seeds was given more: at most twice the level, however often
POINTS, HALVINGS = 201, 50  # of the density inside the boundary; of the interval that a boundary is looked for in


def share(looks: Looks | None, extensions: int, seeds: int) -> float:
    """The part of a level that a test at so many seeds may spend: 1 where seeds were fixed.

    >>> [round(share(Looks(), 0, seeds), 2) for seeds in (3, 6, 9, 12)], share(None, 1, 5)
    ([0.06, 0.14, 0.3, 0.53], 0.5)
    """
    left = EXTENDED**extensions
    return left if looks is None else left * _shares(looks.first, looks.most)[min(max(seeds, looks.first), looks.most) - looks.first]


@cache
def _shares(first: int, most: int) -> tuple[float, ...]:
    """Of looks at `first` to `most` seeds: the level of each over that of all.

    The walk is the sum of so many independent steps; at each look those paths leave that are further out than its boundary, which is put
    where just the part of the level leaves that has not been spent by then (Armitage, McPherson and Rowe 1969).
    """
    level, shares = LEVELS["headline"], []
    spent, weights = 0.0, np.ones(1)  # of paths that have not left, at these places
    places, steps = np.zeros(1), float(first)
    for seeds in range(first, most + 1):
        due, step = level * (seeds / most) ** POWER - spent, np.sqrt(steps)
        low, high = 0.0, 10 * np.sqrt(seeds)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            leave = float(weights @ (ndtr((places - middle) / step) + ndtr((-middle - places) / step)))
            low, high = (middle, high) if leave > due else (low, middle)
        shares.append(float(2 * ndtr(-high / np.sqrt(seeds))) / level)
        inside = np.linspace(-high, high, POINTS)
        density = np.exp(-(((inside[:, None] - places) / step) ** 2) / 2) @ weights / (step * np.sqrt(2 * np.pi))
        width = np.full(POINTS, inside[1] - inside[0])
        width[[0, -1]] /= 2
        places, weights, spent, steps = inside, density * width, spent + due, 1.0
    return tuple(shares)


def boundary(level: float) -> float:
    """The normal deviate whose two-sided p-value is a level.

    >>> round(boundary(0.05), 2)
    1.96
    """
    return float(-ndtri(level / 2))
