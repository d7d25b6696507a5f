"""From the log ratios of pairs to a verdict: by size and by evidence, with false alarms held down over the whole suite.

One benchmark at a time. A slow-down is called when the mean log ratio is at least half of the smallest slow-down that must be caught
(halfway, so that missing it and crying wolf are equally far) and a one-sided t-test says that it is no accident. The variance of
few pairs is itself uncertain: it is shrunk towards what is usual (Smyth 2004, the moderated t-test of limma). Usual is what recordings
showed, or, where the whole suite is noisier than that, what it shows in this very check.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["regressed", "unchanged", "improved", "inconclusive", "not comparable"]

# A usual spread of pairs and how many pairs' worth it is. Recordings have 0.4 to 1.7 % (reports/gate). With more weight, a machine on
# which pairs differ by 3 % or more would raise false alarms where few benchmarks are chosen.
PRIOR_SPREAD, PRIOR_FREEDOM = 0.01, 2
MISS = 0.01  # chance of calling "unchanged" what is just as slow as must be caught


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the pairs of one benchmark say so far. Ratios of times, head over base."""

    ratio: float  # exp of the mean log ratio
    low: float  # the interval that the verdict was made with
    high: float
    num_pairs: int
    outcome: Outcome


def usual_spread(suite: Iterable[Sequence[float]]) -> float:
    """Standard deviation of pairs to shrink towards: that of recordings, or the lower median over a suite's benchmarks if it is larger.

    `suite`: of each benchmark with two or more pairs, its log ratios.
    """
    variances = [_squares(log_ratios) / (len(log_ratios) - 1) for log_ratios in suite]
    return max(PRIOR_SPREAD, math.sqrt(statistics.median_low(variances)))


def judge_pairs(log_ratios: Sequence[float], *, detect: float, alpha: float, usual: float = PRIOR_SPREAD) -> Estimate:
    """Verdict from pairs of workers; "inconclusive" also means "not yet".

    `detect`: the smallest slow-down to catch, 0.05 for 5 %. `alpha`: chance of a false alarm that this one look may have. `usual`: see
    `usual_spread`.
    """
    num = len(log_ratios)
    mean = statistics.fmean(log_ratios)
    freedom = PRIOR_FREEDOM + num - 1
    variance = (PRIOR_FREEDOM * usual**2 + _squares(log_ratios)) / freedom
    return _decide(mean, math.sqrt(variance / num), freedom, num, detect, alpha)


def judge_groups(base_s: Sequence[float], head_s: Sequence[float], *, detect: float, alpha: float) -> Estimate:
    """Verdict from processes that did not run in lock-step: one median step time each, of one spread (Student's two-sample test)."""
    base, head = ([math.log(seconds) for seconds in side] for side in (base_s, head_s))
    freedom = len(base) + len(head) - 2
    variance = (_squares(base) + _squares(head)) / freedom
    error = math.sqrt(variance * (1 / len(base) + 1 / len(head)))
    return _decide(statistics.fmean(head) - statistics.fmean(base), error, freedom, min(len(base), len(head)), detect, alpha)


def _decide(mean: float, error: float, freedom: int, num: int, detect: float, alpha: float) -> Estimate:
    from scipy.special import stdtrit

    evidence, miss = (float(stdtrit(freedom, 1 - chance)) * error for chance in (alpha, MISS))
    limit = math.log1p(detect)
    outcome: Outcome = "inconclusive"
    if mean >= limit / 2 and mean > evidence:
        outcome = "regressed"
    elif mean <= -limit / 2 and mean < -evidence:
        outcome = "improved"
    elif mean < limit / 2 and mean + miss < limit:
        outcome = "unchanged"
    return Estimate(ratio=math.exp(mean), low=math.exp(mean - miss), high=math.exp(mean + miss), num_pairs=num, outcome=outcome)


def _squares(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return sum((value - mean) ** 2 for value in values)


def alpha_of_a_look(false_alarms: float, num_benchmarks: int, num_looks: int) -> float:
    """The share of one benchmark and one look in the false alarms of a whole check (Bonferroni).

    >>> alpha_of_a_look(0.01, 10, 5)
    0.0002
    """
    return false_alarms / (num_benchmarks * num_looks)
