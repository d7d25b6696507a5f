"""The claim `shapes`: cropping costs quality and composition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.data.policy.table import POLICIES
from bench.report.load import Run
from bench.report.page import pipeline
from bench.report.render import catalogue as metrics
from bench.report.render import words
from bench.report.verdicts import factorial, ratios
from bench.report.verdicts.claims import COMPOSITION, CROP, ClaimState, Effect, Finding, Key, Part, is_measure, state_of
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import Design
from bench.report.verdicts.ratios import AxisRatios, Groups, Ratio

if TYPE_CHECKING:
    from bench.report.verdicts.findings import Findings


class Cropping:
    """Cropping costs quality and composition: crops lose against the first other pipeline of a run, buckets where there are any.

    Quality is the primary measure, composition the first of `COMPOSITION` that was measured.
    """

    question = "Training on any size, aspect and duration: how much of the difference is the backbone, how much the data pipeline?"
    of_backbones = False

    def rests_on(self, findings: Mapping[Key, Finding], primary: str | None) -> dict[str, Key | None]:
        """The pipeline's effects in the first 2 x 2."""
        effects = [key for key in findings if key[0] == "effect" and key[3] == "pipeline"]
        first = [key for key in effects if key[1] == effects[0][1]]
        parts: dict[str, Key | None] = {"quality": next((key for key in first if is_measure(key[2], primary)), None)}
        if parts["quality"] is None:  # what decides was not measured: half a claim is none
            return parts
        where = next((key for name in COMPOSITION for key in first if is_measure(key[2], name)), None)
        return parts | ({"composition": where} if where else {})

    def state(self, finding: Finding | None) -> ClaimState:
        """Supported where crops lose, not supported where they win."""
        if finding is None:
            return "not tested"
        assert isinstance(finding, Effect)
        return "inconclusive" if not finding.carried else "not supported" if finding.favours == CROP.word else "supported"

    def whole(self, parts: Sequence[Part]) -> ClaimState:
        """Carried parts count, and opposite ones split it."""
        return state_of([part.state for part in parts])

    def says(self, run: Run, findings: Findings) -> list[str]:
        """What cropping costs, part by part, what is carried first; and how much of the training clips each pipeline uses."""
        parts = findings.conclusion.parts
        if not any(part.key for part in parts):
            what = f"{run.primary} was not measured" if run.primary else "the study names no measure that decides"
            what = what if findings.blocks else "the run has no two backbones under crop and another policy, all else equal"
            return [f"What cropping costs was not tested: {what}.", *_used(run)]
        told = sorted(parts, key=lambda part: part.state in ("inconclusive", "not tested"))
        return [*(_part_said(run, findings, part) for part in told), *_used(run)]

    def ratios(self, run: Run, findings: Findings) -> AxisRatios | None:
        """Each data pipeline against crops, mean over backbones."""
        designs = list({block.design.pipeline: block.design for block in findings.blocks}.values())
        shown = ratios.shown_rows(run, findings.rows)
        quality = {title: row for title, row in shown.items() if title == ratios.QUALITY}
        where = next((row for name in COMPOSITION for row in findings.rows if is_measure(row.name, name)), None)
        notes = {ratios.QUALITY: ratios.NEARNESS, "Composition": where.metric.plain.verb if where else ""}
        made = []
        for title, row in (quality | ({"Composition": where} if where else {}) | shown).items():
            found: list[Ratio | None] = []
            for design in designs:
                crops, others = _groups(row, design)
                exact = row.metric.exact and all(len(set(series)) == 1 for series in (*crops, *others))
                carried = exact or any(effect.carried for effect in _effects(findings, design, row))
                found.append(ratios.ratio(row, crops, others, design.pipeline, carried))
            made.append(ratios.ratio_row(title, notes.get(title, ""), found))
        for row in quality.values():
            spreads = [ratios.stability(*_groups(row, design), design.pipeline) for design in designs]
            made.append(ratios.ratio_row(ratios.STABILITY, ratios.SPREAD, spreads))
        return ratios.collected(run, CROP.word, [design.pipeline for design in designs], made)


def _groups(row: MeasureRow, design: Design) -> tuple[Groups, Groups]:
    """Values under crops and under the other pipeline, a series a backbone, of the seeds that all have."""
    values = {name: dict(row.entry(name).by_seed) for name in design.contenders}
    seeds = sorted(set.intersection(*map(set, values.values())))
    crops, others = zip(*([[values[name][seed] for seed in seeds] for name in pair] for pair in design.cells), strict=True)
    return crops, others


def _effects(findings: Findings, design: Design, row: MeasureRow) -> list[Effect]:
    """The pipeline's effect on a measurement, where it was tested."""
    blocks = [block for block in findings.blocks if block.design == design and block.row.name == row.name]
    return [effect for block in blocks if (effect := block.effect("pipeline"))]


def _part_said(run: Run, findings: Findings, part: Part) -> str:
    """One part of the claim in a sentence."""
    effect, unknown = part.finding, f"Whether cropping costs {part.name}"
    if part.key is None or not isinstance(effect, Effect):
        return f"{unknown} was not tested: {run.primary or 'its measure'} was not measured."
    plain = metrics.find(part.key[2]).plain
    if effect.outcome == "not compared" or not effect.by_seed:
        return f"{unknown} was not compared: {words.brief(effect.reason)}."
    groups = [_groups(block.row, block.design) for block in findings.blocks if (block.design.pipeline, block.row.name) == part.key[1:3]]
    ((crops, others),) = groups
    more = "clips"
    if plain.counts and (found := ratios.of_means(others, crops)):
        more = f"{plain.says(found[0], 'higher')} clips"
    clips = f"models trained on {effect.favours} make {more} that {plain.verb}"
    if effect.carried:
        assert effect.corrected is not None
        costs = f"Cropping costs {part.name}" if part.state == "supported" else f"Cropping costs no {part.name}"
        return f"{costs}: {clips} ({words.p_value(effect.corrected)})."
    seeds = words.number_of(len(effect.by_seed), "seed")
    if any(block.missing for block in findings.blocks if block.effect("pipeline") is effect):
        return f"{unknown} is open: not every seed has a value."
    chance = f", {words.p_value(effect.corrected)}" if effect.corrected is not None else ""
    return f"{unknown}, {seeds} cannot tell" + (f": {clips}{chance}." if effect.favours else ".")


def _used(run: Run) -> list[str]:
    """How much of the training clips each pipeline uses: counted, so exact."""
    contenders = factorial.by_policy(run)
    known = {policy.name: policy.family for policy in POLICIES.among(policy for _, policy in contenders)}
    families = {name: known.get(policy, policy) for (_, policy), name in contenders.items()}
    used: dict[str, list[float]] = {}
    for name, ledgers in pipeline.ledgers(run).items():
        used.setdefault(families.get(name, name), []).extend(ledger["pixels.used"] for ledger in ledgers)
    texts = []
    for family, shares in used.items():
        ends = dict.fromkeys(f"{100 * share:.0f} %" for share in (min(shares), max(shares))) if shares else {}
        texts += [f"{family} use {' to '.join(ends)}"] if ends else []
    said = words.listed([texts[0], *(text.replace(" use ", " ", 1) for text in texts[1:])]) if texts else ""
    return [f"Of the pixels of the training clips {said}."] if said else []
