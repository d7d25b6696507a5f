"""The question and its answer in sentences, from the verdicts alone. Claims nothing a verdict does not carry."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.grid.shape_map import ShapeMap, shape_text
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.verdicts import claim_shapes, compare
from bench.report.verdicts.claim_shapes import Sentences
from bench.report.verdicts.claims import claim_of
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import by_policy
from bench.report.verdicts.findings import Findings
from bench.report.verdicts.spending import EXTENDED
from bench.report.verdicts.stats import MIN_SEEDS, Verdict
from bench.shapes import Shape
from bench.study.budget import BUDGETS
from bench.study.cell import Cell


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to the matrix's question."""

    question: str  # what the matrix asks
    setting: str  # what was run
    headline: str
    carried: bool  # whether the numbers carry what the headline says
    sentences: Sentences


def setting(run: Run) -> str:
    """What was run, in one sentence."""
    done = sum(cell.status == "ok" for cell in run.cells)
    parts = [f"{_contenders_text(run)}, {_seeds_text(run)} each"]
    if run.records:
        cell = run.records[0].cell
        parts += [f"{cell.data.source}, {_clips_text(cell)}", f"budget {budget_text(cell.budget.axis, cell.budget.amount)}"]
        parts.append(f"on {' / '.join(dict.fromkeys(machine_text(record.environment) for record in run.records))}")
    return f"{'; '.join(parts)}. {done} of {len(run.cells)} cells finished."


def _contenders_text(run: Run) -> str:
    """Contenders by name; where they are backbones under policies, each backbone with its policies."""
    policies: dict[str, list[str]] = {}
    for (_, policy), name in by_policy(run).items():
        policies.setdefault(name.removesuffix(f" {policy}"), []).append(policy)
    return "; ".join(f"{backbone} under {_and(names)}" for backbone, names in policies.items()) or _and(run.contenders)


def _clips_text(cell: Cell) -> str:
    """The clips, and where they have several shapes what crops make of them and what a batch holds."""
    data = cell.data
    size = f"{data.width}{metrics.TIMES}{data.height}"
    shapes: list[Shape] = sorted(getattr(data, "shapes", ()), key=math.prod)
    if not shapes and not getattr(data, "native", False):
        return f"clips of {data.num_frames} frames of {size}"
    text = f"clips at their own shapes, up to {data.num_frames} frames and the area of {size}"
    if shapes:
        text = f"clips of {len(shapes)} shapes from {shape_text(shapes[0])} to {shape_text(shapes[-1])} (frames, height, width)"
    text += f"; crops are {shape_text((data.num_frames, data.height, data.width))}"
    budget = cell.batching.voxel_budget
    return f"{text}; at most {metrics.count(budget)} latent voxels a batch" if budget else text


def budget_text(axis: str, amount: float) -> str:
    """A budget as a reader says it."""
    if axis not in BUDGETS.names():
        return f"{metrics.count(amount)} {axis}"
    known = BUDGETS.find(axis)
    if not known.prefixed:
        return f"{metrics.count(amount)} {known.words}"
    divisor, unit = metrics.scale_of(metrics.find(known.measurement or axis), amount, "")
    return f"{metrics.number(amount / divisor)} {known.words} {unit}"


def machine_text(environment: Any) -> str:
    """The device a cell ran on, and its threads."""
    device = environment.device if environment.device and environment.device != "cpu" else environment.cpu
    threads = environment.num_threads
    return f"{device} ({threads} thread{'s' if threads != 1 else ''})" if threads and environment.device in (None, "cpu") else device


def answer(run: Run, findings: Findings, grid: ShapeMap | None) -> Answer:
    """The headline is what the claim's rule says; every group of axes gets its say in a sentence."""
    asked, told = claim_of(run.claim).question, setting(run)

    def made(headline: str, sentences: Sentences, carried: bool = False) -> Answer:
        return Answer(question=asked, setting=told, headline=headline, carried=carried, sentences=sentences)

    if len(run.contenders) < 2:
        alone = f"The run has {run.contenders[0] if run.contenders else 'no cells'} and nothing beside it."
        return made("Nothing to compare", [("", alone)])
    if run.untrusted:
        which = "; ".join(f"{name}: {', '.join(canaries)}" for name, canaries in run.untrusted.items())
        warning = f"Self-checks failed ({which}). The numbers below are shown; none of them is to be believed."
        return made("No verdict: a canary failed", [("", warning)])

    judged = compare.axes(findings.rows)
    headline, sentences = claim_shapes.told(run, findings, grid) if run.claim == "shapes" else _quality(run, findings)
    for group in ("speed", "memory", "cost"):
        if text := _group([row for row in judged if row.metric.group == group]):
            sentences.append((metrics.GROUPS[group], text))
    sentences.append(("Rule", _rule(run, findings)))
    return made(headline, sentences, findings.conclusion.carried)


def _rule(run: Run, findings: Findings) -> str:
    """What decides, what else was tested, and how; and that too few seeds decide nothing."""
    decisive = " and ".join(part.key[1 if part.key[0] == "lead" else 2] for part in findings.conclusion.parts if part.key)
    card = f"; {run.primary_card}" if run.primary_card else ""
    parts = [f"the headline rests on {decisive} alone, named before the run{card}" if decisive else "no measure was named that decides"]
    if run.changed:
        held = f", so its tests are held at {EXTENDED**run.extensions:g} of it" if run.extensions else ""
        parts.append(f"{run.changed}: a study that grows until it says something is wrong more often than its level says{held}")
    if run.looks:
        grew = f"seeds were added one by one, from {run.looks.first} to {run.looks.most} of each at most"
        parts.append(f"{grew}, and looked at each time: all looks together spend the level once")
    if findings.num_tests:
        tests = f"{findings.num_tests} other test{'s' if findings.num_tests > 1 else ''}"
        parts.append(f"{tests} beside it, {findings.num_carried} carried after correction for their number")
    if min(_seed_counts(run)) < MIN_SEEDS:
        few = f"{_seeds_text(run)} cannot carry a claim about a value that varies with the seed; {MIN_SEEDS} can"
        parts.append(f"{few}. Counts are exact and may lead without")
    text = ". ".join(part[0].upper() + part[1:] for part in parts)
    return f"{text}."


def _quality(run: Run, findings: Findings) -> tuple[str, Sentences]:
    """(headline, sentences) on the distances and the other quality measures."""
    leading = compare.leading(run, findings.rows)
    sentences = [("Quality", _distance(row, row.verdict)) for row in leading if row.verdict is not None]
    others = [row for row in compare.axes(findings.rows) if row.metric.group == "quality" and row not in leading]
    if text := _group(others):
        sentences.append(("Other quality measures" if leading else metrics.GROUPS["quality"], text))
    finding = findings.conclusion.parts[0].finding
    if not isinstance(finding, Verdict):
        return f"Quality: {run.primary} was not measured" if run.primary else "Quality: no measure was named to decide", sentences
    if finding.carried:
        return f"Quality: {finding.leader} leads", sentences
    return f"Quality: {'inconclusive' if finding.outcome in ('inconclusive', 'tie') else finding.outcome}", sentences


def _seed_counts(run: Run) -> list[int]:
    return [len({cell.seed for cell in run.of(name)}) for name in run.contenders]


def _seeds_text(run: Run) -> str:
    least, most = min(_seed_counts(run), default=0), max(_seed_counts(run), default=0)
    return f"{least} to {most} seeds" if least != most else f"{most} seed{'s' if most != 1 else ''}"


def _distance(row: MeasureRow, verdict: Verdict) -> str:
    """A leading distance in words, each mean with its interval."""
    means = []
    for entry in row.entries:
        if entry.interval:
            means.append(f"{entry.contender} {row.text(entry.interval.mean)} {row.bounds(entry)}".rstrip())
    if "real" in row.references:
        means.append(f"real against real {row.text(row.references['real'][1])}")
    outcome = f"{verdict.leader} leads" if verdict.carried else verdict.outcome[0].upper() + verdict.outcome[1:]
    reason = "; ".join([verdict.reason, *row.caveats])
    return f"{row.metric.title}: {', '.join(means)}; {row.better} is better. {outcome}: {reason}."


def _group(rows: Sequence[MeasureRow]) -> str:
    """One sentence on a group of axes: who leads which, who is merely ahead."""
    leads: dict[str, list[str]] = {}
    ahead: dict[str, list[str]] = {}
    for row in rows:
        verdict = row.verdict
        if verdict is None or verdict.leader is None or verdict.outcome == "tie":
            continue
        (leads if verdict.carried else ahead).setdefault(verdict.leader, []).append(_phrase(row, verdict))
    parts = [f"{name} leads on {_and(what)}" for name, what in leads.items()]
    parts += [f"{'i' if leads or place else 'I'}nconclusive, with {name} ahead, on {_and(ahead[name])}" for place, name in enumerate(ahead)]
    return f"{'; '.join(parts)}." if parts else ""


def _phrase(row: MeasureRow, verdict: Verdict) -> str:
    title = row.metric.title
    if title[1:2].islower() and not title.startswith("Fréchet"):  # an abbreviation, or a name
        title = title[0].lower() + title[1:]
    ratio = ratio_text(row, verdict)
    exact = ", exact" if verdict.outcome == "exact" else ""
    return f"{title} ({ratio}{exact})" if ratio else title


def ratio_text(row: MeasureRow, verdict: Verdict) -> str:
    """Leader's mean / rival's mean, where both are positive."""
    leader, rival = (row.entry(name).interval if name else None for name in (verdict.leader, verdict.rival))
    if leader is None or rival is None or min(leader.mean, rival.mean) <= 0 or not math.isfinite(leader.mean / rival.mean):
        return ""
    ratio = leader.mean / rival.mean
    return f"{ratio:.{3 if abs(ratio - 1) < 0.1 else 2}f}{metrics.TIMES}"


def _and(names: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
