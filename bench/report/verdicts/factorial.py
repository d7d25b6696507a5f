"""How much is the backbone, how much the data pipeline: 2 x 2 tables of two backbones under two batching policies.

Of a measurement y of two backbones (1, 2) under `crop` and another policy (other), at each seed:
    backbone      mean over policies of  y_2 - y_1
    pipeline      mean over backbones of y_other - y_crop
    interaction   (y_2,other - y_2,crop) - (y_1,other - y_1,crop): what the pipeline does to the second beyond what it does to the first
Seeds are the unit; an effect is a weighted sum of the four means, tested as such (`stats.contrast`) and corrected with all else on the page
(claims.py). Buckets come first: under them both backbones do the same. Own shapes may be packs of one backbone and padded
batches of the other, and then whatever padding costs is in all three effects.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from bench.backbone import short_name
from bench.data.policy.table import POLICIES
from bench.report.load import POLICY, Run
from bench.report.render import catalogue as metrics
from bench.report.render import words
from bench.report.render.table import NONE, Table
from bench.report.verdicts import compare, spending, stats
from bench.report.verdicts.claims import CROP, Effect, EffectStanding
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.stats import MIN_SEEDS, Difference

# Effect -> weights of the means: of the first backbone under crops and under the other policy, then of the second.
WEIGHTS = {"backbone": (-0.5, -0.5, 0.5, 0.5), "pipeline": (-0.5, 0.5, -0.5, 0.5), "interaction": (1.0, -1.0, -1.0, 1.0)}
MIN_RATIO, MAX_RATIO = 1.05, 100.0  # two effects are called equal where one is less than this many times the other, and one alone above


@dataclass(frozen=True, kw_only=True)
class Design:
    """Which four contenders make a 2 x 2."""

    pipeline: str  # family of the policies that stand against crops
    backbones: tuple[str, str]  # as a reader knows them
    cells: tuple[tuple[str, str], tuple[str, str]]  # contenders of each backbone: under crop, under the other policy

    @property
    def contenders(self) -> tuple[str, ...]:
        """All four."""
        return (*self.cells[0], *self.cells[1])

    @property
    def titles(self) -> dict[str, str]:
        """Effect -> the difference that it is."""
        first, second = self.backbones
        return {
            "backbone": f"{second} {metrics.MINUS} {first}",
            "pipeline": f"{self.pipeline} {metrics.MINUS} {CROP.word}",
            "interaction": f"change of {second} {metrics.MINUS} change of {first}",
        }


@dataclass(frozen=True, kw_only=True)
class DesignRow:
    """One measurement in one design."""

    row: MeasureRow
    design: Design
    means: tuple[tuple[float, float], tuple[float, float]] | None  # as Design.cells, over the seeds that all four have; None without one
    effects: tuple[Effect, ...]  # as WEIGHTS; () without a seed
    missing: str | None  # seeds that some of the four lack, and why

    def effect(self, kind: str) -> Effect | None:
        """The effect of a kind, None without a seed."""
        return next((effect for effect in self.effects if effect.kind == kind), None)


def blocks(run: Run, rows: Sequence[MeasureRow]) -> list[DesignRow]:
    """Every quality axis in every 2 x 2 that a run has; none unless its axes are two backbones and policies."""
    axes = [row for row in rows if row.metric.axis and row.metric.group == "quality" and row.subject == "trained"]
    axes = [row for row in axes if row.better in ("lower", "higher")]
    return [_block(run, row, design) for design in designs(run) for row in axes]


def designs(run: Run) -> list[Design]:
    """The 2 x 2 tables inside a run whose contenders differ in two backbones and in policy, and in nothing else."""
    contenders = by_policy(run)
    backbones = list(dict.fromkeys(backbone for backbone, _ in contenders))
    if len(backbones) != 2:
        return []
    short = [short_name(name) for name in backbones]
    found = []
    for pipeline, policies in families(contenders).items():
        others = [next((policy for policy in policies if (backbone, policy) in contenders), "") for backbone in backbones]
        if all(others) and all((backbone, CROP.name) in contenders for backbone in backbones):
            cells = [(contenders[backbone, CROP.name], contenders[backbone, own]) for backbone, own in zip(backbones, others, strict=True)]
            names = short if len(set(short)) == 2 else backbones
            found.append(Design(pipeline=pipeline, backbones=(names[0], names[1]), cells=(cells[0], cells[1])))
    return found


def families(contenders: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """What stands against crops among (backbone, policy) -> its policies, of which a backbone's first counts."""
    found: dict[str, list[str]] = {}
    for policy in POLICIES.among(policy for _, policy in contenders):
        if not policy.baseline:
            found.setdefault(policy.family, []).append(policy.name)
    return found


def by_policy(run: Run) -> dict[tuple[str, str], str]:
    """(backbone, policy) -> contender, of a run whose contenders differ in these and in nothing else; {} of any other."""
    axes = {cell.contender: cell.axes for cell in run.cells}
    if any(set(each) != {"backbone", POLICY} for each in axes.values()):
        return {}
    return {(str(each["backbone"]), str(each[POLICY])): name for name, each in axes.items()}


@dataclass(frozen=True, kw_only=True)
class PolicyContrast:
    """What one policy does to a measurement that another does not, for one backbone: the second contender less the first."""

    row: MeasureRow
    contenders: tuple[str, str]
    words: tuple[str, str]  # of their policies
    effect: Effect


def contrasts(run: Run, rows: Sequence[MeasureRow]) -> list[PolicyContrast]:
    """Packs against buckets of ours, and the like (`Policy.against`), of each backbone that was run under both."""
    contenders = by_policy(run)
    known = {policy.name: policy for policy in POLICIES.among(policy for _, policy in contenders)}
    found = []
    for policy in known.values():
        other = known.get(policy.against or "")
        for backbone in dict.fromkeys(backbone for backbone, _ in contenders) if other else ():
            assert other is not None
            pair = contenders.get((backbone, other.name)), contenders.get((backbone, policy.name))
            if pair[0] is None or pair[1] is None:
                continue
            names = pair[0], pair[1]
            for row in rows:
                if effect := _effect(run, row, "contrast", names, (-1.0, 1.0), (other.word, policy.word)):
                    found.append(PolicyContrast(row=row, contenders=names, words=(other.word, policy.word), effect=effect))
    return found


def _block(run: Run, row: MeasureRow, design: Design) -> DesignRow:
    values = {name: dict(row.entry(name).by_seed) for name in design.contenders}
    seeds = sorted(set.intersection(*(set(series) for series in values.values())))
    effects = []
    for kind, weights in WEIGHTS.items():
        names = (CROP.word, design.pipeline) if kind == "pipeline" else design.backbones
        effects += [effect] if (effect := _effect(run, row, kind, design.contenders, weights, names)) else []
    a, b, c, d = (statistics.fmean(values[name][seed] for seed in seeds) if seeds else math.nan for name in design.contenders)
    return DesignRow(
        row=row,
        design=design,
        means=((a, b), (c, d)) if seeds else None,
        effects=tuple(effects),
        missing=_all_missing(run, row, design.contenders),
    )


def _all_missing(run: Run, row: MeasureRow, contenders: Sequence[str]) -> str | None:
    """Which seeds some of them lack, and why."""
    own = {name: {cell.seed for cell in run.of(name)} for name in contenders}
    asked, texts = set[int]().union(*own.values()), []
    for name in contenders:
        why = [f"seed {seed} not in the matrix" for seed in sorted(asked - own[name])]
        if missing := run.missing(name, row.name):
            why.insert(0, missing)
        texts += [f"{name}: {', '.join(why)}"] if why else []
    return "; ".join(texts) or None


def _refused(run: Run, row: MeasureRow, contenders: Sequence[str]) -> str | None:
    """Why they must not be put side by side."""
    if run.untrusted:  # takes every verdict away
        return f"a canary of {', '.join(run.untrusted)} failed"
    table = run.measurements
    lines = table[(table["name"] == row.name) & (table["subject"] == row.subject) & table["contender"].isin(contenders)]
    return compare.why_not_comparable(run, lines, row.metric)


def _effect(
    run: Run, row: MeasureRow, kind: str, contenders: Sequence[str], weights: Sequence[float], names: tuple[str, str]
) -> Effect | None:
    """A weighted sum of contenders' means over the seeds that all have; None without one. `names`: whom it favours below and above 0."""
    values = [dict(row.entry(name).by_seed) for name in contenders]
    seeds = sorted(set.intersection(*(set(series) for series in values)))
    if not seeds:
        return None
    return effect_of(
        kind,
        {seed: [series[seed] for series in values] for seed in seeds},
        weights,
        better=row.better,
        names=names,
        missing=_all_missing(run, row, contenders),
        refused=_refused(run, row, contenders),
        share=partial(spending.share, run.looks, run.extensions),
    )


def effect_of(
    kind: str,
    by_seed: Mapping[int, Sequence[float]],
    weights: Sequence[float],
    *,
    better: str,
    names: tuple[str, str],
    missing: str | None = None,
    refused: str | None = None,
    share: Callable[[int], float] = lambda seeds: 1.0,
) -> Effect:
    """An effect from its contenders' values at each seed: "open" where the seeds may carry it. The seeds that failed count.

    >>> effect = effect_of("pipeline", {0: [10.0, 8.0, 6.0, 1.0]}, WEIGHTS["pipeline"], better="lower", names=("crops", "buckets"))
    >>> effect.difference.value, effect.favours, effect.reason
    (-3.5, 'buckets', '1 seed; a claim needs at least 3')
    """
    difference, num = stats.contrast(list(zip(*by_seed.values(), strict=True)), weights), len(by_seed)
    outcome: EffectStanding
    if refused:
        outcome, reason = "not compared", refused
    elif missing:
        outcome, reason = "inconclusive", f"seeds without a value count too ({missing})"
    elif num < MIN_SEEDS:
        outcome, reason = "inconclusive", f"{num} seed{'s' if num > 1 else ''}; a claim needs at least {MIN_SEEDS}"
    elif difference.p_value is None:
        outcome, reason = "inconclusive", f"the same in all {num} seeds, so nothing tells what chance does"
    else:
        outcome, reason = "open", f"{num} seeds"
    good = difference.value * (-1 if better == "lower" else 1)  # above 0: better for the second of the names
    return Effect(
        kind=kind,
        by_seed=tuple((seed, sum(w * v for w, v in zip(weights, series, strict=True))) for seed, series in by_seed.items()),
        difference=difference,
        outcome=outcome,
        reason=reason,
        favours=None if good == 0 else names[good > 0],
        share=share(num),
    )


def no_effect(kind: str, missing: str | None) -> Effect:
    """What stands for an effect that no seed has all values of."""
    nothing, why = Difference(value=math.nan, low=None, high=None, p_value=None), f"no seed has all four values ({missing})"
    return Effect(kind=kind, by_seed=(), difference=nothing, outcome="inconclusive", reason=why, favours=None)


def share_text(block: DesignRow) -> str:
    """Backbone against pipeline in words, of the mean effects."""
    backbone, pipeline = block.effect("backbone"), block.effect("pipeline")
    if backbone is None or pipeline is None:
        return ""
    sizes = {"the backbone": abs(backbone.difference.value), "the pipeline": abs(pipeline.difference.value)}
    less, more = sorted(sizes, key=lambda name: sizes[name])
    if not sizes[more]:
        return "neither moves it"
    ratio = sizes[more] / sizes[less] if sizes[less] else math.inf
    if ratio > MAX_RATIO:
        return f"{more} moves it, {less} hardly"
    if ratio < MIN_RATIO:
        return "the pipeline moves it as much as the backbone"
    return f"{more} moves it {metrics.number(ratio, 2)} times as much as {less}"


def effect_text(row: MeasureRow, effect: Effect) -> str:
    """'-43.1 [-60.2, -26.0]' in the row's shown unit."""
    return f"{row.signed(effect.difference.value)} {row.signed_bounds(effect.difference)}".rstrip()


def seeds_text(row: MeasureRow, effect: Effect) -> str:
    """Every seed's value, where there are several."""
    return ", ".join(row.signed(value) for _, value in effect.by_seed) if len(effect.by_seed) > 1 else ""


def says(block: DesignRow) -> str:
    """What a block says, in a sentence: what is carried, what is not and why, and the share in words."""
    carried = [f"{effect.kind} carried ({favour_text(block, effect)})" for effect in block.effects if effect.carried]
    return "; ".join(filter(None, [", ".join(carried), remark(block)]))


def remark(block: DesignRow) -> str:
    """Of a block what its effects do not show: the share in words, and why something is not carried."""
    if not block.effects:
        return "no seed has all four values"
    reasons: dict[str, list[str]] = {}
    for effect in block.effects:
        if not effect.carried:
            reasons.setdefault(f"{effect.word} ({why_text(effect)})", []).append(effect.kind)
    whose = [reason if len(kinds) == len(WEIGHTS) else f"{' and '.join(kinds)} {reason}" for reason, kinds in reasons.items()]
    return "; ".join([f"by the means, {share_text(block)}", *whose])


def why_text(effect: Effect) -> str:
    """Why an effect is what it is, in few words; the CSV has all."""
    return words.brief(effect.reason) if effect.corrected is None else words.p_value(effect.corrected)


def favour_text(block: DesignRow, effect: Effect) -> str:
    """Whom an effect is good for."""
    if effect.favours is None:
        return "none better"
    return f"{effect.favours} fares better" if effect.kind == "interaction" else f"{effect.favours} better"


def tables(found: Sequence[DesignRow]) -> list[Table]:
    """One table a design: effects side by side, one line a measurement."""
    made = []
    for pipeline in dict.fromkeys(block.design.pipeline for block in found):
        members = [block for block in found if block.design.pipeline == pipeline]
        titles = members[0].design.titles
        lines, data = [], []
        for block in members:
            row, texts = block.row, []
            for kind in WEIGHTS:
                effect = block.effect(kind)
                text = effect_text(row, effect) if effect else NONE
                texts.append(f"{text} ({seeds})" if effect and (seeds := seeds_text(row, effect)) else text)
                data.append(_raw(block, kind))
            lines.append((row.titled(), row.better, *texts, says(block)))
        header = ("Measurement", "Better", *(f"{kind.capitalize()}: {titles[kind]}" for kind in WEIGHTS), "What it says")
        name = f"factorial-{pipeline.replace(' ', '-')}"
        caption = f"Backbone and data pipeline, {pipeline} against {CROP.word}: {', '.join(members[0].design.contenders)}"
        made.append(Table(name, caption, header, tuple(lines), data=pd.DataFrame(data)))
    return made


RAW = ("effect", "difference", "value", "low", "high", "p_value", "corrected_p", "seeds", "values", "outcome", "favours", "reason")


def _raw(block: DesignRow, kind: str) -> dict[str, object]:
    row, effect = block.row, block.effect(kind)
    means = [value for pair in block.means for value in pair] if block.means else [None] * 4
    fields: dict[str, object] = {"measurement": row.name, "better": row.better, "unit": row.stored_unit}
    fields |= dict(zip((f"mean of {name}" for name in block.design.contenders), means, strict=True))
    found: tuple[object, ...] = (None, None, None, None, None, 0, "", "not compared", None, says(block))
    if effect:
        values = " ".join(repr(value) for _, value in effect.by_seed)
        interval = (effect.difference.value, effect.difference.low, effect.difference.high)
        found = (*interval, effect.p_value, effect.corrected, len(effect.by_seed), values, effect.outcome, effect.favours, effect.reason)
    return fields | dict(zip(RAW, (kind, block.design.titles[kind], *found), strict=True))
