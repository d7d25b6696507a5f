"""What a run with held-out cells comes to: its points, its law, what was foreseen and what came."""

from __future__ import annotations

from dataclasses import dataclass

from bench.records.prediction import Foresight
from bench.report.load import Run
from bench.report.scaling.foresight import StudyLaw, study_law
from bench.report.scaling.points import LawPoints, points_of
from bench.report.scaling.rule import HeldOutcome, Steeper, steeper, trend
from bench.report.verdicts.claims import Trend
from bench.shapes import Refusal
from bench.study.forecast import family_of


@dataclass(frozen=True, kw_only=True)
class ScalingFindings:
    """All of it; without a law, why there is none."""

    points: LawPoints
    law: StudyLaw | None
    lacks: str
    prediction: Foresight | None
    outcomes: tuple[HeldOutcome, ...]
    trends: tuple[Trend, ...]  # of each family
    steeper: tuple[Steeper, ...]

    def of(self, label: str) -> list[HeldOutcome]:
        """The held-out losses of a family."""
        return [each for each in self.outcomes if self.points.labels[each.family] == label]


def find_scaling(run: Run) -> ScalingFindings | None:
    """Of a run that holds cells out; None of any other."""
    forecast = run.forecast
    if forecast is None:
        return None
    points = points_of([(cell.path.name, cell.record) for cell in run.cells if cell.record], forecast)
    law, lacks = None, ""
    try:
        law = study_law(points)
    except Refusal as refusal:
        lacks = str(refusal)
    outcomes = outcomes_of(run, points)
    trends: list[Trend] = []
    if law is not None:
        for family, label in points.labels.items():
            trends.append(trend(law, family, outcomes, claimed=forecast.about in (None, label)))
    return ScalingFindings(
        points=points,
        law=law,
        lacks=lacks,
        prediction=run.prediction,
        outcomes=tuple(outcomes),
        trends=tuple(trends),
        steeper=tuple(steeper(law)) if law is not None else (),
    )


def outcomes_of(run: Run, points: LawPoints) -> list[HeldOutcome]:
    """What was said of each held-out loss, in the order of the prediction, and what the records have."""
    cells = {cell.path.name: cell for cell in run.cells}
    came = {(point.folder, point.part): point.loss for point in points.held_out}
    found = []
    for said in run.prediction.losses if run.prediction else ():
        if (cell := cells.get(said.folder)) is None:
            continue
        family = family_of(cell.record.cell.backbone if cell.record else str(cell.axes["backbone"]))
        if family not in points.families:
            continue
        found.append(
            HeldOutcome(
                family=family,
                folder=said.folder,
                seed=cell.seed,
                part=said.part,
                params=said.params,
                clips=said.clips,
                expected=said.loss,
                low=said.low,
                high=said.high,
                loss=came.get((said.folder, said.part)),
            )
        )
    return found
