"""The shape grid of a run: how good each contender's samples are at each size, aspect and duration.

A distance is told in floors: over the real-against-real distance of the same measurement at the same shape. Both have the same number of
clips, so the bias of a small n is in both, and draws the ratio towards 1. Shapes too short for the first measurement have another.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bench.records.record import GridPoint
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.render.table import NONE, Table
from bench.shapes import Shape

WHOLE = "subject_whole_rate"
PLACES = ("trained", "in range", "out of range")


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One contender at one shape, means over the seeds that have a value."""

    place: str | None  # of PLACES; None where no seed got there
    floors: float | None  # distance over its floor
    whole: float | None  # share of clips with a whole subject
    missing: str | None  # why seeds have no distance


@dataclass(frozen=True, kw_only=True)
class ShapeMap:
    """All contenders at all shapes."""

    contenders: tuple[str, ...]
    shapes: tuple[Shape, ...]  # by place, then by size
    measures: dict[Shape, str]  # the distance told at each shape
    spots: dict[tuple[str, Shape], Spot]
    untrusted: tuple[str, ...]  # contenders with a failed canary

    @property
    def measure(self) -> str | None:
        """The distance of most shapes."""
        names = list(self.measures.values())
        return max(names, key=names.count, default=None)

    @property
    def has_whole(self) -> bool:
        """Whether the subject's wholeness was measured anywhere."""
        return any(spot.whole is not None for spot in self.spots.values())

    def of(self, contender: str) -> dict[Shape, Spot]:
        """One contender's."""
        return {shape: self.spots[contender, shape] for shape in self.shapes}

    def place(self, shape: Shape) -> str:
        """Where a shape lies for the contender nearest to it: crops leave shapes out that others trained on."""
        places = {self.spots[contender, shape].place for contender in self.contenders}
        return next((place for place in PLACES if place in places), PLACES[-1])


def read(run: Run) -> ShapeMap | None:
    """The grid of a run; None where no record has one."""
    grids = {
        (cell.contender, cell.seed): {grid.shape: grid for grid in cell.record.grid}
        for cell in run.cells
        if cell.record and cell.record.grid
    }
    shapes = list(dict.fromkeys(shape for grid in grids.values() for shape in grid))
    if not shapes:
        return None
    at = {shape: [grid[shape] for grid in grids.values() if shape in grid] for shape in shapes}
    measures = {shape: name for shape in shapes if (name := _measure(at[shape]))}
    spots = {}
    for contender in run.contenders:
        cells = run.of(contender)
        for shape in shapes:
            found = {cell.seed: grids.get((contender, cell.seed), {}).get(shape) for cell in cells}
            reasons = {cell.seed: "not measured" if cell.status == "ok" else cell.status for cell in cells}
            spots[contender, shape] = _spot(found, reasons, measures.get(shape))
    grid = ShapeMap(contenders=run.contenders, shapes=tuple(shapes), measures=measures, spots=spots, untrusted=tuple(run.untrusted))
    order = sorted(shapes, key=lambda shape: (PLACES.index(grid.place(shape)), math.prod(shape), shape))
    return replace(grid, shapes=tuple(order))


def _measure(cells: Sequence[GridPoint]) -> str | None:
    """The first distance, in the order of `metrics.known()`, that has a floor to be divided by; None where it was not measured alike."""
    found = [(cell, m) for cell in cells for m in cell.measurements if m.subject == "trained" and metrics.find(m.name).distance]
    names = {m.name for cell, m in found if _floors(cell, m.name) is not None}
    name = min(names, key=lambda name: (metrics.rank(name), name), default=None)
    return name if len({m.protocol_fingerprint for _, m in found if m.name == name}) == 1 else None


def _value(cell: GridPoint, name: str, subject: str) -> float | None:
    return next((m.value for m in cell.measurements if m.name == name and m.subject == subject and math.isfinite(m.value)), None)


def _floors(cell: GridPoint, name: str) -> float | None:
    """A distance over its floor; None where it has none that is above 0."""
    value, floor = (_value(cell, name, subject) for subject in ("trained", "real"))
    return value / floor if value is not None and floor is not None and floor > 0 else None


def _spot(found: dict[int, GridPoint | None], reasons: dict[int, str], measure: str | None) -> Spot:
    """Means over seeds; `found`: seed -> its cell of the grid, `reasons`: seed -> why it may have none."""
    cells = {seed: cell for seed, cell in found.items() if cell is not None}
    floors = {seed: value for seed, cell in cells.items() if measure and (value := _floors(cell, measure)) is not None}
    whole = [value for cell in cells.values() if (value := _value(cell, WHOLE, "trained")) is not None]
    missing: dict[str, list[int]] = {}
    for seed, cell in found.items():
        if seed not in floors:
            why = (cell.reason or "no distance of one protocol with a floor above 0") if cell else reasons[seed]
            missing.setdefault(why, []).append(seed)
    texts = [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {reason}" for reason, seeds in missing.items()]
    return Spot(
        place=next((cell.place for cell in cells.values()), None),
        floors=statistics.fmean(floors.values()) if floors else None,
        whole=statistics.fmean(whole) if whole else None,
        missing="; ".join(texts) or None,
    )


def shape_text(shape: Shape) -> str:
    """(10, 24, 48) as frames, height and width."""
    return metrics.TIMES.join(map(str, shape))


def grid_table(grid: ShapeMap) -> Table:
    """Contenders by shapes: floors, and whole subjects where measured."""
    lines, data = [], []
    for contender in grid.contenders:
        texts = []
        for shape, spot in grid.of(contender).items():
            text = metrics.number(spot.floors) if spot.floors is not None else NONE
            texts.append(f"{text}, {100 * spot.whole:.0f} %" if spot.whole is not None else text)
            data.append((contender, *shape, spot.place, grid.measures.get(shape), spot.floors, spot.whole, spot.missing))
        lines.append((contender, *texts))
    whole = ", and clips with a whole subject" if grid.has_whole else ""
    caption = f"Distance over its floor at each shape (frames, height, width){whole}"
    columns = ["contender", "frames", "height", "width", "place", "distance", "distance over floor", "subject whole", "missing"]
    return Table("shapes", caption, ("Contender", *map(shape_text, grid.shapes)), tuple(lines), data=pd.DataFrame(data, columns=columns))


def hole_table(grid: ShapeMap) -> Table:
    """Shapes without a value, or without that of every seed, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for (contender, shape), spot in grid.spots.items():
        if spot.missing:
            reasons.setdefault((contender, spot.missing), []).append(shape_text(shape))
    told = {key: "all" if len(shapes) == len(grid.shapes) else ", ".join(shapes) for key, shapes in reasons.items()}
    lines = tuple((contender, shapes, why) for (contender, why), shapes in told.items())
    return Table("shape-holes", "Shapes that some seeds have no value at", ("Contender", "Shapes", "Why"), lines)
