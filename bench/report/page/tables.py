"""The tables of every run: who leads, the comparison, the samples' differences, the time, the mismatch; `all_tables` adds the others."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import pandas as pd

from bench.records.record import FLOORS
from bench.report.grid import envelope, shape_map
from bench.report.grid.shape_map import ShapeMap
from bench.report.load import Run
from bench.report.page import following, generation, material, memory, pipeline, provenance, published, tuning
from bench.report.physics import scores
from bench.report.render import catalogue as metrics
from bench.report.render import words
from bench.report.render.table import NONE, Table, stacked
from bench.report.scaling.tables import scaling_tables
from bench.report.verdicts import best, compare, factorial, flips, named, paired, validity
from bench.report.verdicts.best import Choice
from bench.report.verdicts.claims import LEVELS
from bench.report.verdicts.compare import Entry, MeasureRow
from bench.report.verdicts.factorial import PolicyContrast
from bench.report.verdicts.findings import Findings
from bench.report.verdicts.learned import NAIVE
from bench.report.verdicts.stats import Verdict

MOST_ABREAST = 3  # contenders side by side; more are below each other
ARROWS = {"lower": "↓", "higher": "↑", "none": ""}


def all_tables(run: Run, findings: Findings, grid: ShapeMap | None, choices: Mapping[str, Choice]) -> list[Table]:
    """Every table of a run that has something to show, in the page's order."""
    rows, blocks = findings.rows, findings.blocks
    tables = [
        *([scores.floor_table(findings.floors), scores.score_table(run)] if scores.is_measured(run) else []),
        *scaling_tables(findings.scaling),
        *named.named_tables(run, rows, findings.named),
        *([verdict_table(rows)] if run.tunes is None else []),  # values of one field are tried, and nobody leads
        *factorial.tables(blocks),
        contrast_table(findings.contrasts),
        flips.flip_table(findings.pairs),
        tuning.tuning_table(run),
        tuning.rate_table(run),
        best.tried_table(run, choices),
        published.published_table(run),
        *([shape_map.grid_table(grid), envelope.envelope_table(grid), shape_map.hole_table(grid)] if grid else []),
        *pipeline.tables(run),
        following.following_table(run),
        comparison_table(run, rows),
        paired_table(run, rows),
        time_table(run),
        memory.memory_table(run),
        generation.generation_table(run),
        generation.frame_table(run),
        provenance.difference_table(run),
        mismatch_table(run, rows),
        *material.tables(run),
        claim_table(run, findings),
        validity.check(run).table(),
        provenance.canary_table(run),
        provenance.failure_table(run),
        provenance.setting_table(run),
        provenance.protocol_table(run),
        provenance.environment_table(run),
        provenance.cell_table(run),
        provenance.measurement_table(run),
    ]
    return [fitted(run, table) for table in tables if table.rows]


def fitted(run: Run, table: Table) -> Table:
    """The table with more than three contenders, protocols or machines below each other: none is wider than a page."""
    if table.name in ("protocol", "environment"):
        columns: Sequence[int] = range(1, len(table.header))
    else:
        columns = [place for place, name in enumerate(table.header) if place and name in run.contenders]
    return stacked(table, columns, "Of") if len(columns) > MOST_ABREAST else table


def claim_table(run: Run, findings: Findings) -> Table:
    """The tests that the headline rests on, and how many others the page made; its raw data are for whoever reads no sentences."""
    lines, data = [], []
    for part in findings.conclusion.parts:
        finding = part.finding
        measure = part.key[1 if part.key[0] == "lead" else 2] if part.key else None
        reason = finding.reason if finding else "not measured"
        lines.append((part.name, measure or run.primary or NONE, part.state, reason))
        tested = (finding.carried, finding.p_value, finding.corrected) if finding else (False, None, None)
        data.append((run.claim, run.primary, part.name, measure, part.state, *tested, LEVELS["headline"], reason))
    caption = f"Named before the run; carried at {_percent(LEVELS['headline'])}, corrected for their number"
    if findings.num_tests:
        others = f"{findings.num_tests} other test{'s' if findings.num_tests > 1 else ''} of this run"
        caption += (
            f". The {others}: {findings.num_carried} carried at {_percent(LEVELS['rest'])} together (Holm); none can turn the headline"
        )
    columns = ["claim", "primary", "part", "measure", "state", "carried", "p_value", "corrected_p", "level", "reason"]
    return Table("claim", caption, ("Part", "Measure", "State", "Why"), tuple(lines), data=pd.DataFrame(data, columns=columns))


def contrast_table(contrasts: Sequence[PolicyContrast]) -> Table:
    """What one policy does that another does not, for each backbone by itself: packs against buckets, and the like."""
    lines, data = [], []
    for each in contrasts:
        row, effect, (first, second) = each.row, each.effect, each.contenders
        text = f"{factorial.effect_text(row, effect)} {row.unit}".rstrip()
        favours = f"{effect.favours} better" if effect.favours else "none better"
        said = f"{favours}, {effect.outcome}, {factorial.why_text(effect)}"
        lines.append((row.metric.title, f"{second} {metrics.MINUS} {first}", text, said))
        found = (effect.difference.value, effect.difference.low, effect.difference.high, effect.p_value, effect.corrected)
        data.append((row.name, first, second, *found, effect.outcome, effect.favours, effect.reason))
    header = ("Measurement", "Between", "Difference, 95 %", "What it says")
    columns = ["measurement", "first", "second", "difference", "low", "high", "p_value", "corrected_p", "outcome", "favours", "reason"]
    caption = "One policy against another under the same backbone, mean over seeds with 95 % interval"
    return Table("contrasts", caption, header, tuple(lines), data=pd.DataFrame(data, columns=columns))


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def verdict_table(rows: Sequence[MeasureRow]) -> Table:
    """For each axis who leads, by how much, and whether the numbers carry it."""
    lines, data = [], []
    for row in compare.axes(rows):
        verdict = row.verdict
        assert verdict is not None
        reason = "; ".join([verdict.reason, *row.caveats])
        values = ", ".join(f"{e.contender} {row.text(e.interval.mean)}" for e in shown_entries(row) if e.interval) or NONE
        references = ", ".join(reference_texts(rows, row)) or NONE
        title = f"{row.titled()} {ARROWS[row.better]}".rstrip()
        lines.append((title, verdict.told, values, references, ", ".join(difference_parts(row, verdict)), why_text(row)))
        difference = astuple(verdict.difference)[:3] if verdict.difference else (None,) * 3
        leader = verdict.leader if verdict.carried else None
        ahead = (row.name, row.better, verdict.outcome, leader, verdict.leader, verdict.rival)
        data.append((*ahead, *difference, verdict.p_value, verdict.corrected, row.stored_unit, reason))
    header = ("Axis", "Who leads", "Means", "Floor, ceiling, start", "Leader against next", "Why")
    columns = ["axis", "better", "outcome", "leader", "ahead", "rival", "difference", "difference_low", "difference_high"]
    raw = pd.DataFrame(data, columns=[*columns, "p_value", "corrected_p", "unit", "reason"])
    return Table("verdicts", "Who leads on each axis", header, tuple(lines), data=raw)


def shown_entries(row: MeasureRow) -> list[Entry]:
    """Every contender's; of more than three the leader's and the next one's."""
    if len(row.entries) <= MOST_ABREAST or row.verdict is None:
        return list(row.entries)
    return [row.entry(name) for name in (row.verdict.leader, row.verdict.rival) if name]


def why_text(row: MeasureRow) -> str:
    """Why an axis has its verdict, in few words; the CSV has all."""
    verdict = row.verdict
    assert verdict is not None
    reason = words.brief(verdict.reason) if verdict.corrected is None else words.p_value(verdict.corrected)
    return "; ".join([reason, *(re.split(r",| is ", caveat)[0] for caveat in row.caveats)])


def reference_texts(rows: Sequence[MeasureRow], row: MeasureRow) -> list[str]:
    """Floor, ceiling and start of a quality measure: real clips, the autoencoder's, the untrained model's."""
    titles = {"real": "real", "reconstruction": "autoencoder"} | {name: scores.TITLES[name].lower() for name in FLOORS}
    guesses = {name: row.references[name][0] for name in NAIVE if name in row.references}  # of these the best is enough
    best_guess = (max if row.better == "higher" else min)(guesses, key=guesses.__getitem__, default=None)
    parts = [f"{titles[name]} {reference_text(row, name)}" for name in row.references if name not in guesses or name == best_guess]
    untrained = next((other for other in rows if other.name == row.name and other.subject == "untrained"), None)
    if untrained is not None:
        means = [entry.interval.mean for entry in untrained.entries if entry.interval]
        texts = [untrained.text(mean) for mean in (means if len(means) <= 2 else dict.fromkeys([min(means), max(means)]))]
        parts.append(f"untrained {(' and ' if len(means) <= 2 else ' to ').join(texts)}")
    return parts


def paired_table(run: Run, rows: Sequence[MeasureRow]) -> Table:
    """Whether two contenders' samples differ, at one seed, beyond the draw of the clips."""
    lines, data = [], []
    for pair in paired.pairs(run, rows):
        interval, row = pair.difference, pair.row
        text, verdict = NONE, pair.reason
        if interval is not None:
            text = f"{row.signed(interval.estimate)} {row.signed_bounds(interval)}"
            verdict = "different" if pair.different else "not told apart"
        lines.append((row.metric.title, str(pair.seed), f"{pair.first} {metrics.MINUS} {pair.second}", text, verdict))
        values = (interval.estimate, interval.low, interval.high) if interval else (None,) * 3
        # Six figures: the last ones of a matrix product depend on the processor and on its threads, a report on neither.
        found = (*(value if value is None else float(f"{value:.6g}") for value in values), pair.different if interval else None)
        data.append((row.name, pair.seed, pair.first, pair.second, *found, pair.reason))
    header = ("Distance", "Seed", "Between", "Difference, 95 % over clips", "These samples are")
    caption = "Difference of two distances to the same real clips, not corrected for their number: about these samples, not another seed"
    columns = ["measurement", "seed", "first", "second", "difference", "low", "high", "different", "reason"]
    return Table("paired", caption, header, tuple(lines), data=pd.DataFrame(data, columns=columns))


def difference_parts(row: MeasureRow, verdict: Verdict) -> list[str]:
    """Leader over rival as a ratio where there is one; leader minus rival; its interval."""
    difference = verdict.difference
    if difference is None:
        return [NONE]
    parts = [ratio] if (ratio := ratio_text(row, verdict)) else []
    return [*parts, f"{row.signed(difference.value)} {row.unit}".rstrip(), *filter(None, [row.signed_bounds(difference)])]


def ratio_text(row: MeasureRow, verdict: Verdict) -> str:
    """Leader's mean / rival's mean, where both are positive."""
    leader, rival = (row.entry(name).interval if name else None for name in (verdict.leader, verdict.rival))
    if leader is None or rival is None or min(leader.mean, rival.mean) <= 0 or not math.isfinite(leader.mean / rival.mean):
        return ""
    ratio = leader.mean / rival.mean
    return f"{ratio:.{3 if abs(ratio - 1) < 0.1 else 2}f}{metrics.TIMES}"


def comparison_table(run: Run, rows: Sequence[MeasureRow]) -> Table:
    """Every measurement, contenders side by side, floor and ceiling beside them."""
    references = [name for name in ("real", "reconstruction") if any(name in row.references for row in rows)]
    titles = {"real": "Real clips", "reconstruction": "Reconstructed"}
    lines: list[tuple[str, ...]] = []
    bold, data = set(), []
    for row in rows:
        line = [f"{row.titled()} {ARROWS[row.better]}".rstrip()]
        raw: dict[str, Any] = {"measurement": row.name, "subject": row.subject, "better": row.better, "unit": row.stored_unit}
        for entry in row.entries:
            if entry.best:
                bold.add((len(lines), len(line)))
            line.append(entry_text(row, entry))
            raw |= _raw(entry)
        for name in references:
            shown = row.subject == "trained" and name in row.references
            line.append(reference_text(row, name) if shown else NONE)
            raw[name] = row.references[name][0] if shown else None
            raw[f"{name} largest"] = row.references[name][1] if shown else None
        lines.append(tuple(line))
        data.append(raw)
    header = ("Measurement", *run.contenders, *(titles[name] for name in references))
    caption = "Mean over seeds with 95 % t-interval, then each seed's value; best mean in bold"
    return Table("comparison", caption, header, tuple(lines), bold=frozenset(bold), data=pd.DataFrame(data))


def entry_text(row: MeasureRow, entry: Entry) -> str:
    """'12.3 [11.9, 12.7] (12.1, 12.2, 12.6)', or why there is nothing."""
    if entry.interval is None:
        return f"{NONE} ({entry.missing})" if entry.missing else NONE
    behind = [f"({text})" for text in (seeds_text(row, entry), entry.missing) if text]
    return " ".join(filter(None, [row.text(entry.interval.mean), interval_text(row, entry), *behind]))


def interval_text(row: MeasureRow, entry: Entry) -> str:
    """The interval over seeds, or over the clips of the one run there is."""
    bounds = "" if is_constant(row, entry) else row.bounds(entry)
    return f"{bounds} over clips" if bounds and len(entry.by_seed) == 1 else bounds


def seeds_text(row: MeasureRow, entry: Entry) -> str:
    """Every seed's value, where there are several that differ."""
    return "" if len(entry.by_seed) < 2 or is_constant(row, entry) else ", ".join(row.text(value) for _, value in entry.by_seed)


def is_constant(row: MeasureRow, entry: Entry) -> bool:
    """Whether several seeds, or a count, left nothing to spread."""
    return len({value for _, value in entry.by_seed}) == 1 and (row.metric.exact or len(entry.by_seed) > 1)


def reference_text(row: MeasureRow, name: str) -> str:
    """A floor or ceiling; a range where cells measured it differently."""
    least, largest = row.references[name]
    low, high = row.text(least), row.text(largest)
    return low if low == high else f"{low} to {high}"


def _raw(entry: Entry) -> dict[str, Any]:
    interval, name = entry.interval, entry.contender
    return {
        f"{name} mean": interval.mean if interval else None,
        f"{name} low": interval.low if interval else None,
        f"{name} high": interval.high if interval else None,
        f"{name} seeds": len(entry.by_seed),
        f"{name} values": " ".join(repr(value) for _, value in entry.by_seed),
        f"{name} best": entry.best,
    }


def time_table(run: Run) -> Table:
    """Seconds a phase, mean over the seeds of each contender."""
    means = time_split(run)
    phases = list(dict.fromkeys(phase for split in means.values() for phase in split))
    lines = [(phase, *(metrics.number(split[phase]) if phase in split else NONE for split in means.values())) for phase in phases]
    lines += [("total", *(metrics.number(sum(split.values())) for split in means.values()))] if lines else []
    data = pd.DataFrame([{"phase": phase, **{name: split.get(phase) for name, split in means.items()}} for phase in phases])
    return Table("time", "Seconds a phase, mean over seeds", ("Phase", *means), tuple(lines), data=data)


def time_split(run: Run) -> dict[str, dict[str, float]]:
    """Contender -> phase -> mean seconds over its finished cells."""
    means = {}
    for contender in run.contenders:
        splits = [cell.record.time_split_s for cell in run.of(contender) if cell.record and cell.status == "ok"]
        if phases := dict.fromkeys(phase for split in splits for phase in split):
            means[contender] = {str(phase): sum(split.get(phase, 0.0) for split in splits) / len(splits) for phase in phases}
    return means


def mismatch_table(run: Run, rows: Sequence[MeasureRow]) -> Table:
    """How equal the contenders are on every axis one can match them on."""
    lines, data = [], []
    for row, ratio, tolerance in compare.mismatches(run, rows):
        within = None if tolerance is None else ratio - 1 <= tolerance
        verdict = "fixed by the budget" if compare.fixed_by_budget(run, row.name) else "not matched on"
        if tolerance is not None:
            verdict = f"{100 * (ratio - 1):.2g} % is {'within' if within else 'BEYOND'} the tolerance of {100 * tolerance:.3g} %"
        means = {entry.contender: entry.interval.mean if entry.interval else None for entry in row.entries}
        texts = [NONE if mean is None else row.text(mean) for mean in means.values()]
        lines.append((row.titled(), *texts, f"{ratio:.4g}{metrics.TIMES}", verdict))
        data.append({"measurement": row.name, **means, "largest / least": ratio, "tolerance": tolerance, "within": within})
    header = ("Axis", *run.contenders, "Mismatch", "Match")
    return Table("mismatch", "Measured mismatch: largest mean over least", header, tuple(lines), data=pd.DataFrame(data))
