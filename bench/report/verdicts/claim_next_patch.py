"""The claim `next-patch`: predicting the next patch from those before it makes better clips than denoising all of them at once.

Judged by the contrast of that title alone, whose first side is the contender that predicts patch after patch. Others of the matrix, such
as a frame in the place of a patch or convolution against attention, are answered beside it, share its level, and cannot turn it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.load import Run
from bench.report.verdicts.claim_lead import costs_said
from bench.report.verdicts.claim_questions import Questions, contrast_said, headline, outcome_said, untested
from bench.report.verdicts.claims import ClaimState, Finding, Part
from bench.report.verdicts.named import ContrastVerdict
from bench.study.contrasts import NEXT_PATCH

if TYPE_CHECKING:
    from bench.report.verdicts.findings import Findings


class NextPatch(Questions):
    """Supported where the autoregressive side is carried better, not supported where it is carried worse."""

    def __init__(self) -> None:
        super().__init__("Does predicting the next patch make better clips than denoising all of them at once?", of_backbones=True)

    def state(self, finding: Finding | None) -> ClaimState:
        """Of the claim's own contrast what it says of the claim; of another, who leads."""
        if not isinstance(finding, ContrastVerdict) or finding.title != NEXT_PATCH or not finding.carried:
            return super().state(finding)
        return "supported" if finding.first_better else "not supported"

    def whole(self, parts: Sequence[Part]) -> ClaimState:
        """What its own contrast says; the others cannot turn it."""
        return next((part.state for part in parts if part.name == NEXT_PATCH), "not tested")

    def says(self, run: Run, findings: Findings) -> list[str]:
        """Its own contrast, then the others, then what the contenders cost."""
        found = headline(findings)
        own = next((each for each in found if each.title == NEXT_PATCH), None)
        if own is None:
            return [untested(run), *filter(None, [costs_said(run, findings.rows)])]
        told = outcome_said(run, own)
        if own.verdict.carried:
            first = f"Predicting the next patch makes {'better' if own.verdict.first_better else 'worse'} clips: {told}."
        else:
            first = f"Whether predicting the next patch makes better clips is open: {told}."
        rest = " ".join(contrast_said(run, each) for each in found if each is not own)
        return [first, *filter(None, [rest, costs_said(run, findings.rows)])]
