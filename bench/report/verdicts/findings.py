"""All that a run's numbers are asked, judged together: who leads each axis, the effects in its 2 x 2 tables, and its claim."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.report.load import Run
from bench.report.scaling.findings import ScalingFindings, find_scaling
from bench.report.verdicts import compare, factorial, flips, learned, named
from bench.report.verdicts.claim_table import claim_of
from bench.report.verdicts.claims import COMPOSITION, Conclusion, Effect, Finding, Key, settle
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import DesignRow, PolicyContrast
from bench.report.verdicts.flips import EqualPair
from bench.report.verdicts.learned import FloorContrast
from bench.report.verdicts.named import NamedContrast
from bench.report.verdicts.stats import Verdict


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a page speaks of, every open verdict and effect decided."""

    rows: list[MeasureRow]
    blocks: list[DesignRow]
    contrasts: list[PolicyContrast]
    named: list[NamedContrast]  # that the matrix asks, under every condition that it has
    pairs: list[EqualPair]  # that are equal in something else than the main contenders
    floors: list[FloorContrast]  # of a physics world
    scaling: ScalingFindings | None  # of a run that holds cells out
    conclusion: Conclusion
    num_tests: int  # beside those that the headline rests on
    num_carried: int  # of those


def find(run: Run) -> Findings:
    """Everything that a run's records say, by the rules of claims.py."""
    rows = compare.compare(run)
    blocks = factorial.blocks(run, rows)
    shown = [row for row in rows if row.subject == "trained" and row.metric.group == "quality"]
    contrasts = factorial.contrasts(run, [row for row in shown if row.name.partition("@")[0] in (run.primary, COMPOSITION[0])])
    asked = named.named_contrasts(run, rows)
    pairs = [] if run.contrasts else flips.equal_pairs(run, rows)  # which pairs are compared, the matrix has said
    floors = learned.floor_contrasts(run, rows)
    open_ones = dict(_keyed(rows, blocks, contrasts, pairs)) | {_floor_key(each): each.effect for each in floors}
    open_ones |= {named.key_of(each.title, each.row.name, each.under): each.verdict for each in asked}
    scaling = find_scaling(run)
    open_ones |= {("trend", each.label, "val_loss"): each for each in (scaling.trends if scaling else ())}
    decided, conclusion = settle(claim_of(run.claim, bool(run.contrasts)), open_ones, run.primary)
    decisive = {part.key for part in conclusion.parts}
    tested = [decided[key] for key, finding in open_ones.items() if finding.outcome == "open" and key not in decisive]
    return Findings(
        rows=[_row(row, decided) for row in rows],
        blocks=[_block(block, decided) for block in blocks],
        contrasts=[_contrast(each, decided) for each in contrasts],
        named=[_named(each, decided) for each in asked],
        pairs=[_pair(each, decided) for each in pairs],
        floors=[_floor(each, decided) for each in floors],
        scaling=scaling,
        conclusion=conclusion,
        num_tests=len(tested),
        num_carried=sum(finding.carried for finding in tested),
    )


def _keyed(
    rows: list[MeasureRow], blocks: list[DesignRow], contrasts: list[PolicyContrast], pairs: list[EqualPair]
) -> Iterator[tuple[Key, Finding]]:
    for row in compare.axes(rows):
        assert row.verdict is not None
        yield _lead_key(row), row.verdict
    for block in blocks:
        for kind in factorial.WEIGHTS:  # one that no seed has is there too: whoever fails does not choose what decides
            yield _effect_key(block, kind), block.effect(kind) or factorial.no_effect(kind, block.missing)
    for each in contrasts:
        yield _contrast_key(each), each.effect
    for pair in pairs:
        if not pair.main:
            yield _pair_key(pair), pair.verdict


def _lead_key(row: MeasureRow) -> Key:
    return "lead", row.name


def _effect_key(block: DesignRow, kind: str) -> Key:
    return "effect", block.design.pipeline, block.row.name, kind


def _contrast_key(each: PolicyContrast) -> Key:
    return "contrast", *each.contenders, each.row.name


def _pair_key(pair: EqualPair) -> Key:
    return "pair", pair.first, pair.second, pair.row.name


def _floor_key(each: FloorContrast) -> Key:
    return "floor", each.contender, each.region


def _floor(each: FloorContrast, decided: dict[Key, Finding]) -> FloorContrast:
    found = decided[_floor_key(each)]
    assert isinstance(found, Effect)
    return replace(each, effect=found)


def _row(row: MeasureRow, decided: dict[Key, Finding]) -> MeasureRow:
    verdict = decided.get(_lead_key(row)) if row.subject == "trained" else None
    return replace(row, verdict=verdict) if isinstance(verdict, Verdict) else row


def _block(block: DesignRow, decided: dict[Key, Finding]) -> DesignRow:
    effects = tuple(found for effect in block.effects if isinstance(found := decided[_effect_key(block, effect.kind)], Effect))
    return replace(block, effects=effects)


def _contrast(each: PolicyContrast, decided: dict[Key, Finding]) -> PolicyContrast:
    found = decided[_contrast_key(each)]
    assert isinstance(found, Effect)
    return replace(each, effect=found)


def _named(each: NamedContrast, decided: dict[Key, Finding]) -> NamedContrast:
    found = decided[named.key_of(each.title, each.row.name, each.under)]
    assert isinstance(found, Verdict)
    return named.decided(each, found)


def _pair(pair: EqualPair, decided: dict[Key, Finding]) -> EqualPair:
    found = decided.get(_lead_key(pair.row) if pair.main else _pair_key(pair), pair.verdict)
    assert isinstance(found, Verdict)
    return flips.decided(pair, found)
