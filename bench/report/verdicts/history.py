"""Two runs of one matrix, A before and B after: what each contender gained or lost. Knows no torch.

The runs are of another commit, machine or time. They are refused unless their cells ask the same and measure alike; what depends on the
machine is compared on one machine only. The tests are those of a page (stats.py), one for each contender and axis, all of them corrected
for their number by Holm's method.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from bench.data.frozen import content_hash
from bench.metrics.protocol import compare_or_raise
from bench.records.record import Measurement, Record
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.verdicts.claims import ALPHA
from bench.report.verdicts.compare import Entry, MeasureRow, compare, differing_machines
from bench.report.verdicts.stats import Difference, Verdict, holm, judge, welch
from bench.shapes import Refusal, told_of
from bench.study.budget import BUDGETS, BudgetAxis
from bench.study.cell import differences

SIDES = ("A", "B")
IDLE = ("timeout_s", "checkpoint_interval_s", "evaluation.untrained")  # fields of a cell that no number of a trained model depends on
MADE = "autoencoder"  # of a protocol: what a run may have made itself, with other weights than another machine's

ChangeStanding = Literal["better", "worse", "equal", "not equal", "not told apart", "other machine", "not compared"]


@dataclass(frozen=True)
class RunPair:
    """Two runs, and what they have in common."""

    first: Run  # A
    second: Run  # B

    @cached_property
    def contenders(self) -> dict[str, tuple[str, str]]:
        """Those of equal axes: what the first run calls one -> what each run calls it."""
        theirs = {content_hash(cell.axes): cell.contender for cell in self.second.cells}
        return {c.contender: (c.contender, theirs[key]) for c in self.first.cells if (key := content_hash(c.axes)) in theirs}

    def records(self, contender: str) -> list[list[Record]]:
        """Of one that both have: a list of each run."""
        names = zip((self.first, self.second), self.contenders[contender], strict=True)
        return [[cell.record for cell in run.of(name) if cell.record] for run, name in names]

    def twins(self) -> Iterator[tuple[Record, Record]]:
        """Records of one contender at one seed."""
        for contender in self.contenders:
            ours, theirs = self.records(contender)
            by_seed = {record.cell.seed: record for record in theirs}
            yield from ((record, by_seed[record.cell.seed]) for record in ours if record.cell.seed in by_seed)

    def check_alike(self) -> None:
        """Refusal, which names what differs, unless what both have asks the same, of the same clips, and was measured alike."""
        records = [record for contender in self.contenders for own in self.records(contender) for record in own]
        versions = sorted({record.protocol_version for record in records})
        if len(versions) > 1:
            raise Refusal(f"protocol_version is {' and '.join(map(str, versions))}, which never compare; run the older one again")
        pairs = [*self.twins()] if self.contenders else [*zip(self.first.records, self.second.records, strict=False)][:1]
        for ours, theirs in pairs:
            apart = [each for each in differences(ours.cell, theirs.cell) if each[0] not in IDLE]
            if ours.data and theirs.data and ours.data.digest != theirs.data.digest:
                apart.append(("the content of its clips", ours.data.digest[:12], theirs.data.digest[:12]))
            if apart:
                listed = "; ".join(f"{key}: {a} and {b}" for key, a, b in apart)
                raise Refusal(f"these are not runs of one matrix: cell {ours.name} differs in {listed}; compare runs of equal cells")
        known: dict[str, Measurement] = {}
        for measurement in (found for record in records for found in record.measurements if found.subject == "trained"):
            with told_of(measurement.name):
                one, other = known.setdefault(measurement.name, measurement).protocol or {}, measurement.protocol or {}
                compare_or_raise(one | {MADE: None}, other | {MADE: None})


@dataclass(frozen=True, kw_only=True)
class Change:
    """One measurement of one contender in both runs, SI units."""

    contender: str  # as A calls it
    row: MeasureRow  # of A, which says how values are shown
    entries: tuple[Entry, Entry]
    verdict: Verdict  # between "A" and "B"
    elsewhere: bool  # whether B ran on another machine, and the value depends on it

    @property
    def difference(self) -> Difference | None:
        """B less A, with Welch's 95 % interval; None where they are not compared."""
        return None if self.verdict.outcome == "not compared" else welch(*map(_values, reversed(self.entries)))

    @property
    def standing(self) -> ChangeStanding:
        """What B is."""
        if self.verdict.carried:
            return "not equal" if self.row.better == "none" else "better" if self.verdict.leader == SIDES[1] else "worse"
        if self.verdict.outcome == "not compared":
            return "other machine" if self.elsewhere else "not compared"
        return "equal" if self.verdict.outcome == "tie" else "not told apart"


@dataclass(frozen=True, kw_only=True)
class History:
    """What two runs say of one another."""

    changes: tuple[Change, ...]  # contender by contender
    notes: tuple[str, ...]  # what only one of them has, and what else keeps them apart


def history(first: Run, second: Run) -> History:
    """Both side by side. Refusal, which names what differs, where they do not compare."""
    whole, (first, second) = (first, second), (_level(first), _level(second))
    pair = RunPair(first, second)
    pair.check_alike()
    if not any(ours.status == theirs.status == "ok" for ours, theirs in pair.twins()):
        finished = [", ".join(cell.name for cell in run.cells if cell.status == "ok") or "none" for run in (first, second)]
        raise Refusal(f"the runs share no finished cell: A has {finished[0]}, B has {finished[1]}; run the same seeds in both")
    ours, theirs = ({row.name: row for row in compare(run) if _is_shown(row)} for run in (first, second))
    both = [name for name in ours if name in theirs]
    changes = [_change(pair, contender, ours[name], theirs[name]) for contender in pair.contenders for name in both]
    titles = ({name: row.metric.title for name, row in rows.items()} for rows in (ours, theirs))
    notes = (*_left_out(*whole), *_notes(pair), *_alone("measurements", *_apart(*titles)))
    return History(changes=tuple(_settled(changes)), notes=notes)


def _level(run: Run) -> Run:
    """The run with its further contenders among the others, since each is compared with itself, and without seeds that looks added."""
    fixed = _seeds(run)[: run.looks.first if run.looks else None]
    cells = [cell.model_copy(update={"further": False}) for cell in run.cells if cell.seed in fixed]
    own = {name: getattr(run, name) for name in Run.model_fields}  # without what it has cached of the whole
    return Run.model_validate(own | {"cells": cells})


def _seeds(run: Run) -> list[int]:
    return sorted({cell.seed for cell in run.cells})


def _left_out(*runs: Run) -> Iterator[str]:
    """The seeds that looks added, and why they do not count."""
    for side, run in zip(SIDES, runs, strict=True):
        if run.looks and (added := _seeds(run)[run.looks.first :]):
            yield f"seeds {', '.join(map(str, added))} of {side}, added by looks, are left out: the tests here take seeds named beforehand"


def _is_shown(row: MeasureRow) -> bool:
    """Whether it tells what became better or worse, or is a count that no change should move."""
    return row.subject == "trained" and row.metric.axis and (row.better != "none" or row.metric.exact)


def _change(pair: RunPair, contender: str, row: MeasureRow, other: MeasureRow) -> Change:
    """What both say of one contender's measurement; "open" where its test waits for the others."""
    names = pair.contenders[contender]
    entries = row.entry(names[0]), other.entry(names[1])
    records = [record for own in pair.records(contender) for record in own]
    protocols = {found.protocol_fingerprint for record in records if (found := record.measurement(row.name))}
    machines = differing_machines(records) if row.metric.machine else []
    broken = [side for side, run, name in zip(SIDES, (pair.first, pair.second), names, strict=True) if name in run.untrusted]
    reasons = {
        f"a canary of {' and '.join(broken)} failed": broken,
        "another unit or direction": (row.stored_unit, row.better) != (other.stored_unit, other.better),
        f"measured through another {MADE}": len(protocols) > 1,
        f"differs in {', '.join(machines)}": machines,
        "fixed by the budget": row.name in {axis.measurement for axis in _budgets(records)},
    }
    if why := next((why for why, holds in reasons.items() if holds), None):
        verdict = Verdict(outcome="not compared", reason=why)
    else:
        values = {side: _values(entry) for side, entry in zip(SIDES, entries, strict=True)}
        missing = {side: entry.missing for side, entry in zip(SIDES, entries, strict=True) if entry.missing}
        verdict = judge(values, better="higher" if row.better == "higher" else "lower", exact=row.metric.exact, missing=missing)
    return Change(contender=contender, row=row, entries=entries, verdict=verdict, elsewhere=bool(machines))


def _values(entry: Entry) -> list[float]:
    return [value for _, value in entry.by_seed]


def _settled(changes: Sequence[Change]) -> Iterator[Change]:
    """The same, with what the seeds leave open decided among all that is tested."""
    p_values = {place: change.verdict.p_value for place, change in enumerate(changes) if change.verdict.outcome == "open"}
    corrected = dict(zip(p_values, holm([p_value for p_value in p_values.values() if p_value is not None]), strict=True))
    for place, change in enumerate(changes):
        is_open = place in corrected
        yield replace(change, verdict=change.verdict.settled(corrected[place], ALPHA, len(corrected))) if is_open else change


def _notes(pair: RunPair) -> Iterator[str]:
    """What only one of the runs has, and what else keeps them apart."""
    runs = (pair.first, pair.second)
    known = zip(*pair.contenders.values(), strict=True)
    yield from _alone(
        "contenders", *([name for name in run.contenders if name not in names] for run, names in zip(runs, known, strict=True))
    )
    for name, names in pair.contenders.items():
        seeds = ({cell.seed: str(cell.seed) for cell in run.of(own)} for run, own in zip(runs, names, strict=True))
        yield from _alone(f"seeds of {name}, which count all the same,", *_apart(*seeds))
    yield from (f"{side} is unfinished: {run.unfinished}" for side, run in zip(SIDES, runs, strict=True) if run.unfinished)
    records = [record for run in runs for record in run.records]
    timed = [axis.words for axis in _budgets(records) if axis.measurement and metrics.find(axis.measurement).machine]
    if timed and (machines := differing_machines(records)):
        yield f"the budget is {timed[0]}, and the runs differ in {', '.join(machines)}: their quality may differ by nothing else"


def _budgets(records: Sequence[Record]) -> list[BudgetAxis]:
    return BUDGETS.among(record.cell.budget.axis for record in records)


def _apart(ours: Mapping[Any, str], theirs: Mapping[Any, str]) -> tuple[list[str], list[str]]:
    """What stands under keys that only one of two has."""
    return [ours[key] for key in ours if key not in theirs], [theirs[key] for key in theirs if key not in ours]


def _alone(what: str, ours: Sequence[str], theirs: Sequence[str]) -> Iterator[str]:
    """What one side alone has."""
    for side, names in zip(SIDES, (ours, theirs), strict=True):
        if names:
            yield f"{what} only in {side}: {', '.join(names)}"
