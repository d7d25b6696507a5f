"""The claim `physics`: video models learn the dynamics of a world. By one world, whose laws are known exactly.

Learnt is what predicts better than copying and guessing do, inside the ranges that were trained on and outside them too: a model that beats
the floors inside alone has learnt its clips and not their law. Which backbone predicts better is a part of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.data.physics.regions import Region
from bench.report.load import Run
from bench.report.render import words
from bench.report.verdicts import ratios
from bench.report.verdicts.claim_lead import costs_said
from bench.report.verdicts.claims import ClaimState, Effect, Finding, Key, Part, is_measure
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.learned import NAIVE, WHERE, FloorContrast
from bench.report.verdicts.ratios import AxisRatios

if TYPE_CHECKING:
    from bench.report.verdicts.findings import Findings

JUDGED: tuple[Region, ...] = ("in", "out")  # regions that the claim is made of; combinations are shown beside them
LEAD = "which backbone"


class Learning:
    """Video models learn the laws of a world, which holds where the same model beats the floors inside and outside its ranges."""

    question = "Does a video model learn the laws of this world, and which backbone learns them better?"
    of_backbones = True

    def rests_on(self, findings: Mapping[Key, Finding], primary: str | None) -> dict[str, Key | None]:
        """Every contender against the floors in each judged region, and the lead on the primary error inside."""
        parts: dict[str, Key | None] = {}
        for key in findings:
            if key[0] == "floor" and key[2] in JUDGED:
                parts[f"{key[1]} {key[2]}"] = key
        lead = next((key for key in findings if key[0] == "lead" and is_measure(key[1], primary)), None)
        return parts | {LEAD: lead} if parts else {LEAD: lead, "floors": None}

    def state(self, finding: Finding | None) -> ClaimState:
        """Supported where a model beats the floors, not supported where they beat it; and who leads, leads."""
        if finding is None:
            return "not tested"
        if not isinstance(finding, Effect):
            return "leads" if finding.carried else "inconclusive"
        return "inconclusive" if not finding.carried else "not supported" if finding.favours in NAIVE else "supported"

    def whole(self, parts: Sequence[Part]) -> ClaimState:
        """Supported where one contender is in both regions, not supported where every one fails in one of them; the lead says nothing."""
        learnt: dict[str, list[ClaimState]] = {}
        for part in parts:
            if part.key is not None and part.key[0] == "floor":
                learnt.setdefault(part.key[1], []).append(part.state)
        each = [_both(states) for states in learnt.values()]
        if "supported" in each:
            return "supported"
        if "inconclusive" in each:  # this one may have learnt it
            return "inconclusive"
        return "not supported" if each else "not tested"

    def says(self, run: Run, findings: Findings) -> list[str]:
        """What each backbone learnt, then which predicts better, then what they cost."""
        learnt = [_learnt(findings.floors, region) for region in JUDGED]
        said = " ".join(filter(None, learnt)) or "Whether they learn its laws was not tested: no floor was measured."
        return [said, _lead_said(run, findings), *filter(None, [costs_said(run, findings.rows)])]

    def ratios(self, run: Run, findings: Findings) -> AxisRatios | None:
        """Every contender against the first."""
        return ratios.against_first(run, findings.rows)


def _both(states: Sequence[ClaimState]) -> ClaimState:
    """Of one contender, over the regions: it must hold in all, and fails where it fails in one."""
    if all(state == "supported" for state in states):
        return "supported"
    return "not supported" if "not supported" in states else "inconclusive"


def _learnt(floors: Sequence[FloorContrast], region: Region) -> str:
    """What is carried of every contender in a region, in a sentence; "" where nothing was measured."""
    own = [each for each in floors if each.region == region]
    if not own:
        return ""
    outcomes = {
        "better": [each.contender for each in own if each.effect.carried and each.effect.favours not in NAIVE],
        "worse": [each.contender for each in own if each.effect.carried and each.effect.favours in NAIVE],
        "open": [each.contender for each in own if not each.effect.carried],
    }
    floor = NAIVE[own[0].floor]
    texts = []
    if names := outcomes["better"]:
        texts.append(f"{words.listed(names)} predict{'s' if len(names) == 1 else ''} better than {floor}, the best guess without physics")
    if names := outcomes["worse"]:
        texts.append(f"{words.listed(names)} predict{'s' if len(names) == 1 else ''} worse than {floor}")
    if names := outcomes["open"]:
        texts.append(f"seeds and clips cannot tell {words.listed(names)} from {floor}")
    where = WHERE[region].replace("it was", "they were")
    return f"{where[0].upper()}{where[1:]} {'; '.join(texts)}."


def _lead_said(run: Run, findings: Findings) -> str:
    """Which backbone predicts better inside, in a sentence."""
    part = next((part for part in findings.conclusion.parts if part.name == LEAD), None)
    row = next((row for row in findings.rows if row.name == run.primary and row.subject == "trained"), None)
    if part is None or part.finding is None or row is None or row.verdict is None:
        return f"Which backbone predicts better is not known: {run.primary or 'its measure'} was not measured."
    verdict = row.verdict
    if verdict.carried and verdict.corrected is not None:
        return f"{verdict.leader} predicts better: {row.metric.title.lower()} {_means(row)} ({words.p_value(verdict.corrected)})."
    chance = f", {words.p_value(verdict.corrected)}" if verdict.corrected is not None else ""
    return f"Which backbone predicts better the seeds cannot tell: {row.metric.title.lower()} {_means(row)}{chance}."


def _means(row: MeasureRow) -> str:
    """'0.021 and 0.034 for A and B'."""
    entries = [entry for entry in row.entries if entry.interval]
    return f"{words.listed([row.text(e.interval.mean) for e in entries if e.interval])} for {words.listed([e.contender for e in entries])}"
