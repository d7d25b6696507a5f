"""The rule of a study with named contrasts: each title is a question, answered by who is better, or that seeds cannot tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.report.load import Run
from bench.report.render import words
from bench.report.verdicts import ratios
from bench.report.verdicts.claim_lead import costs_said, fewest_seeds
from bench.report.verdicts.claims import ClaimState, Finding, Key, Part, is_measure, state_of
from bench.report.verdicts.named import NAMED, NamedContrast
from bench.report.verdicts.ratios import AxisRatios

if TYPE_CHECKING:
    from bench.report.verdicts.findings import Findings


class Questions:
    """Every contrast is a part of its own: who is carried better, leads."""

    def __init__(self, question: str, of_backbones: bool = False):
        self.question, self.of_backbones = question, of_backbones

    def rests_on(self, findings: Mapping[Key, Finding], primary: str | None) -> dict[str, Key | None]:
        """The contrasts of the main contenders, on the primary measure."""
        own = {key[1]: key for key in findings if key[0] == NAMED and not key[3] and is_measure(key[2], primary)}
        return {**own} or {"contrasts": None}

    def state(self, finding: Finding | None) -> ClaimState:
        """Who is better, leads."""
        return "not tested" if finding is None else "leads" if finding.carried else "inconclusive"

    def whole(self, parts: Sequence[Part]) -> ClaimState:
        """Answered where any question is."""
        return state_of([part.state for part in parts])

    def says(self, run: Run, findings: Findings) -> list[str]:
        """The answers, what is carried first; then what the contenders cost."""
        found = sorted(headline(findings), key=lambda each: not each.verdict.carried)
        if not found:
            return [untested(run), *filter(None, [costs_said(run, findings.rows)])]
        said = [contrast_said(run, each) for each in found]
        rest = [" ".join(said[1:])] if said[1:] else []
        return [said[0], *rest, *filter(None, [costs_said(run, findings.rows)])]

    def ratios(self, run: Run, findings: Findings) -> AxisRatios | None:
        """Every contender against whom most contrasts have."""
        return held_against(run, findings)


def headline(findings: Findings) -> list[NamedContrast]:
    """The contrasts that the headline rests on, in the matrix's order."""
    return [each for each in findings.named if each.main]


def untested(run: Run) -> str:
    """Why none of them was tested."""
    what = f"{run.primary} was not measured" if run.primary else "the study names no measure that decides"
    return f"What the contrasts ask is not known: {what}."


def contrast_said(run: Run, each: NamedContrast) -> str:
    """One contrast in a sentence, under its title."""
    return f"{each.title[0].upper()}{each.title[1:]}: {outcome_said(run, each)}."


def outcome_said(run: Run, each: NamedContrast) -> str:
    """Who is better, with means, intervals and p; or why nobody is."""
    verdict, (first, second) = each.verdict, each.sides
    if verdict.outcome == "not compared":
        return f"{first} and {second} were not compared, {words.brief(verdict.reason)}"
    if each.missing:
        return f"open between {first} and {second}, not every seed of {words.listed(list(each.missing))} has a value"
    ahead, behind = (first, second) if verdict.leader in (first, None) else (second, first)
    unit = f" {each.row.unit}" if each.row.unit else ""
    title = each.row.metric.title if each.row.metric.distance else each.row.metric.title[0].lower() + each.row.metric.title[1:]
    values = f"{each.mean_text(ahead)}{unit} against {each.mean_text(behind)}{unit} in {title}"
    chance = f" ({words.p_value(verdict.corrected)})" if verdict.corrected is not None else ""
    if verdict.carried:
        return f"{ahead} is better than {behind}, {values}{chance}"
    if verdict.outcome == "tie":
        return f"{ahead} and {behind} are equal, {values}"
    seeds = words.number_of(min(map(len, each.by_seed), default=fewest_seeds(run)), "seed")
    return f"{seeds} cannot tell {ahead} from {behind}, {values}{chance}"


def held_against(run: Run, findings: Findings) -> AxisRatios | None:
    """Every contender against the one that most contrasts have, the last of equal ones; on quality the contrasts say what is carried."""
    found = headline(findings)
    counts = Counter(name for each in found for name in reversed(each.sides))
    carried = {frozenset(each.sides): each.verdict.carried for each in found}
    return ratios.against_first(run, findings.rows, counts.most_common(1)[0][0] if counts else None, carried)
