"""Two backbones over resolution and duration: where the cheaper one becomes the dearer one. Arithmetic on ratios; knows no torch."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from bench.commands.profile.result import Cross, Crossing, CrossPoint
from bench.shapes import Shape

FACTORS = (0.25, 0.5, 1, 2, 4)  # of the given size and duration
ALONG: dict[Literal["size", "frames"], int] = {"size": 1, "frames": 0}  # which of (frames, size) grows
QUANTITIES = {"flops": "FLOPs, counted", "peak_bytes": "peak storage, predicted", "step_time_s": "time of a step, measured"}


def grid(shape: Shape, size_unit: int, frame_unit: int, most_size: int, most_frames: int) -> list[Shape]:
    """Square shapes around the given one, each side a multiple of its unit and no more than what both backbones take."""
    side = math.sqrt(shape[1] * shape[2])
    sizes = {min(max(1, round(side * factor / size_unit)) * size_unit, most_size) for factor in FACTORS}
    frames = {min(max(1, round(shape[0] * factor / frame_unit)) * frame_unit, most_frames) for factor in FACTORS}
    return [(num_frames, size, size) for num_frames in sorted(frames) for size in sorted(sizes)]


def quantity_text(cross: Cross, quantity: str) -> str:
    """What is compared, and where it was measured."""
    return QUANTITIES[quantity] + (f" on {cross.measured_on}" if quantity == "step_time_s" else "")


def ratio(point: CrossPoint, quantity: str) -> float | None:
    """Cost of the first backbone over that of the second; of times the median over pairs of steps. None where not measured."""
    if quantity != "step_time_s":
        first, second = getattr(point, quantity)
        return first / second
    return math.exp(statistics.median(math.log(first / second) for first, second in point.pairs_s)) if point.pairs_s else None


def crossings(points: Sequence[CrossPoint]) -> list[Crossing]:
    """Of every quantity, along each row and each column of the grid that has at least two points of it."""
    found = []
    for quantity in QUANTITIES:
        values = {(point.shape[0], point.shape[1]): value for point in points if (value := ratio(point, quantity)) is not None}
        for along, moving in ALONG.items():
            for held in sorted({key[1 - moving] for key in values}):
                line = sorted((key[moving], value) for key, value in values.items() if key[1 - moving] == held)
                if len(line) > 1:
                    (start, first), (end, last) = line[0], line[-1]
                    at, span = where_it_crosses(line), (start, end)
                    found.append(Crossing(quantity=quantity, along=along, held=held, at=at, first=first, last=last, span=span))
    return found


def where_it_crosses(line: Sequence[tuple[float, float]]) -> list[float]:
    """Positions at which the value passes 1, on straight lines between the points in logarithms of both.

    >>> [round(at, 9) for at in where_it_crosses([(1, 0.5), (4, 2.0), (8, 1.5)])], where_it_crosses([(1, 2.0), (2, 1.5)])
    ([2.0], [])
    """
    found = []
    for (x0, y0), (x1, y1) in pairwise(line):
        a, b = math.log(y0), math.log(y1)
        if (a < 0) != (b < 0):
            found.append(math.exp(math.log(x0) + (math.log(x1) - math.log(x0)) * a / (a - b)))
    return found
