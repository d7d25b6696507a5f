"""How many times as good one is as another, for every axis on one scale: what a page's first picture shows. Knows no torch.

A ratio is above 1 where the other is better than the first, whether the measurement should be high or low. Its interval holds every ratio
that Welch's test does not reject, the page's one test (`stats.contrast`) of `mean - ratio * mean = 0`: Fieller's interval with Welch's
degrees of freedom. So it leaves 1 out exactly where the page's p-value, by itself, is below 5 %; an interval on logarithms would not,
and would need values whose logarithms are normal. Where a mean may be 0 the interval has no end. A single seed has none.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.special import fdtri

from bench.report.load import Run
from bench.report.render import words
from bench.report.verdicts import compare, stats
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.stats import MIN_SEEDS

ALPHA_EACH = 0.05  # of an interval by itself
MOST = 1e6  # a ratio beyond it is no comparison, and is not drawn
FARTHEST = 1e4  # ratios beyond which an interval is said to have no end
QUALITY, STABILITY = "Clip quality", "Stability"
NEARNESS, SPREAD = "distance to real clips", "spread over seeds"

Groups = Sequence[Sequence[float]]  # values over seeds, one series a contender; several count by their mean


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as good one is as the first."""

    whose: str  # a contender, or a data pipeline
    value: float
    low: float | None  # 95 %; 0 and infinity where there is no end, None without seeds to tell
    high: float | None
    carried: bool  # by the page's rules; or exact
    says: str  # of the better one: "2.6 times as fast"


@dataclass(frozen=True, kw_only=True)
class RatioRow:
    """One axis."""

    title: str
    note: str  # what it is measured by, where the title does not say
    ratios: tuple[Ratio, ...]


@dataclass(frozen=True, kw_only=True)
class AxisRatios:
    """Every axis on which the first and the others can be compared."""

    first: str  # whom all are held against
    others: tuple[str, ...]
    rows: tuple[RatioRow, ...]
    one_run: bool  # a single seed each: nothing has an interval
    named: bool = False  # of clip quality only contrasts that were named before the run may be filled


def of_means(above: Groups, below: Groups) -> tuple[float, float | None, float | None]:
    """Mean over mean with its interval; means above 0.

    >>> value, low, high = of_means([[10.0, 11.0, 12.0]], [[5.0, 5.5, 6.0]])
    >>> value, round(low, 2), round(high, 2)
    (2.0, 1.62, 2.47)
    """
    groups = [*above, *below]
    value = statistics.fmean(map(statistics.fmean, above)) / statistics.fmean(map(statistics.fmean, below))

    def p_value(ratio: float) -> float | None:
        return stats.contrast(groups, [1 / len(above)] * len(above) + [-ratio / len(below)] * len(below)).p_value

    if all(len(set(group)) == 1 for group in groups) or p_value(value) is None:  # nothing spreads, or one seed
        return value, None, None
    return value, _end(p_value, value, 1 / FARTHEST) or 0.0, _end(p_value, value, FARTHEST) or math.inf


def _end(p_value: Callable[[float], float | None], value: float, factor: float) -> float | None:
    """The last ratio from `value` to `factor` times it that is not rejected; None where that is not either."""
    inside, outside = 0.0, math.log(factor)
    if (p_value(value * factor) or 0.0) >= ALPHA_EACH:
        return None
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if (p_value(value * math.exp(middle)) or 0.0) >= ALPHA_EACH else (inside, middle)
    return value * math.exp(inside)


def of_spreads(above: Groups, below: Groups) -> tuple[float, float | None, float | None] | None:
    """Standard deviation over standard deviation with its F interval, several series pooled; None where one is 0.

    >>> [round(part, 2) for part in of_spreads([[1.0, 2.0, 3.0]], [[2.0, 4.0, 6.0]])]
    [0.5, 0.08, 3.12]
    """
    variances = [statistics.fmean(map(statistics.variance, groups)) for groups in (above, below)]
    if min(variances) == 0 or max(variances) / min(variances) > MOST**2:
        return None
    one, other = (sum(len(group) - 1 for group in groups) for groups in (above, below))
    tail, value = 1 - ALPHA_EACH / 2, math.sqrt(variances[0] / variances[1])
    return value, value / math.sqrt(float(fdtri(one, other, tail))), value * math.sqrt(float(fdtri(other, one, tail)))


def ratio(row: MeasureRow, first: Groups, other: Groups, whose: str, carried: bool) -> Ratio | None:
    """How many times as good the other is; None where a mean is not above 0, or they are not of one size at all."""
    means = [statistics.fmean(series) if series else 0.0 for series in (*first, *other)]
    if min(means) <= 0 or max(means) / min(means) > MOST:
        return None
    value, low, high = of_means(other, first) if row.better == "higher" else of_means(first, other)
    said = row.metric.plain.says(value, row.better).removeprefix("in ")
    matched = row.verdict is not None and row.verdict.outcome == "matched"
    return Ratio(whose=whose, value=value, low=low, high=high, carried=carried, says="matched" if matched else said)


def stability(first: Groups, other: Groups, whose: str) -> Ratio | None:
    """How many times as close together the other's seeds are: shown, never tested. None below the seeds that a claim needs."""
    if min(map(len, (*first, *other)), default=0) < MIN_SEEDS or (found := of_spreads(first, other)) is None:
        return None
    value, low, high = found
    return Ratio(whose=whose, value=value, low=low, high=high, carried=False, says=f"{words.share(min(value, 1 / value))} spread")


def shown_rows(run: Run, rows: Sequence[MeasureRow]) -> dict[str, MeasureRow]:
    """Title in the picture -> row, in its order: quality by the primary measure, then each axis of speed, memory and cost once."""
    quality = [(QUALITY, row) for row in rows if row.subject == "trained" and row.name.partition("@")[0] == run.primary]
    found: dict[str, MeasureRow] = {}
    for title, row in [*quality, *((row.metric.plain.axis, row) for row in compare.axes(rows) if row.metric.plain.axis)]:
        if row.verdict and row.verdict.outcome != "not compared":
            found.setdefault(title, row)
    return found


def series_of(row: MeasureRow, contenders: Sequence[str]) -> Mapping[str, Sequence[float]]:
    """Values over seeds of each."""
    return {name: [value for _, value in row.entry(name).by_seed] for name in contenders}


def against_first(
    run: Run, rows: Sequence[MeasureRow], first: str | None = None, carried: Mapping[frozenset[str], bool] | None = None
) -> AxisRatios | None:
    """Every contender against the first one, or another; None where there is nothing to show.

    `carried`: pairs whose clips were compared by name, and whether the seeds tell them apart; then no others are told apart by quality,
    and it has no row where there is none in every pair.
    """
    if len(run.contenders) < 2:
        return None
    first = first or run.contenders[0]
    others = [name for name in run.contenders if name != first]
    made = []
    shown = shown_rows(run, rows)
    asked = carried is None or all(first in pair for pair in carried)
    for title, row in shown.items():
        if title == QUALITY and not asked:
            continue
        values = series_of(row, run.contenders)
        known = carried if title == QUALITY else None
        told = {name: _carried(row, first, name) if known is None else known.get(frozenset((first, name)), False) for name in others}
        found = [ratio(row, [values[first]], [values[name]], name, told[name]) for name in others]
        made.append(ratio_row(title, _note(row) if title == QUALITY else "", found))
    if QUALITY in shown:
        values = series_of(shown[QUALITY], run.contenders)
        made.append(ratio_row(STABILITY, SPREAD, [stability([values[first]], [values[name]], name) for name in others]))
    shown_axes = collected(run, first, others, made)
    return replace(shown_axes, named=carried is not None) if shown_axes else None


def _note(row: MeasureRow) -> str:
    """What quality is measured by."""
    return NEARNESS if row.metric.distance else row.metric.title[0].lower() + row.metric.title[1:]


def ratio_row(title: str, note: str, found: Sequence[Ratio | None]) -> RatioRow:
    """A row of those that there are."""
    return RatioRow(title=title, note=note, ratios=tuple(each for each in found if each))


def collected(run: Run, first: str, others: Sequence[str], made: Sequence[RatioRow]) -> AxisRatios | None:
    """The rows that have a ratio; None where none has."""
    rows = tuple(row for row in made if row.ratios)
    one_run = max((len({cell.seed for cell in run.of(name)}) for name in run.contenders), default=0) < 2
    return AxisRatios(first=first, others=tuple(others), rows=rows, one_run=one_run) if rows else None


def _carried(row: MeasureRow, first: str, other: str) -> bool:
    """Whether the page's verdict tells these two apart: whoever leads beats all others. Counts are what they are."""
    if row.verdict is None or not row.verdict.carried:
        return False
    return row.verdict.outcome == "exact" or row.verdict.leader in (first, other)
