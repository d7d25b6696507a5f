"""The claim `shapes`, that cropping costs quality and composition, in words: from its conclusion, the 2 x 2 tables, ledger and grid.

What decides is in claims.py. What packs and padding do beside that is told.
"""

from collections.abc import Sequence

from bench.report.grid import envelope
from bench.report.grid.shape_map import ShapeMap
from bench.report.load import Run
from bench.report.page import pipeline
from bench.report.render import catalogue as metrics
from bench.report.verdicts import factorial
from bench.report.verdicts.claims import COMPOSITION, ClaimState, Conclusion, Effect
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import DesignRow, PolicyContrast
from bench.report.verdicts.findings import Findings

VERDICTS: dict[ClaimState, str] = {
    "supported": "Supported: cropping costs {}",
    "not supported": "Not supported: crops are better in {}",
    "inconclusive": "Inconclusive: what cropping costs in {}",
    "not tested": "Not tested: what cropping costs in {}",
}
Sentences = list[tuple[str, str]]  # (group, sentence)


def told(run: Run, findings: Findings, grid: ShapeMap | None) -> tuple[str, Sentences]:
    """(headline, sentences on all that is about quality)."""
    blocks, conclusion = findings.blocks, findings.conclusion
    pipelines = list(dict.fromkeys(block.design.pipeline for block in blocks))
    of_main = {block.row.name: block for block in blocks if block.design.pipeline in pipelines[:1]}
    main = next((block for name, block in of_main.items() if name.partition("@")[0] == run.primary), None)
    if main is None:
        what = f"{run.primary} was not measured" if run.primary else "no measure was named to decide"
        what = what if of_main else "the run has no two backbones under crop and another policy, all else equal"
        return "Inconclusive: the claim was not tested", [("Claim", f"Not tested: {what}."), *_facts(run, grid)]
    title = main.row.metric.title
    caveats = "".join(f"; {caveat}" for caveat in main.row.caveats)
    sentences = [("Cropping", f"{title}: {_effect_text(main, 'pipeline')}{caveats}.")]
    if share := factorial.share_text(main):
        sentences.append(("Backbone or pipeline", f"By the means, which is not tested, {share}: {_effect_text(main, 'backbone')}."))
        sentences.append(("Interaction", f"{title}: {_effect_text(main, 'interaction')}."))
    found = [f"{_title(of_main[name])}: {_effect_text(of_main[name], 'pipeline', brief=True)}" for name in COMPOSITION if name in of_main]
    sentences += [("Composition", f"{'; '.join(found)}.")] if found else []
    others = [_summary(block) for name, block in of_main.items() if name not in (main.row.name, *COMPOSITION)]
    sentences += [("Other quality measures", f"{'; '.join(others)}.")] if others else []
    for block in blocks:
        if block.design.pipeline in pipelines[1:] and block.row.name == main.row.name:
            policies = f"{block.design.cells[0][1]}, {block.design.cells[1][1]}"
            text = f"{title}: {_effect_text(block, 'pipeline')}; {_effect_text(block, 'interaction')}"
            sentences.append((block.design.pipeline.capitalize(), f"{text} ({policies})."))
    return _headline(main, conclusion), [*sentences, *_contrasts(findings.contrasts), *_facts(run, grid)]


def _contrasts(found: Sequence[PolicyContrast]) -> Sentences:
    """What one policy does that another does not, packs and buckets of ours."""
    texts: dict[tuple[str, str], list[str]] = {}
    for each in found:
        effect, (first, second) = each.effect, each.contenders
        favour = f"{effect.favours} better" if effect.favours else "none better"
        difference = f"{second} {metrics.MINUS} {first} {_value_text(each.row, effect)}"
        title = metrics.find(each.row.name).title
        texts.setdefault(each.words, []).append(f"{title}: {difference}, {favour}, {_state_text(effect)}")
    return [(f"{policy.capitalize()} against {other}", f"{'; '.join(told)}.") for (other, policy), told in texts.items()]


def _headline(main: DesignRow, conclusion: Conclusion) -> str:
    """One line: each state with the parts that have it, and why quality has none."""
    effect = main.effect("pipeline")
    why = effect.reason if effect else "no seed has all four values"
    texts = []
    for state, words in VERDICTS.items():
        if members := [part.name for part in conclusion.parts if part.state == state]:
            reason = f" ({why})" if state == "inconclusive" and "quality" in members else ""
            texts.append(words.format(" and ".join(members)) + reason)
    split = ["Split"] if conclusion.state == "split" else []
    return ". ".join([*split, *texts])


def _effect_text(block: DesignRow, kind: str, brief: bool = False) -> str:
    """One effect: what is subtracted, how much it is, whom it favours, and whether that is carried; why only where not `brief`."""
    effect = block.effect(kind)
    if effect is None:
        return factorial.remark(block)
    favour = factorial.favour_text(block, effect)
    favour += f" with {block.design.pipeline}" if kind == "interaction" and effect.favours else ""
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
    return [*facts, ("Any shape", f"{held} Counted, not tested.")] if held else facts
