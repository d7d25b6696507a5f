"""Does a model predict better than what knows no physics? Its primary error in each region against the best of three floors there.

The floors are the nearest training clip, constant velocity and a frozen frame: copying, and the first two guesses of anybody. They are
measured on the same clips as the model and vary with no seed, so a seed's difference is its error less the floor's, and its mean over
seeds is tested against 0 (Student's t, `stats.contrast` of one group). Other test clips would move both, and no seed tells by how much: so
the difference is also tested against what the clips of a run spread, as if those of model and floor were drawn apart, which is careful.
The larger p-value counts (an intersection-union test, Berger 1982), corrected with all else on the page (claims.py).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from scipy.special import stdtr, stdtrit

from bench.data.physics.regions import REGIONS, Region
from bench.metrics.physics.scoring import region_name
from bench.report.load import Run
from bench.report.verdicts import spending
from bench.report.verdicts.claims import Effect
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import effect_of

NAIVE = {"nearest": "the nearest training clip", "continued": "constant velocity", "frozen": "a frozen frame"}
WHERE: dict[Region, str] = {
    "in": "inside what it was trained on",
    "out": "outside what it was trained on",
    "combinatorial": "in combinations that it never saw",
}


@dataclass(frozen=True, kw_only=True)
class FloorContrast:
    """One contender in one region, against the best floor there."""

    contender: str
    region: Region
    floor: str  # a key of NAIVE
    level: float  # the floor's error
    row: MeasureRow  # of the primary error in that region
    effect: Effect  # the model's error less the floor's: below 0, the model knows more


def floor_contrasts(run: Run, rows: Sequence[MeasureRow]) -> list[FloorContrast]:
    """Of every main contender, in every region where the primary error was measured."""
    found = []
    named = {row.name: row for row in rows if row.subject == "trained"}
    for region in REGIONS:
        row = named.get(region_name(str(run.primary), region))
        floors = {name: row.references[name][0] for name in NAIVE if name in row.references} if row else {}
        if row is None or not floors:
            continue
        floor = min(floors, key=floors.__getitem__)
        for contender in run.contenders:
            values = dict(row.entry(contender).by_seed)
            if not values:
                continue
            effect = effect_of(
                "learned",
                {seed: [value - floors[floor]] for seed, value in values.items()},
                (1.0,),
                better="lower",
                names=(floor, contender),
                missing=run.missing(contender, row.name),
                refused=f"a canary of {', '.join(run.untrusted)} failed" if run.untrusted else None,
                share=partial(spending.share, run.looks, run.extensions),
            )
            effect = with_clips(effect, clip_error(run, contender, row.name, floor))
            found.append(FloorContrast(contender=contender, region=region, floor=floor, level=floors[floor], row=row, effect=effect))
    return found


def clip_error(run: Run, contender: str, name: str, floor: str) -> tuple[float, int] | None:
    """Standard error over clips of a contender's error less a floor's, and the number of clips; None where no record has intervals.

    Of the model the mean over its seeds: they share the clips, whose draw does not average out.
    """
    squares, num = dict[str, list[float]](), 0
    for cell in run.of(contender):
        for subject in ("trained", floor):
            measurement = cell.record.measurement(name, subject) if cell.record else None
            if measurement is None or measurement.low is None or measurement.high is None or measurement.protocol is None:
                return None
            num = int(measurement.protocol["num_clips"])
            squares.setdefault(subject, []).append(((measurement.high - measurement.low) / 2 / float(stdtrit(num - 1, 0.975))) ** 2)
    return (math.sqrt(sum(map(statistics.fmean, squares.values()))), num) if squares else None


def with_clips(effect: Effect, found: tuple[float, int] | None) -> Effect:
    """The effect with the larger of its p-value over seeds and that over clips, and the wider of both intervals.

    Without a standard error over clips, or where they do not spread, as it is.
    """
    difference = effect.difference
    if found is None or found[0] == 0 or difference.p_value is None or difference.low is None or difference.high is None:
        return effect
    error, num = found
    half = float(stdtrit(num - 1, 0.975)) * error
    over_clips = float(2 * stdtr(num - 1, -abs(difference.value) / error))
    wider = replace(
        difference,
        low=min(difference.low, difference.value - half),
        high=max(difference.high, difference.value + half),
        p_value=max(difference.p_value, over_clips),
    )
    return replace(effect, difference=wider, reason=f"{effect.reason}, {num} clips")
