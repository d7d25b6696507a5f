"""Two contenders' distances to the same real clips, subtracted: do these two sets of samples differ, or is it the draw of the clips?

The real clips are shared, so what their draw adds to both distances cancels. The interval is over the clips of one run; it says
nothing about another seed, which is why it never makes a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from bench.metrics.distances import DISTANCES
from bench.metrics.interval import Interval, jackknife_difference
from bench.metrics.protocol import ProtocolBlock, compare_or_raise
from bench.report.compare import Row
from bench.report.load import CellResult, Run
from bench.store import Measurement


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One distance of two contenders at one seed."""

    row: Row
    seed: int
    first: str  # contender
    second: str
    difference: Interval | None  # distance of first minus distance of second
    reason: str  # why there is none

    @property
    def different(self) -> bool:
        """Whether the interval excludes 0."""
        return self.difference is not None and not self.difference.low <= 0 <= self.difference.high


def pairs(run: Run, rows: Sequence[Row]) -> list[Pair]:
    """Every distance of trained models, every pair of contenders, every seed both have."""
    found = []
    for row in rows:
        kind = kind_of(row)
        if row.subject != "trained" or kind is None:
            continue
        for first, second in combinations(run.contenders, 2):
            seeds = {cell.seed: cell for cell in run.of(second)}
            for one in run.of(first):
                other = seeds.get(one.seed)
                if other is not None and one.record and other.record:
                    difference, reason = subtract(row.name, kind, one, other)
                    found.append(Pair(row=row, seed=one.seed, first=first, second=second, difference=difference, reason=reason))
    return found


def kind_of(row: Row) -> str | None:
    """Kind of a row's distance where clips have features of their own; None for anything else."""
    if not row.metric.distance or row.name.startswith("fd_frame"):  # frames are not kept
        return None
    return "kernel" if row.name.startswith("k") else "frechet"


def subtract(name: str, kind: str, one: CellResult, other: CellResult) -> tuple[Interval | None, str]:
    """Distance of one cell minus that of another with its interval, or None and why."""
    measurements = [cell.record.measurement(name) if cell.record else None for cell in (one, other)]
    first, second = measurements
    if first is None or second is None:
        return None, "not measured for both"
    try:
        blocks = [ProtocolBlock.model_validate(measurement.protocol) for measurement in (first, second)]
        compare_or_raise(*blocks)
        sets = [read(cell, first) for cell in (one, other)]
        if not np.array_equal(sets[0]["test"], sets[1]["test"]):
            return None, "the features of the real clips are not the same"
        return jackknife_difference(DISTANCES[kind], sets[0]["test"], sets[0]["trained"], sets[1]["trained"]), ""
    except (ValueError, OSError, KeyError, safetensors.SafetensorError) as error:
        return None, " ".join(str(error).split())


def read(cell: CellResult, measurement: Measurement) -> dict[str, np.ndarray]:
    """Features by subject under the measurement's extractor. KeyError, OSError where a cell has none."""
    path: Path | None = cell.artefact("features")
    if path is None:
        raise ValueError("no features were kept")
    extractor = (measurement.protocol or {}).get("extractor")
    return {
        name.rpartition("/")[2]: values
        for name, values in safetensors.numpy.load_file(path).items()
        if name.rpartition("/")[0] == extractor
    }
