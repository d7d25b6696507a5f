"""The fit of a study with its errors, and what it says of cells that have not trained yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.records.environment import commit
from bench.records.prediction import FittedFamily, FittedRecord, Foresight, PredictedLoss
from bench.records.record import Record
from bench.report.scaling.frontier import ClipCost, asked
from bench.report.scaling.interval import FittedLaw, LawEstimate, Wanted, fitted
from bench.report.scaling.points import LawPoints
from bench.shapes import Refusal

LEVEL = 0.95  # at which the interval of a held-out loss holds it
LARGER = (1, 10, 100)  # times the FLOPs of the largest run that was fitted to, at which the best size is asked


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """A loss that is to be foreseen."""

    folder: str  # of its cell
    family: str
    part: float
    params: int
    clips: int

    @property
    def key(self) -> str:
        """Its name among what is asked of a law."""
        return f"{self.family} of {self.params} after {self.clips}"


@dataclass(frozen=True, kw_only=True)
class StudyLaw:
    """The law of a study's points, and how sure everything is that it says."""

    points: LawPoints
    costs: dict[str, ClipCost]  # family -> FLOPs of a clip
    budgets: tuple[float, ...]  # FLOPs at which the best size is asked, `LARGER` times those of the study
    fitted: FittedLaw

    def estimate(self, family: str, what: str) -> LawEstimate:
        """Of one family: "size", "data", "compute", "best size", "size gain" ..."""
        return self.fitted.estimates[f"{self.points.families.index(family)} {what}"]

    def difference(self, family: str, what: str) -> LawEstimate:
        """Of an exponent to that of the first family."""
        return self.fitted.estimates[f"{self.points.families.index(family)} less 0 {what}"]

    def loss(self, held: HeldOutLoss) -> tuple[float, float, float]:
        """(expected, low, high) of the loss of one run: what is not known of the law, and the luck that a run has."""
        found = self.fitted.estimates[held.key]
        low, high = found.interval(LEVEL, self.fitted.law.spread)
        return math.exp(found.value), math.exp(low), math.exp(high)


def study_law(points: LawPoints, held: Sequence[HeldOutLoss] = ()) -> StudyLaw:
    """The law of the points that are not held out. Refusal where they are too few."""
    if lacks := points.lacks:
        raise Refusal(f"no law of scaling: {lacks}")
    costs = {family: ClipCost(scale=scale, exponent=slope) for family in points.families for scale, slope in [points.flops_law(family)]}
    budgets = tuple(float(f"{times * max(point.flops for point in points.fitted):.3g}") for times in LARGER)
    return StudyLaw(points=points, costs=costs, budgets=budgets, fitted=fitted(points.losses, _asked(points, costs, budgets, held)))


def asked_of(law: StudyLaw, held: Sequence[HeldOutLoss]) -> Wanted:
    """What was asked of a study's law, to be asked of another."""
    return _asked(law.points, law.costs, law.budgets, held)


def _asked(points: LawPoints, costs: Mapping[str, ClipCost], budgets: Sequence[float], held: Sequence[HeldOutLoss]) -> Wanted:
    spans = []
    for family in points.families:
        own = [point for point in points.fitted if point.family == family]
        spans.append(([point.params for point in own], [point.clips for point in own]))
    at = {each.key: (points.families.index(each.family), float(each.params), float(each.clips)) for each in held}
    return asked(list(costs.values()), spans, budgets, at)


def predict(matrix: str, written_at: str, records: Mapping[str, Record], points: LawPoints, held: Sequence[HeldOutLoss]) -> Foresight:
    """What is said of held-out losses, from the records (by folder) of all other cells. Refusal where they are too few."""
    found = study_law(points, held)
    law = found.fitted.law
    return Foresight(
        matrix=matrix,
        written_at=written_at,
        commit=commit(),
        level=LEVEL,
        floor=law.floor,
        params_unit=law.unit[0],
        clips_unit=law.unit[1],
        families=tuple(
            FittedFamily(
                family=family,
                size_scale=float(law.size_scale[place]),
                size_exponent=float(law.size_exponent[place]),
                data_scale=float(law.data_scale[place]),
                data_exponent=float(law.data_exponent[place]),
            )
            for place, family in enumerate(points.families)
        ),
        fitted_to=tuple(
            FittedRecord(folder=folder, fingerprint=records[folder].fingerprint, attempt=records[folder].attempt)
            for folder in dict.fromkeys(point.folder for point in points.fitted)
        ),
        losses=tuple(_predicted(each, found) for each in held),
    )


def _predicted(held: HeldOutLoss, law: StudyLaw) -> PredictedLoss:
    loss, low, high = law.loss(held)
    return PredictedLoss(folder=held.folder, part=held.part, params=held.params, clips=held.clips, loss=loss, low=low, high=high)
