"""What a handful of seeds can carry: intervals, differences with their p-values, and who is ahead on an axis. Knows no torch.

Seeds are the unit: clips and steps of one run are not independent repeats of a training. There is one test on the whole page, Welch's for
unequal variances, of two contenders or of a weighted sum of several. Rivals share data order, noise and timesteps seed by seed, but their
quality does not rise and fall together: in recorded studies it correlates by about nothing (`reports/calibration/verdicts.md`), and then
a paired test throws away half the degrees of freedom. A p-value below a level is not yet a claim: what a page tests is corrected for its
number in claims.py, and stays "open" until then.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from scipy.special import stdtr, stdtrit

MIN_SEEDS = 3  # of each contender, for a claim about a value that varies with the seed
LARGE = 3.0  # standard errors between two logarithms, from which on a difference of too few seeds is called large
MIN_FLOORS = 3  # a distance nearer than this many real-against-real distances is mostly bias

Standing = Literal["open", "leads", "exact", "tie", "matched", "inconclusive", "not compared"]


@dataclass(frozen=True, kw_only=True)
class SeedInterval:
    """A mean over seeds and its t-interval; `low` and `high` are None for a single seed."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A weighted sum of means with its 95 % interval; None where a seed or the variance is missing."""

    value: float
    low: float | None
    high: float | None
    p_value: float | None  # two-sided, that the sum is 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Who is ahead on one axis, and whether the numbers carry it."""

    outcome: Standing
    reason: str
    leader: str | None = None  # the best mean, carried or not
    rival: str | None = None  # the closest mean to it
    difference: Difference | None = None  # leader minus rival
    p_value: float | None = None  # of the leader against whomever it beats least surely; None where nothing is to be tested
    share: float = 1.0  # of a level, that its number of seeds may spend (spending.py)
    corrected: float | None = None  # the p-value, for the number of tests beside it and for other looks
    few: int | None = None  # seeds that the one with fewest has, where they are too few for a claim
    large: bool = False  # of too few seeds: the leader is further ahead than seeds drift apart

    @property
    def carried(self) -> bool:
        """Whether the numbers name a leader."""
        return self.outcome in ("leads", "exact")

    @property
    def word(self) -> str:
        """The outcome as tables say it: "inconclusive" is not one word for all that is not carried."""
        if self.outcome == "leads":
            return "carried"
        return word_of(self.few, self.large) if self.outcome == "inconclusive" else self.outcome

    @property
    def told(self) -> str:
        """The leader; or why there is none, and who is ahead."""
        if self.carried:
            return f"{self.leader}{' (exact)' if self.outcome == 'exact' else ''}"
        return f"{self.word} ({self.leader} ahead)" if self.leader and self.outcome == "inconclusive" else self.word

    def settled(self, corrected: float, level: float, num_tests: int) -> "Verdict":
        """An open one, decided at a level among so many tests."""
        assert self.outcome == "open" and self.p_value is not None
        carried, shown = corrected < level, p_text(self.p_value, corrected, level, num_tests, self.share)
        reason = f"{'' if carried else 'may be chance: '}{self.reason}, {shown}"
        return replace(self, outcome="leads" if carried else "inconclusive", corrected=corrected, reason=reason)


def word_of(few: int | None, large: bool = False) -> str:
    """What is said of values that carry no claim; `few`: their seeds, where these are too few for one.

    >>> word_of(None), word_of(2), word_of(1, large=True)
    ('not told apart', 'two runs', 'large, but one run')
    """
    if few is None:
        return "not told apart"
    runs = "one run" if few == 1 else "two runs"
    return f"large, but {runs}" if large else runs


def p_text(p_value: float, corrected: float, level: float, num_tests: int, share: float = 1.0) -> str:
    """What a test says at a level, of which looks at fewer or more seeds leave it a share.

    >>> p_text(0.004, 0.056, 0.025, 14), p_text(0.0004, 0.0004, 0.025, 1)
    ('p = 0.004, among 14 tests 0.056, not below 0.025', 'p < 0.001, below 0.025')
    >>> p_text(0.002, 0.016, 0.025, 1, 0.125)
    'p = 0.002, over all looks 0.016, below 0.025'
    """
    words = [f"among {num_tests} tests"] * (num_tests > 1) + ["over all looks"] * (share < 1)
    among = f", {' and '.join(words)} {_number(corrected)}" if words else ""
    return f"p {'' if p_value < 0.001 else '= '}{_number(p_value)}{among}, {'' if corrected < level else 'not '}below {level:g}"


def _number(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def mean_interval(values: Sequence[float]) -> SeedInterval:
    """Mean and 95 % t-interval: mean +- t(n - 1) s / sqrt(n), s with n - 1."""
    num = len(values)
    mean = statistics.fmean(values)
    if num < 2:
        return SeedInterval(mean=mean, low=None, high=None)
    half = float(stdtrit(num - 1, 0.975)) * statistics.stdev(values) / math.sqrt(num)
    return SeedInterval(mean=mean, low=mean - half, high=mean + half)


def variance(group: Sequence[float]) -> float:
    """Of two values or more, over n - 1; `statistics.variance` takes twenty times as long for digits that none of these have."""
    mean = statistics.fmean(group)
    return sum((x - mean) ** 2 for x in group) / (len(group) - 1)


def contrast(groups: Sequence[Sequence[float]], weights: Sequence[float]) -> Difference:
    """A weighted sum of the means of independent groups of unequal variance, two-sided (Welch 1947, Satterthwaite 1946).

    Of two groups with weights 1 and -1 it is Welch's t-test.
    """
    means = [statistics.fmean(group) for group in groups]
    value = sum(weight * mean for weight, mean in zip(weights, means, strict=True))
    if min(map(len, groups)) < 2:
        return Difference(value=value, low=None, high=None, p_value=None)
    variances = [variance(group) for group in groups]
    squares = [weight**2 * variance / len(group) for group, weight, variance in zip(groups, weights, variances, strict=True)]
    error = math.sqrt(sum(squares))
    if error == 0:
        return Difference(value=value, low=None, high=None, p_value=None)
    parts = [math.ldexp(square, -2 * math.frexp(error)[1]) for square in squares]  # so that no fourth power over- or underflows
    freedom = sum(parts) ** 2 / sum(part**2 / (len(group) - 1) for group, part in zip(groups, parts, strict=True))
    half = float(stdtrit(freedom, 0.975)) * error
    return Difference(value=value, low=value - half, high=value + half, p_value=float(2 * stdtr(freedom, -abs(value / error))))


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of the first less mean of the second (`contrast`)."""
    return contrast((first, second), (1.0, -1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family, corrected for its size (Holm 1979), in their order.

    Whatever comes out below a level is claimed; then the chance of even one false claim is below it, however the tests depend.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    assert all(0 <= p_value <= 1 for p_value in p_values), p_values
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected


def judge(
    values: Mapping[str, Sequence[float]],
    *,
    better: Literal["lower", "higher"],
    exact: bool = False,
    missing: Mapping[str, str] | None = None,
    share: Callable[[int], float] = lambda seeds: 1.0,
    deviation: float | None = None,
) -> Verdict:
    """Who is ahead on one axis: "open" where the seeds may carry it, with the p-value against the rival that is beaten least surely.

    That one is enough: "leads" says that the leader beats every other, which is false wherever it does not beat one of them, so no
    correction over contenders is due (an intersection-union test, Berger 1982).

    `values`: contender -> one value a seed. `exact`: the value is a count that no seed changes. `missing`: contender ->
    why some or all of its seeds have no value; leaving the failures out would flatter whoever failed. `share`: seeds -> the part of a
    level that they may spend; of two contenders the fewer seeds count. `deviation`: of a value's
    logarithm from seed to seed, as studies recorded it (seed_noise.py); None where none did.
    """
    missing = missing or {}
    present = {name: list(series) for name, series in values.items() if series}
    absent = "; ".join(f"{name}: {why}" for name, why in missing.items())
    if len(present) < 2:
        only = f"only {next(iter(present))} has a value" if present else "no contender has a value"
        return Verdict(outcome="not compared", reason=f"{only} ({absent})" if absent else only)

    sign = 1 if better == "lower" else -1
    order = sorted(present, key=lambda name: sign * statistics.fmean(present[name]))
    leader, rival = order[0], order[1]

    def verdict(outcome: Standing, reason: str, **fields: Any) -> Verdict:
        difference = welch(present[leader], present[rival])
        return Verdict(outcome=outcome, reason=reason, leader=leader, rival=rival, difference=difference, **fields)

    varying = [name for name, series in present.items() if any(a != b for a, b in pairwise(series))]
    if exact and not varying and len(present) == len(values):
        without = f"; no value for {absent}" if absent else ""
        if present[leader][0] == present[rival][0]:
            equal = [name for name in order if present[name][0] == present[leader][0]]
            return verdict("tie", f"exact, and equal for {', '.join(equal)}{without}")
        return verdict("exact", f"exact: a count, the same for every seed{without}")
    if missing:
        return verdict("inconclusive", f"seeds without a value count too ({absent})")
    if statistics.fmean(present[leader]) == statistics.fmean(present[rival]):
        return verdict("tie", "equal means")
    fewest = min(len(series) for series in present.values())
    if fewest < MIN_SEEDS:
        large = is_large(present[leader], present[rival], deviation)
        reason = f"{fewest} seed{'s' if fewest > 1 else ''}; a claim needs at least {MIN_SEEDS}"
        return verdict("inconclusive", reason, few=fewest, large=large)

    p_values: dict[str, tuple[float, float]] = {}  # rival -> p-value, share
    for other in order[1:]:
        p_value = welch(present[leader], present[other]).p_value
        if p_value is None:
            return verdict("inconclusive", f"no spread between the seeds of {leader} and {other}, so nothing tells what chance does")
        p_values[other] = p_value, share(min(len(present[leader]), len(present[other])))
    weakest = max(p_values, key=lambda name: p_values[name][0] / p_values[name][1])
    most = max(len(series) for series in present.values())
    seeds = f"{fewest} seeds each" if fewest == most else f"{fewest} to {most} seeds"
    p_value, left = p_values[weakest]
    return verdict("open", seeds + (f", against {weakest}" if len(p_values) > 1 else ""), p_value=p_value, share=left)


def is_large(first: Sequence[float], second: Sequence[float], deviation: float | None) -> bool:
    """Whether two means of too few seeds are further apart than seeds drift: their ratio, against what was recorded elsewhere.

    Not a test: studies of other data, sizes and budgets say how far seeds drift, so it is a reason to add seeds and no claim.
    """
    means = statistics.fmean(first), statistics.fmean(second)
    if deviation is None or min(means) <= 0:
        return False
    return abs(math.log(means[0] / means[1])) > LARGE * deviation * math.sqrt(1 / len(first) + 1 / len(second))


def distance_caveats(distance: float, floor: float | None, num_clips: int | None) -> list[str]:
    """What must be said beside a distance between sets of clips. `num_clips` is given where a headline needs more."""
    caveats = []
    if num_clips is not None:
        caveats.append(f"n = {num_clips} clips is below what a headline needs")
    if floor is None:
        caveats.append("no real-against-real floor was measured")
    elif floor > 0 and distance < MIN_FLOORS * floor:
        caveats.append(f"only {distance / floor:.1f} floors, below {MIN_FLOORS}: mostly the bias of a small n")
    return caveats
