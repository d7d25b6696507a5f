"""What fits: the largest batch, number of frames or square size, by a predicted peak below a limit or by trying. Knows no torch."""

import bisect
import math
from collections.abc import Callable

from bench.shapes import Refusal

MOST_UNIT = 128  # a backbone whose sides are multiples of more takes none
MOST_UNITS = 2**20  # a search ends there
GROWTH = 8  # a guess is at most this many times what is known to fit: what is far too large may take long to predict
CLOSE = 0.001  # of the limit
STRIDE = 0.05  # of the guess, the first step away from it: a reserve is about as large
NEAR = 0.02  # what is tried is exact up to 50
MOST_GUESSES = 8  # evaluations after which the interval is halved


def largest(cost: Callable[[int], int], limit: float, *, most: int = MOST_UNITS, guess: int = 16) -> int:
    """The largest n in 1..most of which cost(n), which grows with n, is at most `limit`; 0 where there is none.

    An n whose cost is within `CLOSE` below the limit is as good as the largest, as no prediction is that good. A parabola
    through the three nearest known points says where to look next: few evaluations, as memory is nearly a polynomial.

    >>> largest(lambda n: 10 + 3 * n, 100), largest(lambda n: n * n, 10), largest(lambda n: n + 5, 3)
    (30, 3, 0)
    """
    known = {1: cost(1)}
    if known[1] > limit:
        return 0
    fits, fails = 1, most + 1
    looked = min(guess, most)
    while fails - fits > 1 and known[fits] < (1 - CLOSE) * limit:
        if not fits < looked < fails:
            looked = _next(known, fits, fails, (1 - CLOSE / 2) * limit)
        known[looked] = cost(looked)
        fits, fails = (looked, fails) if known[looked] <= limit else (fits, looked)
        looked = 0
    return fits


def largest_tried(fits: Callable[[int], bool], guess: int, most: int) -> int:
    """The largest n in 1..most that `fits`, to within `NEAR` of it; 0 where there is none. What fits, all below it do.

    For what is dear to ask: it looks at the guess, then away from it in doubling strides until the answer is between two, then halves.

    >>> asked = []
    >>> largest_tried(lambda n: asked.append(n) or n <= 43, guess=40, most=512), asked
    (43, [40, 42, 46, 44, 43])
    """
    low, high = 0, most + 1  # fits; does not, as far as is known
    looked, stride = min(max(1, guess), most), max(1, round(guess * STRIDE))
    while high - low > max(1, NEAR * low):
        if fits(looked):
            low = looked
        else:
            high = looked
        if high > most:
            looked, stride = min(low + stride, most), 2 * stride
        elif not low:
            looked, stride = max(high - stride, 1), 2 * stride
        else:
            looked = (low + high) // 2
    return low


def _next(known: dict[int, int], fits: int, fails: int, limit: float) -> int:
    """Where to look between `fits` and `fails`: at the answer that the parabola gives, or right above it, where it is known to fit."""
    if len(known) > MOST_GUESSES and fails in known:
        return (fits + fails) // 2
    distinct = {size: n for n, size in sorted(known.items())}  # of a plateau the last point
    nearest = sorted(distinct.values(), key=lambda n: abs(known[n] - limit))[:3]
    low, high = fits, min(fails - 1, fits * GROWTH)
    while low < high:  # the last n at which the curve is below the limit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _curve(nearest, known, middle) <= limit else (low, middle - 1)
    return max(low, fits + 1)


def _curve(places: list[int], known: dict[int, int], at: int) -> float:
    """Lagrange's polynomial through the known values at `places`."""
    return sum(math.prod((at - other) / (place - other) for other in places if other != place) * known[place] for place in places)


def unit(check: Callable[[int], None]) -> int:
    """The smallest size that `check` takes, of which it then takes multiples. Refusal, the check's own, where it takes none."""
    fitting = next((size for size in range(1, MOST_UNIT) if accepts(check, size)), MOST_UNIT)
    if fitting == MOST_UNIT:
        check(fitting)
    return fitting


def most_units(check: Callable[[int], None], step: int) -> int:
    """The most units that `check` takes: a backbone may have positions for so many only."""
    if accepts(check, MOST_UNITS * step):
        return MOST_UNITS
    return bisect.bisect(range(1, MOST_UNITS), 0, key=lambda units: not accepts(check, units * step))


def accepts(check: Callable[[int], None], size: int) -> bool:
    """Whether a check raises nothing."""
    try:
        check(size)
    except Refusal:
        return False
    return True
