"""The answer that a page opens with: what was run, in a line, and what is known of it, in at most three sentences. From verdicts alone."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from bench.report.grid.shape_map import shape_text
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.render import words
from bench.report.render.budget import budget_text
from bench.report.verdicts import prospect, tuned
from bench.report.verdicts.claim_table import claim_of
from bench.report.verdicts.factorial import by_policy
from bench.report.verdicts.findings import Findings
from bench.report.verdicts.ratios import AxisRatios
from bench.shapes import Shape
from bench.study.cell import Cell

MOST_SENTENCES = 3
MOST_NAMED = 4  # contenders by name, in the line above the answer
AnswerMark = Literal["decided", "open", "no verdict"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to the matrix's question."""

    question: str  # what the matrix asks
    setting: tuple[str, ...]  # what was run, part by part
    mark: AnswerMark  # whether the numbers carry anything of the claim
    sentences: tuple[str, ...]
    command: str  # what the last sentence asks for; "" where nothing is
    ratios: AxisRatios | None  # its picture


def answer(run: Run, findings: Findings) -> Answer:
    """What the claim's own rule and words make of the findings."""
    claim, command = claim_of(run.claim, bool(run.contrasts)), ""
    mark: AnswerMark = "no verdict" if run.untrusted else "decided" if findings.conclusion.carried else "open"
    if run.untrusted:
        failed = words.listed([f"{', '.join(canaries)} of {name}" for name, canaries in run.untrusted.items()])
        said = [f"Nothing here is to be believed: a self-check failed ({failed})."]
    elif run.tunes is not None:
        mark, said = "open", tuned.says(run)
    elif len(run.contenders) < 2:
        said = [f"There is nothing to compare: the run has {run.contenders[0] if run.contenders else 'no cells'} alone."]
    else:
        said = claim.says(run, findings)[:MOST_SENTENCES]
        if next_step := prospect.of_headline(run, findings):
            command = next_step.command or ""
            said = [*said[: MOST_SENTENCES - 1], f"{next_step.sentence}{':' if command else '.'}"]
    return Answer(
        question=claim.question if run.tunes is None else tuned.question(run),
        setting=tuple(setting(run)),
        mark=mark,
        sentences=tuple(said),
        command=command,
        ratios=None if run.untrusted or run.tunes is not None else claim.ratios(run, findings),
    )


def setting(run: Run) -> list[str]:
    """What was run: contenders, seeds, data, budget and machine, in a few words each."""
    parts = [_contenders_text(run), f"{_seeds_text(run)} each"]
    if run.records:
        cell = run.records[0].cell
        parts += [f"{cell.data.source}, {_clips_text(cell)}", budget_text(cell.budget.axis, cell.budget.amount)]
        parts.append(" / ".join(dict.fromkeys(machine_text(record.environment) for record in run.records)))
    return parts


def _contenders_text(run: Run) -> str:
    """Contenders by name, or how many; where they are backbones under policies, each backbone with its policies."""
    policies: dict[str, list[str]] = {}
    for (_, policy), name in by_policy(run).items():
        policies.setdefault(name.removesuffix(f" {policy}"), []).append(policy)
    if policies:
        return "; ".join(f"{backbone} under {words.listed(names)}" for backbone, names in policies.items())
    names = run.contenders if run.tunes is None else [tuned.in_words(name) for name in tuned.tunings(run)]
    return words.listed(names) if 0 < len(names) <= MOST_NAMED else f"{len(names) or len(run.contenders)} contenders"


def _seeds_text(run: Run) -> str:
    counts = [len({cell.seed for cell in run.of(name)}) for name in run.contenders]
    least, most = min(counts, default=0), max(counts, default=0)
    return f"{least} to {most} seeds" if least != most else f"{most} seed{'s' if most != 1 else ''}"


def _clips_text(cell: Cell) -> str:
    """The clips, and where they have several shapes which."""
    data = cell.data
    size = f"{data.width}{metrics.TIMES}{data.height}"
    shapes: list[Shape] = sorted(getattr(data, "shapes", ()), key=math.prod)
    if shapes:
        return f"clips of {len(shapes)} shapes from {shape_text(shapes[0])} to {shape_text(shapes[-1])}"
    if getattr(data, "native", False):
        return f"clips at their own shapes, up to {data.num_frames} frames and the area of {size}"
    return f"{data.num_frames} frames of {size}"


def machine_text(environment: Any) -> str:
    """The device a cell ran on, and its threads."""
    device = environment.device if environment.device and environment.device != "cpu" else environment.cpu
    threads = environment.num_threads
    return f"{device} ({threads} thread{'s' if threads != 1 else ''})" if threads and environment.device in (None, "cpu") else device
