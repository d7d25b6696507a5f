"""What an extractor's distances under known damage must show before it may score a model, and the card that records it.

Knows numbers, neither clips nor networks; no torch. Distances are measured in bench/metrics/battery/battery.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pydantic.dataclasses
import scipy.stats

from bench.data.frozen import Frozen

CARD_VERSION = 1  # bump when a value or a verdict changes for the same clips and extractor

MIN_SPEARMAN = 0.9  # of floor and levels against strength
SIGMAS = 3.0  # standard errors of the floor
MIN_FLOORS = 3.0  # what a destroyed sequence must reach, as a headline must
MIN_ELASTIC_RATIO = 1.2  # jitter over a distortion as strong that stands still
WEAK_NOISE = 0.05  # must score better than a clip without motion
MAX_BATCH_DIFFERENCE = 1e-4  # relative, of a clip's features
TIE = 1e-6  # of the floor; values closer than this are equal, so that rounding is not taken for a trend


class CurvePoint(Frozen):
    """Distances at one strength. None where the features were not finite."""

    level: float  # 0 = undamaged, the floor
    frechet: float | None = None
    frechet_se: float | None = None  # standard error, delete-group jackknife
    kernel: float | None = None
    kernel_se: float | None = None

    @property
    def value(self) -> float:
        """The Frechet distance; NaN, which passes no judgement, where there is none."""
        return math.nan if self.frechet is None else self.frechet


class AxisResult(Frozen):
    """One kind of damage at every strength."""

    name: str
    kind: Literal["spatial", "temporal"]
    title: str
    unit: str  # what a level counts
    points: tuple[CurvePoint, ...]  # weakest first; empty where the clips do not allow this damage
    judged: bool  # False where the clips give no reason to expect a trend, or do not allow the damage
    note: str = ""  # why it is not judged


@pydantic.dataclasses.dataclass(frozen=True)
class Judgement:
    """One demand on an extractor, and the numbers that decide it."""

    name: str
    claim: str
    passed: bool
    evidence: str
    axes: tuple[str, ...] = ()  # those that fail it, where it is about single axes


class ReportCard(Frozen):
    """An extractor's report card: what was measured, under which protocol, and the verdict."""

    version: int
    extractor: str
    passed: bool  # every judgement
    metric: str  # as a metric of this extractor at this n is named
    judgements: tuple[Judgement, ...]
    floor: CurvePoint  # reference clips against undamaged ones, disjoint draws
    axes: tuple[AxisResult, ...]
    # Protocol
    manifest: dict[str, Any]
    clips: dict[str, Any]  # config or description, and hashes of both sets
    num_clips: int  # in each set
    num_frames: int
    height: int
    width: int
    seed: int  # of the damage
    device: str
    versions: dict[str, str]

    def failed(self) -> list[str]:
        """Names of the judgements that it fails."""
        return [judgement.name for judgement in self.judgements if not judgement.passed]


def judge(floor: CurvePoint, axes: Sequence[AxisResult], batch_difference: float, not_finite: Sequence[str]) -> tuple[Judgement, ...]:
    """All judgements. `batch_difference`: largest relative change of a clip's features with the batch size."""
    by_name = {axis.name: axis for axis in axes}
    freeze, shuffle = by_name["freeze"].points[-1], by_name["shuffle"].points[-1]
    weak_noise = next(point.value for point in by_name["noise"].points if math.isclose(point.level, WEAK_NOISE))
    return (
        monotone(floor, axes),
        *(sensitive(floor, axes, kind) for kind in ("spatial", "temporal")),
        floors("shuffle", "a full shuffle of the frames", floor, shuffle.value),
        floors("freeze", "a clip frozen on its first frame", floor, freeze.value),
        jitter(floor, by_name["elastic_frame"], by_name["elastic_clip"]),
        Judgement(
            "noise below freeze",
            f"noise of {WEAK_NOISE} scores better than a clip without motion",
            weak_noise < freeze.value,
            f"noise {multiple(weak_noise, floor)}, freeze {multiple(freeze.value, floor)}",
            () if weak_noise < freeze.value else ("noise", "freeze"),
        ),
        Judgement(
            "batch size",
            f"a clip's features do not depend on the batch it is in, to {MAX_BATCH_DIFFERENCE:g} of their length",
            batch_difference <= MAX_BATCH_DIFFERENCE,
            "not measured" if math.isnan(batch_difference) else f"largest difference between batches of 1 and 5: {batch_difference:.1e}",
        ),
        Judgement(
            "finite",
            "features are finite under every damage",
            not not_finite,
            f"NaN or infinite for: {', '.join(not_finite)}" if not_finite else "all are",
            tuple(axis.name for axis in axes if any(point.frechet is None for point in axis.points)),
        ),
    )


def monotone(floor: CurvePoint, axes: Sequence[AxisResult]) -> Judgement:
    """Every judged axis grows with strength, from the floor on."""
    trends = {axis.name: trend(floor, axis) for axis in axes if axis.judged}
    failing = tuple(name for name, value in trends.items() if not value >= MIN_SPEARMAN - 1e-9)
    lowest = min(trends, key=lambda name: -1 if math.isnan(trends[name]) else trends[name])
    described = ", ".join(f"{name} {digits(trends[name])}" for name in failing or (lowest,))
    claim = f"the distance grows with the strength on every axis (Spearman at least {MIN_SPEARMAN})"
    evidence = f"{len(failing)} of {len(trends)} axes fail: {described}" if failing else f"lowest of {len(trends)} axes: {described}"
    return Judgement("monotone", claim, not failing, evidence, failing)


def trend(floor: CurvePoint, axis: AxisResult) -> float:
    """Spearman's correlation of strength and distance over floor and levels: 0 where nothing moves, NaN where a value is missing."""
    values = np.array([floor.value, *(point.value for point in axis.points)])
    if not np.isfinite(values).all():
        return math.nan
    unit = TIE * abs(floor.value)
    ranks = scipy.stats.rankdata(np.rint(values / unit) if unit else values)
    return 0.0 if np.ptp(ranks) == 0 else float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1])


def threshold(floor: CurvePoint) -> float:
    """What a distance must exceed to be told from the floor."""
    return math.nan if floor.frechet is None or floor.frechet_se is None else floor.frechet + SIGMAS * floor.frechet_se


def sensitive(floor: CurvePoint, axes: Sequence[AxisResult], kind: str) -> Judgement:
    """Some axis of this kind is noticed at its weakest level."""
    weakest = {axis.name: axis.points[0].value for axis in axes if axis.kind == kind and axis.judged}
    seen = [name for name, value in weakest.items() if value > threshold(floor)]
    best = max(weakest, key=lambda name: -math.inf if math.isnan(weakest[name]) else weakest[name])
    claim = f"some {kind} axis is noticed at its weakest level (above floor + {SIGMAS:g} standard errors)"
    counted = f"{len(seen)} of {len(weakest)} axes are above {multiple(threshold(floor), floor)}"
    return Judgement(f"{kind} sensitivity", claim, bool(seen), f"{counted}; highest: {best} {multiple(weakest[best], floor)}")


def floors(axis: str, what: str, floor: CurvePoint, value: float) -> Judgement:
    """A destroyed sequence stands far above the floor."""
    passed = value >= MIN_FLOORS * floor.value
    claim = f"{what} scores at least {MIN_FLOORS:g} floors"
    return Judgement(axis, claim, passed, multiple(value, floor), () if passed else (axis,))


def jitter(floor: CurvePoint, per_frame: AxisResult, per_clip: AxisResult) -> Judgement:
    """A distortion that jumps is worse than one as strong that stands still, at the strongest level.

    The others are shown, not judged: what moves through a field that stands still wobbles too, and a weak field jumps by no more.
    """
    pairs = [(f.level, f.value, c.value) for f, c in zip(per_frame.points, per_clip.points, strict=True)]
    ratios = [(level, frame / clip if clip else math.inf) for level, frame, clip in pairs]
    strongest = per_frame.points[-1].value
    passed = ratios[-1][1] >= MIN_ELASTIC_RATIO and strongest > threshold(floor)
    shown = ", ".join(f"{digits(ratio)} at {level:g}" for level, ratio in reversed(ratios))
    claim = f"per-frame elastic scores at least {MIN_ELASTIC_RATIO} times per-clip elastic at the strongest level, and is noticed there"
    evidence = f"ratio {shown}; per-frame {multiple(strongest, floor)}"
    return Judgement("elastic", claim, passed, evidence, () if passed else (per_frame.name,))


def multiple(value: float, floor: CurvePoint) -> str:
    """'3.1 floors'."""
    if math.isnan(value) or floor.frechet is None:
        return "not measured"
    return f"{value / floor.value:.3g} floors" if floor.value else f"{value:.3g}"


def digits(value: float) -> str:
    """'0.93'."""
    return "not measured" if math.isnan(value) else f"{value:.2f}"
