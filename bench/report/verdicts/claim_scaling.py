"""The claim `scaling`: a backbone improves steadily with compute and data, as a law says before its largest size trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.report.load import Run
from bench.report.render import words
from bench.report.scaling.rule import CARRIED, GAINS, Steeper, unsure_gains
from bench.report.scaling.words import bounds, exponent, number, percent
from bench.report.verdicts.claims import ClaimState, Finding, Key, Part, Trend, state_of
from bench.report.verdicts.ratios import AxisRatios

if TYPE_CHECKING:
    from bench.report.scaling.findings import ScalingFindings
    from bench.report.verdicts.findings import Findings


class Steadiness:
    """Supported where both exponents of the backbone are above 0 and its held-out losses came as they were foreseen.

    Which of two backbones gains more from compute is a statement of its own, and cannot turn it.
    """

    question = "Does a backbone improve steadily with compute and data?"
    of_backbones = False

    def rests_on(self, findings: Mapping[Key, Finding], primary: str | None) -> dict[str, Key | None]:
        """The trends of the families that the matrix names."""
        return {key[1]: key for key, finding in findings.items() if isinstance(finding, Trend) and finding.claimed} or {"trend": None}

    def state(self, finding: Finding | None) -> ClaimState:
        """As the trend has it."""
        return finding.outcome if isinstance(finding, Trend) else "not tested"

    def whole(self, parts: Sequence[Part]) -> ClaimState:
        """Carried parts count, and opposite ones split it."""
        return state_of([part.state for part in parts])

    def says(self, run: Run, findings: Findings) -> list[str]:
        """Whether the loss falls steadily, how well the largest sizes were foreseen, and who gains more from compute."""
        found = findings.scaling
        if found is None or found.law is None:
            return [f"Nothing is known of how losses scale: {found.lacks if found else 'the run holds no cell out'}."]
        return [
            " ".join(trend_said(found, part.finding) for part in findings.conclusion.parts if isinstance(part.finding, Trend)),
            foreseen_said(found),
            *(steeper_said(found, each) for each in found.steeper[:1]),
        ]

    def ratios(self, run: Run, findings: Findings) -> AxisRatios | None:
        """None: its picture is that of the law."""
        return None


def trend_said(found: ScalingFindings, trend: Trend) -> str:
    """Whether one family improves steadily."""
    law = found.law
    assert law is not None
    family = next(family for family, label in found.points.labels.items() if label == trend.label)
    if trend.outcome == "inconclusive":
        if unsure := unsure_gains(law, family):
            gain = law.estimate(family, f"{unsure[0]} gain")
            ends = [percent(-gain_share(value)) for value in (gain.value, *gain.interval(CARRIED))]
            return (
                f"Whether {trend.label} improves steadily is open: {GAINS[unsure[0]]} changes its loss by {ends[0]} [{ends[2]}, {ends[1]}]."
            )
        return f"Whether {trend.label} improves steadily is open: {trend.reason}."
    size, data = (exponent(law, family, what) for what in ("size", "data"))
    if trend.outcome == "supported":
        return (
            f"{trend.label} improves steadily: its loss falls with its parameters to the power of {size} and with clips to that of {data}."
        )
    return f"{trend.label} does not improve as its law says: {trend.reason}."


def gain_share(logarithm: float) -> float:
    """A difference of logarithms of losses as a share of the larger loss."""
    return 1 - math.exp(-logarithm)


def foreseen_said(found: ScalingFindings) -> str:
    """How well the held-out losses were foreseen, of every family."""
    texts = []
    for label in found.points.labels.values():
        own = [each for each in found.of(label) if each.loss is not None]
        misses = [each.miss for each in own if each.miss is not None]
        if own:
            off = percent(sum(map(abs, misses)) / len(misses))
            texts.append(f"{sum(each.inside for each in own)} of {len(own)} of {label}, {off} off on average")
    if not texts:
        return "No held-out cell has trained yet."
    return f"Of the losses of the largest sizes, foreseen before they trained, these came inside their intervals: {words.listed(texts)}."


def steeper_said(found: ScalingFindings, each: Steeper) -> str:
    """Which of two families gains more from compute."""
    labels = found.points.labels
    first, second = labels[each.first], labels[each.second]
    if each.outcome == "not compared":
        return f"Which of {first} and {second} gains more from compute was not compared: that both improve is not sure."
    found_text = f"the exponents differ by {number(each.difference)} {bounds(each.low, each.high)}"
    if each.winner is None:
        return f"Which of {first} and {second} gains more from compute is open: {found_text}."
    return f"{labels[each.winner]} gains more from compute than {first if each.winner == each.second else second}: {found_text}."
