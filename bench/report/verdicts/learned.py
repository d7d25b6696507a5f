"""Does a model predict better than what knows no physics? Its primary error in each region against the best of three floors there.

The floors are the nearest training clip, constant velocity and a frozen frame: copying, and the first two guesses of anybody. They are
measured on the same clips as the model and vary with no seed, so a seed's difference is its error less the floor's, and its mean over
seeds is tested against 0 (Student's t, `stats.contrast` of one group) and corrected with all else on the page (claims.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

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
            found.append(FloorContrast(contender=contender, region=region, floor=floor, level=floors[floor], row=row, effect=effect))
    return found
