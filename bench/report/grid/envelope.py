"""The safe envelope: at which sizes, aspects and durations each contender's samples are about as good as where it was trained.

The bar is a contender's own, so one that is bad everywhere holds everywhere: read it beside the map. A distance is held against shapes of
the same distance only.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench.report.grid.shape_map import PLACES, ShapeMap, Spot, shape_text
from bench.report.render import catalogue as metrics
from bench.report.render.table import NONE, Table
from bench.shapes import Shape

MOST_TIMES = 2.0  # a contender holds at a shape where its distance is at most this many times its own median over its trained shapes
ROUNDING = 1e-9  # of a mean over seeds
LEAST_WHOLE = 0.9  # and its whole subjects at least this share of their median there


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """At which shapes a contender holds, by its own measure: one that is bad everywhere holds everywhere."""

    contender: str
    bars: dict[str, float]  # distance -> most floors
    whole_bar: float | None  # least share of whole subjects
    basis: str  # what the bars are made of
    holds: tuple[Shape, ...]
    breaks: tuple[tuple[Shape, str], ...]  # with why
    unknown: tuple[tuple[Shape, str], ...]  # shapes without a value


def envelopes(grid: ShapeMap) -> list[Envelope]:
    """One a contender that has any value and no failed canary."""
    found = []
    for contender in grid.contenders:
        spots = grid.of(contender)
        if contender not in grid.untrusted and any(spot.floors is not None for spot in spots.values()):
            found.append(_envelope(contender, spots, grid.measures))
    return found


def _envelope(contender: str, spots: dict[Shape, Spot], measures: dict[Shape, str]) -> Envelope:
    bars, parts = {}, []
    for measure in dict.fromkeys(measures.values()):
        values = {shape: spot.floors for shape, spot in spots.items() if measures.get(shape) == measure and spot.floors is not None}
        if values:
            own, text = _own(values, spots, min)
            bars[measure] = MOST_TIMES * own
            parts.append(f"{measure} {metrics.number(own)} ({text})")
    whole_bar = None
    if whole := {shape: spot.whole for shape, spot in spots.items() if spot.whole is not None}:
        own, text = _own(whole, spots, max)
        whole_bar = LEAST_WHOLE * own
        parts.append(f"whole {100 * own:.0f} % ({text})")
    holds, breaks, unknown = [], [], []
    for shape, spot in spots.items():
        if spot.floors is None:
            unknown.append((shape, spot.missing or "no value"))
            continue
        bar, why = bars[measures[shape]], []
        if spot.floors > bar:
            why.append(f"{metrics.number(MOST_TIMES * spot.floors / bar, 2)}{metrics.TIMES}")
        if spot.whole is not None and whole_bar is not None and spot.whole < whole_bar - ROUNDING:
            why.append(f"{100 * spot.whole:.0f} %")
        if why:
            breaks.append((shape, ", ".join(why)))
        else:
            holds.append(shape)
    return Envelope(
        contender=contender,
        bars=bars,
        whole_bar=whole_bar,
        basis="; ".join(parts),
        holds=tuple(holds),
        breaks=tuple(breaks),
        unknown=tuple(unknown),
    )


def _own(values: dict[Shape, float], spots: dict[Shape, Spot], best: Callable[..., float]) -> tuple[float, str]:
    """Median over the trained shapes and what it is; the best of all where none of them was trained on."""
    trained = [value for shape, value in values.items() if spots[shape].place == "trained"]
    if trained:
        return statistics.median(trained), f"{len(trained)} trained shape{'s' if len(trained) > 1 else ''}"
    return best(values.values()), "best of the grid, which has no trained shape for it"


def beyond(shape: Shape, spots: dict[Shape, Spot]) -> str:
    """In what a shape out of range goes beyond those of the grid that are not: 'longer', 'wider', ...; "" for any other shape.

    A grid that lacks some trained shapes may say more than is so; `out of range` itself is of all training items.
    """
    known = [other for other, spot in spots.items() if spot.place in PLACES[:2]]
    if not known or spots[shape].place != PLACES[-1]:
        return ""
    words = []
    for measure, less, more in (
        (lambda s: s[0], "shorter", "longer"),
        (lambda s: s[1] * s[2], "smaller", "larger"),
        (lambda s: s[2] / s[1], "taller", "wider"),
    ):
        values = [measure(other) for other in known]
        words += [less] if measure(shape) < min(values) else [more] if measure(shape) > max(values) else []
    return ", ".join(words)


def envelope_table(grid: ShapeMap) -> Table:
    """Where each contender holds beyond what it trained on, and where it breaks."""
    lines = []
    for envelope in envelopes(grid):
        spots, parts = grid.of(envelope.contender), []
        for place in PLACES:
            if held := [_named(shape, beyond(shape, spots)) for shape in envelope.holds if (spots[shape].place or PLACES[-1]) == place]:
                parts.append(f"{place}: {', '.join(held)}")
        holds = "; ".join(parts)
        breaks = "; ".join(f"{_named(shape, beyond(shape, spots) or spots[shape].place)}: {why}" for shape, why in envelope.breaks)
        unknown = ", ".join(shape_text(shape) for shape, _ in envelope.unknown)
        lines.append((envelope.contender, envelope.basis, holds or "nowhere", breaks or "nowhere", unknown or NONE))
    header = ("Contender", "Its own", "Holds", "Breaks (times its own floors, whole subjects)", "No value")
    caption = f"A contender holds at a shape with at most {MOST_TIMES:g} times its own floors and {LEAST_WHOLE:g} of its own whole subjects"
    return Table("envelope", caption, header, tuple(lines))


def _named(shape: Shape, words: str | None) -> str:
    return f"{shape_text(shape)} ({words})" if words else shape_text(shape)
