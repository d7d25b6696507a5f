"""The claim `backbone`, and of any study that names no other: of several contenders one makes the better clips, by the primary measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.report.load import Run
from bench.report.render import words
from bench.report.verdicts import compare, ratios
from bench.report.verdicts.claims import ClaimState, Finding, Key, Part, is_measure, state_of
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.ratios import AxisRatios
from bench.report.verdicts.stats import Verdict

if TYPE_CHECKING:
    from bench.report.verdicts.findings import Findings

MOST_SAID = 3  # axes in the sentence on what a contender costs; the picture has all
WORTH_SAYING = 1.1  # times as much, at least


class Leader:
    """Who leads by the primary measure, whatever it costs; and what it costs."""

    def __init__(self, question: str, of_backbones: bool = False):
        self.question, self.of_backbones = question, of_backbones

    def rests_on(self, findings: Mapping[Key, Finding], primary: str | None) -> dict[str, Key | None]:
        """The lead on the primary measure."""
        return {"quality": next((key for key in findings if key[0] == "lead" and is_measure(key[1], primary)), None)}

    def state(self, finding: Finding | None) -> ClaimState:
        """Who leads, leads."""
        return "not tested" if finding is None else "leads" if finding.carried else "inconclusive"

    def whole(self, parts: Sequence[Part]) -> ClaimState:
        """Carried parts count, and opposite ones split it."""
        return state_of([part.state for part in parts])

    def says(self, run: Run, findings: Findings) -> list[str]:
        """What a contender costs, where that is carried or exact; then whose clips are better."""
        return [*filter(None, [costs_said(run, findings.rows)]), quality_said(run, findings)]

    def ratios(self, run: Run, findings: Findings) -> AxisRatios | None:
        """Every contender against the first."""
        return ratios.against_first(run, findings.rows)


def costs_said(run: Run, rows: Sequence[MeasureRow]) -> str:
    """Speed, memory and cost in a sentence: what is carried, and after it what one run each showed; "" where neither is."""
    judged = [row for row in compare.axes(rows) if row.metric.plain.axis and row.verdict and row.verdict.leader and _apart(row)]
    seen = [row for row in judged if row.verdict and row.verdict.outcome == "inconclusive"] if fewest_seeds(run) == 1 else []
    seen = seen[: MOST_SAID - 1]
    carried = [row for row in judged if row.verdict and row.verdict.carried][: MOST_SAID - len(seen)]
    texts = [_costs(carried)]
    if said := _costs(seen):
        same = _leaders(carried) == _leaders(seen) and len(_leaders(seen)) == 1
        texts.append("in one run each, " + (f"it also {said.removeprefix(f'{_leaders(seen)[0]} ')}" if same else said))
    if not (text := "; ".join(filter(None, texts))):
        return ""
    text = f"Against the next best of {words.NUMBERS[len(run.contenders)]}, {text}" if len(run.contenders) > 2 else text
    return f"{text}."


def _apart(row: MeasureRow) -> bool:
    """Whether leader and rival differ by what a sentence is worth."""
    assert row.verdict and row.verdict.leader and row.verdict.rival
    means = [interval.mean for name in (row.verdict.leader, row.verdict.rival) if (interval := row.entry(name).interval)]
    return len(means) == 2 and min(means) > 0 and max(means) / min(means) >= WORTH_SAYING


def _leaders(rows: Sequence[MeasureRow]) -> list[str]:
    return list(dict.fromkeys(row.verdict.leader for row in rows if row.verdict and row.verdict.leader))


def _costs(rows: Sequence[MeasureRow]) -> str:
    """'B trains 2.6 times as fast in half the memory; A samples twice as fast'."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        verdict, plain = row.verdict, row.metric.plain
        assert verdict and verdict.leader and verdict.rival
        means = [interval.mean for name in (verdict.leader, verdict.rival) if (interval := row.entry(name).interval)]
        if len(means) == 2 and min(means) > 0:
            said = plain.says(means[0] / means[1], row.better)
            found.setdefault(verdict.leader, {}).setdefault(plain.verb, []).append(said)
    texts = [(leader, words.listed([" ".join([verb, *said]) for verb, said in verbs.items()])) for leader, verbs in found.items()]
    return "; ".join(" ".join(parts) for parts in texts)


def quality_said(run: Run, findings: Findings) -> str:
    """Whose clips are better, or that the seeds cannot tell, and why."""
    finding = findings.conclusion.parts[0].finding
    several = len(run.contenders) > 2
    if not isinstance(finding, Verdict):
        why = f"{run.primary} was not measured" if run.primary else "the study names no measure that decides"
        return f"Who makes the {'best' if several else 'better'} clips is not known: {why}."
    row = next(row for row in findings.rows if row.verdict is finding)
    verb, leader = row.metric.plain.verb, finding.leader
    if finding.carried:
        assert finding.corrected is not None
        best = "the best clips of all" if several else "the better clips"
        return f"{leader} makes {best}: they {verb} ({words.p_value(finding.corrected)})."
    seeds = words.number_of(fewest_seeds(run), "seed")
    unknown = f"Which makes {'the best' if several else 'better'} clips, {seeds} cannot tell"
    if finding.outcome == "tie":
        return f"{unknown}: {leader} and {finding.rival} are equal."
    if finding.outcome != "inconclusive":
        return f"Which makes {'the best' if several else 'better'} clips was not compared: {words.brief(finding.reason)}."
    absent = [entry.contender for entry in row.entries if entry.missing]
    if absent:
        return f"Which makes {'the best' if several else 'better'} clips is open: of {words.listed(absent)} not every seed has a value."
    chance = f", {words.p_value(finding.corrected)}" if finding.corrected is not None else ""
    return f"{unknown}: {leader}'s {verb}{chance}."


def fewest_seeds(run: Run) -> int:
    """Of any contender."""
    return min((len({cell.seed for cell in run.of(name)}) for name in run.contenders), default=0)
