"""Where the winner flips: contenders of two families compared pair by pair, each pair equal in something else.

A study's headline rests on its main contenders. Further ones (`include` beside `axes`) are sized or given budgets otherwise, so that the
page can show the same question at equal parameters, FLOPs, step time, seconds or clips. These tests are corrected with all others of the
page and cannot turn the headline.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bench.records.record import Record
from bench.report.load import Run
from bench.report.render import words
from bench.report.render.table import NONE, Table
from bench.report.verdicts.compare import MeasureRow, who_leads, why_not_comparable
from bench.report.verdicts.stats import Verdict
from bench.study.cell import differences

WITHIN = 0.1  # two contenders are equal in what differs by at most this much, larger over smaller less 1
# What a pair may be equal in -> how it is said.
EQUALS = {
    "num_params": "parameters",
    "flops_per_clip": "FLOPs of a clip",
    "step_time_s": "step time",
    "train_flops": "training FLOPs",
    "train_samples": "training clips",
    "train_wall_time_s": "training seconds",
}


@dataclass(frozen=True, kw_only=True)
class EqualPair:
    """Two contenders of different families under one budget, and who is better by the primary measure."""

    first: str
    second: str
    equal: tuple[str, ...]  # in what, as EQUALS says it
    row: MeasureRow
    by_seed: tuple[tuple[float, ...], tuple[float, ...]]  # of every seed, of each
    verdict: Verdict
    main: bool  # whether it is the headline's own, and has its verdict


def equal_pairs(run: Run, rows: Sequence[MeasureRow]) -> list[EqualPair]:
    """Every pair of a run that has further contenders; none of one that has not, whose verdict says it all."""
    row = next((row for row in rows if row.subject == "trained" and row.name.partition("@")[0] == run.primary), None)
    if row is None or not run.further:
        return []
    found = []
    for first, second in itertools.combinations(run.labels, 2):
        if not _rivals(run, first, second):
            continue
        lines = run.measurements
        own = lines[(lines["name"] == row.name) & (lines["subject"] == "trained") & lines["contender"].isin((first, second))]
        values = {name: own.loc[(own["contender"] == name) & own["invalid"].isna(), "value"].tolist() for name in (first, second)}
        missing = {name: why for name in (first, second) if (why := run.missing(name, row.name))}
        incomparable = why_not_comparable(run, own, row.metric)
        verdict = who_leads(run, row.name, values, better=row.better, missing=missing, incomparable=incomparable)
        both = tuple(values[first]), tuple(values[second])
        main = {first, second} == set(run.contenders)
        equal = _equal(run, first, second)
        found.append(EqualPair(first=first, second=second, equal=equal, row=row, by_seed=both, verdict=verdict, main=main))
    return found


def decided(pair: EqualPair, verdict: Verdict) -> EqualPair:
    """The pair with its verdict corrected."""
    return replace(pair, verdict=verdict)


def _rivals(run: Run, first: str, second: str) -> bool:
    """Whether two contenders are of different families, and their cells differ in nothing else but what was tuned."""
    one, other = (next((cell.record for cell in run.of(name) if cell.record), None) for name in (first, second))
    if one is None or other is None or _family(one) == _family(other):
        return False
    tuned = {name for record in (one, other) if record.tuning for name in record.tuning.chosen}
    apart = {key for key, _, _ in differences(one.cell, other.cell)} - tuned - {"backbone", "seed", "evaluation.untrained"}
    return not apart


def _family(record: Record) -> str:
    return record.cell.backbone.partition(":")[0]


def _equal(run: Run, first: str, second: str) -> tuple[str, ...]:
    """What the two are equal in, by their measured means."""
    found = []
    for name, word in EQUALS.items():
        means = [_mean(run, contender, name) for contender in (first, second)]
        if all(mean is not None and mean > 0 for mean in means):
            least, most = sorted(mean for mean in means if mean is not None)
            found += [word] if most / least - 1 <= WITHIN else []
    return tuple(found)


def _mean(run: Run, contender: str, name: str) -> float | None:
    found = [cell.record.measurement(name) for cell in run.of(contender) if cell.record]
    values = [measurement.value for measurement in found if measurement and measurement.invalid is None]
    return statistics.fmean(values) if values else None


def flip_table(pairs: Sequence[EqualPair]) -> Table:
    """One line a pair: what it is equal in, both means, who is better."""
    lines, data = [], []
    for pair in pairs:
        verdict, row = pair.verdict, pair.row
        means = [statistics.fmean(values) if values else None for values in pair.by_seed]
        texts = [NONE if mean is None else row.text(mean) for mean in means]
        p_value = NONE if verdict.corrected is None else words.p_value(verdict.corrected).removeprefix("p ").removeprefix("= ")
        lines.append((" and ".join(pair.equal) or "nothing", pair.first, texts[0], pair.second, texts[1], verdict.told, p_value))
        difference = verdict.difference
        bounds = (difference.value, difference.low, difference.high) if difference else (None,) * 3
        data.append((row.name, "; ".join(pair.equal), pair.first, pair.second, *means, verdict.outcome, verdict.leader, *bounds))
        data[-1] = (*data[-1], verdict.p_value, verdict.corrected, verdict.reason)
    winners = {pair.verdict.leader for pair in pairs if pair.verdict.carried}
    name = pairs[0].row.titled() if pairs else ""
    caption = (
        f"{name} of pairs that are equal in something else, {100 * WITHIN:g} % apart at most; p is corrected for all tests of the page"
    )
    caption += "" if winners else "; no pair is told apart"
    header = ("Equal in", "One", "Its mean", "Other", "Its mean", "Better", "p")
    columns = ["measurement", "equal", "first", "second", "first_mean", "second_mean", "outcome", "ahead"]
    raw = pd.DataFrame(data, columns=[*columns, "difference", "low", "high", "p_value", "corrected_p", "reason"])
    return Table("flips", caption, header, tuple(lines), data=raw)
