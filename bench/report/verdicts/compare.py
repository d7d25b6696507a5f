"""The comparison: for every measurement its contenders' means, intervals, floors, the best one and the verdict."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from bench.backbone import short_name
from bench.data.frozen import flatten
from bench.metrics.distances.interval import Interval
from bench.records.record import OF_CLIPS, Record
from bench.report.load import REFERENCES, SUBJECTS, Run
from bench.report.render import catalogue as metrics
from bench.report.verdicts import spending, stats
from bench.report.verdicts.seed_noise import SEED_DEVIATION
from bench.report.verdicts.stats import Difference, SeedInterval, Verdict
from bench.study.budget import BUDGETS
from bench.study.matrix import MATCHED

LOSS, FLOPS = "val_loss", "flops_per_clip"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One contender's values of one measurement, SI units."""

    contender: str
    by_seed: tuple[tuple[int, float], ...]  # (seed, value)
    interval: SeedInterval | None  # over seeds; None without a value
    clips: tuple[float, float] | None  # interval over the clips of a single seed's run
    missing: str | None  # why some seeds have no value
    best: bool  # the best mean of comparable values


@dataclass(frozen=True, kw_only=True)
class MeasureRow:
    """One measurement of one subject over all contenders."""

    name: str
    subject: str
    metric: metrics.Metric
    better: str  # lower, higher, none
    stored_unit: str
    divisor: float
    unit: str  # shown
    entries: tuple[Entry, ...]
    references: dict[str, tuple[float, float]]  # real, reconstruction -> least and largest value over the cells
    verdict: Verdict | None  # None where nothing is to be won
    caveats: tuple[str, ...]

    def text(self, value: float) -> str:
        """A value as a reader sees it, without the unit."""
        if self.metric.scale == "count" and self.divisor == 1 and value == round(value):
            return metrics.count(value)
        return metrics.number(value / self.divisor, 4 if self.metric.exact else 3)

    def signed(self, value: float) -> str:
        """A difference as a reader sees it, with its sign, without the unit."""
        text = self.text(value)
        return text.replace("-", metrics.MINUS, 1) if value < 0 else f"+{text}" if value > 0 else text

    def signed_bounds(self, found: Difference | Interval) -> str:
        """'[-60.2, -26.0]', the interval of a difference; "" where there is none."""
        return "" if found.low is None or found.high is None else f"[{self.signed(found.low)}, {self.signed(found.high)}]"

    def bounds(self, entry: Entry) -> str:
        """'[11.9, 12.7]', the interval over a contender's seeds, or over the clips of the one run there is; "" where there is none."""
        low, high = (entry.interval.low, entry.interval.high) if entry.interval else (None, None)
        if low is None or high is None:
            low, high = entry.clips or (None, None)
        return "" if low is None or high is None else f"[{self.text(low)}, {self.text(high)}]"

    def titled(self) -> str:
        """The metric, the subject where it is not the trained model, and the unit that is shown."""
        subject = "" if self.subject == "trained" else f", {self.subject}"
        return f"{self.metric.title}{subject}{f' [{self.unit}]' if self.unit else ''}"

    def carried_by(self, entry: Entry) -> bool:
        """Whether the numbers carry that this contender leads."""
        return bool(self.verdict and self.verdict.carried and self.verdict.leader == entry.contender)

    def entry(self, contender: str) -> Entry:
        """One contender's."""
        return next(entry for entry in self.entries if entry.contender == contender)


def compare(run: Run) -> list[MeasureRow]:
    """Every measurement in the records, in the order of `metrics.known()`, unknown ones last; verdicts that seeds may carry are open."""
    table = run.measurements
    rows = []
    for name in sorted(table["name"].unique(), key=lambda name: (metrics.rank(name), name)):
        subjects = table.loc[table["name"] == name, "subject"].unique()
        own = sorted((s for s in subjects if s not in REFERENCES), key=lambda s: (SUBJECTS.index(s) if s in SUBJECTS else len(SUBJECTS), s))
        rows += [_row(run, name, subject) for subject in own or ["trained"]]
    return rows


def _row(run: Run, name: str, subject: str) -> MeasureRow:
    lines = run.measurements[(run.measurements["name"] == name) & run.measurements["contender"].isin(run.contenders)]
    lines = lines[[math.isfinite(value) for value in lines["value"]]]
    lines = lines[lines["invalid"].isna()]
    own = lines[lines["subject"] == subject]
    metric = metrics.find(name)
    if metric.distance and (clips := _clips(run, name)):
        metric = replace(metric, title=f"{metric.title}, {clips}")
    shown = own if len(own) else lines
    better = directions.pop() if len(directions := set(shown["better"])) == 1 else "none"
    stored_unit = shown["unit"].iloc[0] if len(shown) else ""
    largest = max((abs(value) for value in lines["value"]), default=0.0)
    divisor, unit = metrics.scale_of(metric, largest, stored_unit)

    series = {name: own.loc[own["contender"] == name] for name in run.contenders}
    values = {contender: part["value"].tolist() for contender, part in series.items()}
    missing = {contender: why for contender in run.contenders if len(own) and (why := run.missing(contender, name, subject))}
    units = sorted(set(shown["unit"]))
    incomparable = why_not_comparable(run, own, metric) if len(units) < 2 else f"different units: {', '.join(units)}"

    verdict = None
    if subject == "trained" and better in ("lower", "higher") and len(own):
        if fixed := _fixed(run, name, values):
            verdict = Verdict(outcome="matched", reason=fixed)
        else:
            verdict = who_leads(run, name, values, better=better, exact=metric.exact, missing=missing, incomparable=incomparable)
    if verdict and verdict.outcome in ("open", "inconclusive") and not metric.axis:  # shown, not tested
        verdict = None
    means = {contender: statistics.fmean(series) for contender, series in values.items() if series}
    best = set()
    if verdict and verdict.outcome not in ("matched", "not compared") and len(set(means.values())) > 1:  # of equal ones none is best
        top = (min if better == "lower" else max)(means.values())
        best = {contender for contender, mean in means.items() if math.isclose(mean, top, rel_tol=1e-12)}

    entries = []
    for contender, part in series.items():
        low, high = (part[bound].iloc[0] if len(part) == 1 else None for bound in ("low", "high"))
        entries.append(
            Entry(
                contender=contender,
                by_seed=tuple(zip(part["seed"].tolist(), part["value"].tolist(), strict=True)),
                interval=seed_interval(part["value"].tolist(), metric) if len(part) else None,
                clips=None if pd.isna(low) or pd.isna(high) else (float(low), float(high)),
                missing=missing.get(contender),
                best=contender in best,
            )
        )
    references = {}
    for reference in REFERENCES:
        if len(found := lines.loc[lines["subject"] == reference, "value"]):
            references[reference] = (float(found.min()), float(found.max()))
    caveats: list[str] = []
    if subject == "trained" and metric.distance and means:
        floor = references["real"][1] if "real" in references else None
        caveats = stats.distance_caveats(min(means.values()), floor, metrics.num_clips(name))
    if subject == "trained" and run.contrasts and name.partition("@")[0] == run.primary:
        caveats.insert(0, "the contrasts decide")
    if name == FLOPS and any(record.loss_of != OF_CLIPS for record in run.records):
        caveats.append("of a training pass")
    return MeasureRow(
        name=name,
        subject=subject,
        metric=metric,
        better=better,
        stored_unit=stored_unit,
        divisor=divisor,
        unit=unit,
        entries=tuple(entries),
        references=references,
        verdict=verdict,
        caveats=tuple(caveats),
    )


def who_leads(
    run: Run,
    name: str,
    values: Mapping[str, Sequence[float]],
    *,
    better: str,
    missing: Mapping[str, str],
    incomparable: str | None,
    exact: bool = False,
) -> Verdict:
    """The verdict on a measurement's values, contender -> one a seed, by the rules of this run: its protocols, canaries and looks."""
    if incomparable:
        return Verdict(outcome="not compared", reason=incomparable)
    if run.untrusted:  # takes every lead away
        return Verdict(outcome="not compared", reason=f"a canary of {', '.join(run.untrusted)} failed")
    return stats.judge(
        values,
        better="lower" if better == "lower" else "higher",
        exact=exact,
        missing=missing,
        deviation=SEED_DEVIATION.get(name.partition("@")[0]),
        share=partial(spending.share, run.looks, run.extensions),
    )


def _clips(run: Run, name: str) -> str | None:
    """What clips a distance compares, as its protocol says."""
    found = (measurement.protocol for record in run.records if (measurement := record.measurement(name)))
    block = next((block for block in found if block and "num_frames" in block), None)
    if block is None:
        return None
    return f"{block['num_frames']} frames" if block.get("sampling", "given") == "given" else "clips of several shapes"


def seed_interval(values: Sequence[float], metric: metrics.Metric) -> SeedInterval:
    """Mean and 95 % interval over seeds, one value each at least; of a share of clips, no wider than a share can be."""
    found = stats.mean_interval(values)
    if metric.scale != "fraction" or found.low is None or found.high is None:
        return found
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def why_not_comparable(run: Run, lines: pd.DataFrame, metric: metrics.Metric) -> str | None:
    """Why values must not be put side by side: another protocol, protocol version, machine or version. None where they may."""
    records = [cell.record for cell in run.cells if cell.record and cell.name in set(lines["cell"])]
    if set(lines["name"]) == {LOSS} and (odd := losses_apart(run)):
        return f"different quantities: {odd}"
    if len(set(lines["protocol_fingerprint"].fillna("none"))) > 1:
        return f"different protocols ({'; '.join(protocol_differences(records, set(lines['name']))) or 'some have none'})"
    versions = sorted({record.protocol_version for record in records})
    if len(versions) > 1:
        return f"different protocol versions ({', '.join(map(str, versions))})"
    if metric.machine and (differing := differing_machines(records)):
        return f"different machines or versions ({', '.join(differing)})"
    return None


def losses_apart(run: Run) -> str | None:
    """That losses of this run are of several kinds, and of which backbones; None where they are of one."""
    kinds: dict[str, dict[str, None]] = {}
    for cell in run.cells:
        if cell.record and cell.record.measurement(LOSS):
            kinds.setdefault(cell.record.loss_of, {})[short_name(cell.record.cell.backbone)] = None
    if len(kinds) < 2:
        return None
    return "; ".join(f"the loss of {', '.join(backbones)} is {kind}" for kind, backbones in kinds.items())


def apart_said(run: Run) -> str:
    """The same as a sentence for whoever sees such losses on one scale; "" where all are of one kind."""
    apart = losses_apart(run)
    return f"Losses of different kinds are not to be compared: {apart}." if apart else ""


def differing_machines(records: Sequence[Record]) -> dict[str, list[Any]]:
    """What must be equal where speeds are compared and is not -> the value of each record."""
    machines = [record.environment.packages | record.environment.model_dump() for record in records]
    values = {key: [machine.get(key) for machine in machines] for key in _MACHINE}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def protocol_differences(records: Sequence[Record], names: set[str]) -> list[str]:
    """'field: value and value' for every field in which the protocols of these measurements differ."""
    blocks = [flatten(m.protocol) for record in records for m in record.measurements if m.name in names and m.protocol is not None]
    found = []
    for key in sorted({key for block in blocks for key in block}):
        values = list(dict.fromkeys(str(block.get(key)) for block in blocks))
        if len(values) > 1:
            found.append(f"{key}: {' and '.join(values)}")
    return found


# Fields of an environment and packages; equal where speeds may be compared.
_MACHINE = ("cpu", "cpu_id", "device", "num_threads", "spins", "python", "torch", "diffusers")


def _fixed(run: Run, name: str, values: dict[str, list[float]]) -> str | None:
    """Why nobody can win an axis: the matrix matched the contenders on it, or the budget fixed it."""
    if run.match and MATCHED[run.match.by] == name:
        means = [statistics.fmean(series) for series in values.values() if series]
        apart = max(means) / min(means) - 1 if min(means) > 0 else math.inf
        held = "matched by the matrix" if apart <= run.match.tolerance else "NOT matched as the matrix asks"
        return f"{held}: {100 * apart:.2g} % apart, tolerance {100 * run.match.tolerance:.3g} %"
    return "fixed by the budget" if fixed_by_budget(run, name) else None


def fixed_by_budget(run: Run, name: str) -> bool:
    """Whether a measurement is what the budget of the cells sets."""
    budgets = [cell.record.cell.budget.axis for cell in run.cells if cell.record and not cell.further]
    return name in {axis.measurement for axis in BUDGETS.among(budgets)}


def leading(run: Run, rows: Sequence[MeasureRow]) -> list[MeasureRow]:
    """The distances that stand for quality: the primary one, then others that see whole clips; where neither is, the first measured."""
    distances = [row for row in rows if row.metric.distance and row.subject == "trained" and any(e.by_seed for e in row.entries)]
    names = [run.primary, *(name for name in ("fd_motion", "fvd") if name != run.primary)]
    shown = [row for name in names for row in distances if row.name.partition("@")[0] == name]
    return shown or distances[:1]


def axes(rows: Sequence[MeasureRow]) -> list[MeasureRow]:
    """Rows that get a line in the verdict table."""
    return [row for row in rows if row.verdict and row.metric.axis]


MATCHABLE = {*MATCHED.values(), *(axis.measurement for axis in BUDGETS.own.values())}


def mismatches(run: Run, rows: Sequence[MeasureRow]) -> list[tuple[MeasureRow, float, float | None]]:
    """The axes a comparison can be matched on: (row, largest mean over least, tolerance on the axis that the matrix matches)."""
    matched = MATCHED[run.match.by] if run.match else None
    found = []
    for row in rows:
        means = [entry.interval.mean for entry in row.entries if entry.interval]
        if row.name in MATCHABLE and row.subject == "trained" and len(means) > 1 and min(means) > 0:
            found.append((row, max(means) / min(means), run.match.tolerance if run.match and row.name == matched else None))
    return found
