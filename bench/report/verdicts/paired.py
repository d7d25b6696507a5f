"""Two contenders' distances to the same real clips, subtracted: do these two sets of samples differ, or is it the draw of the clips?

The real clips are shared, so what their draw adds to both distances cancels. The interval is over the clips of one run; it says
nothing about another seed, which is why it never makes a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from bench.metrics.distances.interval import Interval, by_group, interval_of, jackknife_variance
from bench.metrics.distances.table import DistanceKind
from bench.metrics.extractors.manifest import FRAME
from bench.metrics.protocol import compare_or_raise, read_name
from bench.records.record import Measurement
from bench.report.load import CellResult, Run
from bench.report.verdicts.compare import MeasureRow
from bench.shapes import Refusal

SIDES = ("test", "trained")  # the subjects whose features are compared: all that the archive keeps of a cell's


@dataclass(frozen=True, kw_only=True)
class SeedPair:
    """One distance of two contenders at one seed."""

    row: MeasureRow
    seed: int
    first: str  # contender
    second: str
    difference: Interval | None  # distance of first minus distance of second
    reason: str  # why there is none

    @property
    def different(self) -> bool:
        """Whether the interval excludes 0."""
        return self.difference is not None and not self.difference.low <= 0 <= self.difference.high


def pairs(run: Run, rows: Sequence[MeasureRow]) -> list[SeedPair]:
    """Every distance of trained models, every pair of contenders that differ on one axis, every seed both have."""
    axes = {cell.contender: cell.axes for cell in run.cells}
    alike = [pair for pair in combinations(run.contenders, 2) if num_differing(axes[pair[0]], axes[pair[1]]) == 1]
    cells = {(cell.contender, cell.seed): cell for cell in run.cells if cell.record}
    found = []
    for row in rows:
        kind, sides = kind_of(row), dict[str, FeatureSide]()
        if row.subject != "trained" or kind is None:
            continue
        for first, second in alike:
            for seed in sorted({cell.seed for cell in run.cells}):
                one, other = cells.get((first, seed)), cells.get((second, seed))
                if one and other:
                    difference, reason = subtract(row.name, kind, one, other, sides)
                    found.append(SeedPair(row=row, seed=seed, first=first, second=second, difference=difference, reason=reason))
    return found


def num_differing(first: dict[str, Any], second: dict[str, Any]) -> int:
    """Axes on which two contenders differ: what the samples of two that differ on several tell cannot be laid to either.

    >>> num_differing({"backbone": "a:XS", "batching.policy": "crop"}, {"backbone": "b:XS", "batching.policy": "crop"})
    1
    """
    return sum(first.get(key) != second.get(key) for key in first.keys() | second.keys())


def kind_of(row: MeasureRow) -> DistanceKind | None:
    """A row's distance where clips have features of their own; None for anything else."""
    kind, extractor = read_name(row.name) or (None, "")
    return None if extractor == FRAME.name else kind  # those of frames are not kept


class FeatureSide:
    """One cell's distance to the real clips; that of its clips without some groups is computed once, whatever it is subtracted from."""

    def __init__(self, kind: DistanceKind, features: dict[str, np.ndarray]):
        self.real, fake = (features[subject] for subject in SIDES)
        self.estimate = kind.distance(self.real, fake)
        self._value = by_group(kind.distance, self.real, fake)
        self._known: dict[bytes, float] = {}

    def value(self, keep: np.ndarray) -> float:
        """The distance of the groups kept, (G,) bool."""
        key = keep.tobytes()
        if key not in self._known:
            self._known[key] = self._value(keep)
        return self._known[key]


def subtract(
    name: str, kind: DistanceKind, one: CellResult, other: CellResult, sides: dict[str, FeatureSide]
) -> tuple[Interval | None, str]:
    """Distance of one cell minus that of another with its interval (`interval.jackknife_difference`), or None and why.

    `sides`: the cells of this measurement that were read before, by name.
    """
    first, second = (cell.record.measurement(name) if cell.record else None for cell in (one, other))
    if first is None or second is None:
        return None, "not measured for both"
    try:
        compare_or_raise(first.protocol or {}, second.protocol or {})
        for cell, measurement in ((one, first), (other, second)):
            sides[cell.name] = sides.get(cell.name) or FeatureSide(kind, read(cell, measurement))
        a, b = sides[one.name], sides[other.name]
    except (Refusal, OSError, KeyError, safetensors.SafetensorError) as error:
        return None, " ".join(str(error).split())
    if not np.array_equal(a.real, b.real):
        return None, "the features of the real clips are not the same"
    return interval_of(a.estimate - b.estimate, jackknife_variance(lambda keep: a.value(keep) - b.value(keep))), ""


def read(cell: CellResult, measurement: Measurement) -> dict[str, np.ndarray]:
    """Features by subject under the measurement's extractor. KeyError, OSError where a cell has none."""
    path = cell.artefact("features")
    if path is None:
        raise Refusal("no features were kept")
    prefix = f"{(measurement.protocol or {}).get('extractor')}/"
    found = safetensors.numpy.load_file(path)
    return {name.removeprefix(prefix): values for name, values in found.items() if name.startswith(prefix)}
