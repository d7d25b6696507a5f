"""Where warm-up ends, found in the step times themselves. Knows no torch."""

import statistics
from collections.abc import Sequence

WINDOW = 5  # steps whose median is looked at: one slow step is no warm-up
FEWEST = 10  # steps below which there is too little to look at


def num_warmup_steps(step_time_s: Sequence[float]) -> int:
    """Leading steps that no rate counts.

    The second half of a run is taken to be steady. Warm-up lasts until the median of `WINDOW` steps first falls among that half's times
    (its 95th percentile), and at least one step; of a run of fewer than `FEWEST` steps it is a fifth.

    >>> num_warmup_steps([3.0, 2.0, 1.5] + [1.0, 1.1] * 20)
    3
    >>> num_warmup_steps([1.0, 1.1] * 20), num_warmup_steps([1.0] * 8)
    (1, 1)
    """
    num = len(step_time_s)
    if num < FEWEST:
        return num // 5
    steady = sorted(step_time_s[num // 2 :])
    limit_s = steady[min(len(steady) - 1, int(0.95 * len(steady)))]
    half = range(num // 2)
    calm = next((start for start in half if statistics.median(step_time_s[start : start + WINDOW]) <= limit_s), num // 2)
    # The window's median is calm before all of its steps are: leave the slow ones at its start out.
    while calm < num // 2 and step_time_s[calm] > limit_s:
        calm += 1
    return max(1, calm)
