"""The verdict on the claim `shapes`, that cropping costs quality and composition, from the 2 x 2 tables, the ledger and the grid.

What stands against crops is buckets, where the run has them, since both backbones then do the same; else own shapes. Two parts have a
verdict: quality, by the primary distance, and composition, by any measure of where subjects are. It is `supported` where crops lose,
carried; `not supported` where they win, carried; else `inconclusive`. Where two quality measures carry opposite effects, there is no
verdict but that. What packs and padding do beside that is told, not judged.
"""

from collections.abc import Sequence

from bench.data.policy.table import POLICIES
from bench.report.grid import envelope
from bench.report.grid.shape_map import ShapeMap
from bench.report.load import Run
from bench.report.page import pipeline
from bench.report.render import catalogue as metrics
from bench.report.verdicts import compare, factorial
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import DesignRow, Effect

COMPOSITION = ("subject_whole_rate", "framing_distance", "saliency_distance")
VERDICTS = {
    "supported": "Supported: cropping costs {}",
    "not supported": "Not supported: crops are better in {}",
    "inconclusive": "Inconclusive: what cropping costs in {}",
}
Sentences = list[tuple[str, str]]  # (group, sentence)


def verdict(run: Run, rows: Sequence[MeasureRow], blocks: Sequence[DesignRow], grid: ShapeMap | None) -> tuple[str, bool, Sentences]:
    """(headline, whether the numbers carry it, sentences on all that is about quality)."""
    pipelines = list(dict.fromkeys(block.design.pipeline for block in blocks))
    of_main = {block.row.name: block for block in blocks if block.design.pipeline in pipelines[:1]}
    primary = compare.primary(rows)
    if primary is None or primary.name not in of_main:
        what = "no distance was measured" if of_main else "the run has no two backbones under crop and another policy, all else equal"
        return "Inconclusive: the claim was not tested", False, [("Claim", f"Not tested: {what}."), *_facts(run, grid)]
    main = of_main[primary.name]
    headline, carried = _headline(main, list(of_main.values()))
    title = main.row.metric.title
    caveats = "".join(f"; {caveat}" for caveat in main.row.caveats)
    sentences = [("Cropping", f"{title}: {_effect_text(main, 'pipeline')}{caveats}.")]
    if share := factorial.share_text(main):
        sentences.append(("Backbone or pipeline", f"By the means, {share}: {_effect_text(main, 'backbone')}."))
        sentences.append(("Interaction", f"{title}: {_effect_text(main, 'interaction')}."))
    found = [f"{_title(of_main[name])}: {_effect_text(of_main[name], 'pipeline', brief=True)}" for name in COMPOSITION if name in of_main]
    sentences += [("Composition", f"{'; '.join(found)}.")] if found else []
    others = [_summary(block) for name, block in of_main.items() if name not in (primary.name, *COMPOSITION)]
    sentences += [("Other quality measures", f"{'; '.join(others)}.")] if others else []
    for block in blocks:
        if block.design.pipeline in pipelines[1:] and block.row.name == primary.name:
            policies = f"{block.design.cells[0][1]}, {block.design.cells[1][1]}"
            text = f"{title}: {_effect_text(block, 'pipeline')}; {_effect_text(block, 'interaction')}"
            sentences.append((block.design.pipeline.capitalize(), f"{text} ({policies})."))
    shown = [row for row in rows if row.name in (primary.name, COMPOSITION[0]) and row.subject == primary.subject]
    return headline, carried, [*sentences, *_contrasts(run, shown), *_facts(run, grid)]


def _contrasts(run: Run, rows: Sequence[MeasureRow]) -> Sentences:
    """What one policy does that another does not, packs and buckets of ours, of each backbone that was run under both."""
    contenders = factorial.by_policy(run)
    known = {policy.name: policy for policy in POLICIES.among(policy for _, policy in contenders)}
    sentences = []
    for policy in known.values():
        other, texts = known.get(policy.against or ""), []
        if other is None:
            continue
        for (backbone, name), first in contenders.items():
            second = contenders.get((backbone, policy.name))
            if name != other.name or second is None:
                continue
            for row in rows:
                if effect := factorial.contrast(run, row, (first, second), (other.word, policy.word)):
                    favour = f"{effect.favours} better" if effect.favours else "none better"
                    difference = f"{second} {metrics.MINUS} {first} {_value_text(row, effect)}"
                    texts.append(f"{metrics.find(row.name).title}: {difference}, {favour}, {_state_text(effect)}")
        if texts:
            sentences.append((f"{policy.word.capitalize()} against {other.word}", f"{'; '.join(texts)}."))
    return sentences


def _headline(main: DesignRow, all_of_it: Sequence[DesignRow]) -> tuple[str, bool]:
    """One line, and whether the numbers carry it."""
    effects = {block.row.name: effect for block in all_of_it if (effect := block.effect("pipeline"))}
    if len({effect.favours for effect in effects.values() if effect.carried}) > 1:
        return "Split: the measures disagree on what cropping costs", False
    parts = {"quality": _state([effects.get(main.row.name)])}
    if composition := [effects.get(name) for name in COMPOSITION if any(block.row.name == name for block in all_of_it)]:
        parts["composition"] = _state(composition)
    effect = effects.get(main.row.name)
    why = effect.reason if effect else "no seed has all four values"
    texts = []
    for state, words in VERDICTS.items():
        if members := [part for part, found in parts.items() if found == state]:
            reason = f" ({why})" if state == "inconclusive" and "quality" in members else ""
            texts.append(words.format(" and ".join(members)) + reason)
    share = [f"{_title(main)}: by the means, {factorial.share_text(main)}"] if effect else []
    return ". ".join([*texts, *share]), set(parts.values()) != {"inconclusive"}


def _state(effects: Sequence[Effect | None]) -> str:
    """What the pipeline's effects on the measures of one part say of crops; those that are carried agree."""
    favoured = next((effect.favours for effect in effects if effect and effect.carried), None)
    return {None: "inconclusive", factorial.CROP.word: "not supported"}.get(favoured, "supported")


def _effect_text(block: DesignRow, kind: str, brief: bool = False) -> str:
    """One effect: what is subtracted, how much it is, whom it favours, and whether that is carried; why only where not `brief`."""
    effect = block.effect(kind)
    if effect is None:
        return factorial.remark(block)
    favour = factorial.favour_text(block, effect)
    favour += f" from {block.design.pipeline}" if kind == "interaction" and effect.favours else ""
    return f"{block.design.titles[kind]} {_value_text(block.row, effect)}, {favour}, {_state_text(effect, brief)}"


def _value_text(row: MeasureRow, effect: Effect) -> str:
    """Mean, interval and unit of a difference."""
    unit = {"": "", "%": " points"}.get(row.unit, f" {row.unit}")
    return f"{factorial.effect_text(row, effect)}{unit}"


def _state_text(effect: Effect, brief: bool = False) -> str:
    """Whether it is carried, and unless `brief` why not."""
    return "carried" if effect.carried else f"{effect.outcome}{'' if brief else f' ({effect.reason})'}"


def _summary(block: DesignRow) -> str:
    """What is carried on a measurement, and the share."""
    carried = [f"{effect.kind} ({factorial.favour_text(block, effect)})" for effect in block.effects if effect.carried]
    states = f"carried: {', '.join(carried)}" if carried else "nothing carried"
    return f"{_title(block)}: {states}" + (f", {share}" if (share := factorial.share_text(block)) else "")


def _title(block: DesignRow) -> str:
    """A measurement's title without n and clips."""
    return metrics.find(block.row.name.partition("@")[0]).title


def _facts(run: Run, grid: ShapeMap | None) -> Sentences:
    """What needs no statistics: pixels used, and the shapes that hold."""
    used: dict[str, list[str]] = {}
    for name, ledgers in pipeline.ledgers(run).items():
        if shares := [ledger["pixels.used"] for ledger in ledgers]:
            texts = dict.fromkeys(f"{metrics.number(100 * share)} %" for share in (min(shares), max(shares)))
            used.setdefault(" to ".join(texts), []).append(name)
    shown = [f"{share} by {', '.join(names)}" for share, names in used.items()]
    facts = [("Data", f"Pixels of the training clips used: {'; '.join(shown)}.")] if shown else []
    held = envelope.held_text(grid) if grid else ""
    return [*facts, ("Any shape", held)] if held else facts
