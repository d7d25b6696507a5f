"""The figures of a study of shapes: what backbone and data pipeline do to each measurement, and the heat maps of the shape grid."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from bench.report.grid.shape_map import ShapeMap, Spot, shape_text
from bench.report.render import canvas
from bench.report.render import catalogue as metrics
from bench.report.render.canvas import INK, MARKERS, Drawing
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import Design, DesignRow
from bench.shapes import Shape

COLUMNS = 5  # panels in a row
FAINTEST, FULLEST = 0.05, 0.55  # opacity of a cell's colour: ink stays readable on either, in light and in dark
MARKS = "†‡§"  # of shapes that are too short for the distance of most
MOST_UPRIGHT = 14  # shapes up to which their names fit side by side
PLACE_GAP = 0.3  # of a cell, between shapes of different places
OUTLINES: dict[str, dict[str, Any]] = {"trained": {"linewidth": 1.6}, "in range": {"linewidth": 1.0, "linestyle": (0, (3, 2))}}


def interaction(blocks: Sequence[DesignRow]) -> Drawing | None:
    """One panel a measurement, one line a backbone: from crops over buckets to own shapes, means over seeds and each seed faintly."""
    designs = list({block.design.pipeline: block.design for block in blocks}.values())
    shown = {name for design in designs for name in design.contenders}
    rows = list({block.row.name: block.row for block in blocks if any(block.row.entry(name).by_seed for name in shown)}.values())
    if not rows:
        return None
    num_lines = math.ceil(len(rows) / COLUMNS)
    with canvas.sheet("interaction", 0.45 + 2.05 * num_lines) as figure:
        panels = list(figure.subplots(num_lines, COLUMNS, squeeze=False).flat)
        for axes, row in zip(panels, rows, strict=False):
            _panel(axes, row, designs)
        for axes in panels[len(rows) :]:
            axes.set_axis_off()
        handles = [Line2D([], [], color=canvas.colour_of(b), marker=MARKERS[b], markersize=6) for b in (0, 1)]
        figure.legend(handles, [canvas.label(name) for name in designs[0].backbones], loc="outside upper left", ncols=2)
        caption = (
            "Each measurement's mean over the seeds a contender has, joined for each backbone; faint: every seed. A slope is what the data "
            "pipeline does, a gap between the lines what the backbone does, and lines that are not parallel their interaction."
        )
        return Drawing(name="interaction", title="Backbone and data pipeline", caption=caption, svg=canvas.svg(figure))


def _panel(axes: Axes, row: MeasureRow, designs: Sequence[Design]) -> None:
    names = ["crops", *(design.pipeline for design in designs)]  # own shapes, which keep most, last
    for b in (0, 1):
        entries = [row.entry(contender) for contender in (designs[0].cells[b][0], *(design.cells[b][1] for design in designs))]
        color = canvas.colour_of(b)
        for seed in sorted({seed for entry in entries for seed, _ in entry.by_seed}):
            points = [(x, dict(entry.by_seed)[seed] / row.divisor) for x, entry in enumerate(entries) if seed in dict(entry.by_seed)]
            axes.plot(*zip(*points, strict=True), color=color, alpha=0.3, linewidth=0.8, marker=MARKERS[b], markersize=2)
        if means := [(x, entry.interval.mean / row.divisor) for x, entry in enumerate(entries) if entry.interval]:
            axes.plot(*zip(*means, strict=True), color=color, marker=MARKERS[b], markersize=5.5)
    axes.set_xticks(range(len(names)), [canvas.label(name.replace(" ", "\n")) for name in names])
    axes.set_xlim(-0.3, len(names) - 0.7)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    unit = f" [{row.unit}]" if row.unit else ""
    axes.set_title(f"{canvas.label(textwrap.fill(row.name + unit, 26))}\n{row.better} is better", fontsize=8.5)


def heat_maps(grid: ShapeMap) -> Drawing:
    """Contenders by shapes: the distance over its floor, and below it the share of clips with a whole subject where that was measured."""
    spots = grid.spots.values()
    top = math.log(max([4.0, *(spot.floors for spot in spots if spot.floors is not None)]))
    marks = dict(zip((name for name in dict.fromkeys(grid.measures.values()) if name != grid.measure), MARKS, strict=False))
    others = "".join(f", {mark} {name}" for name, mark in marks.items())
    floors = {spot: (metrics.number(spot.floors, 2), math.log(max(1.0, spot.floors)) / top) for spot in spots if spot.floors is not None}
    whole = {spot: (f"{100 * spot.whole:.0f}", 1 - spot.whole) for spot in spots if spot.whole is not None}
    maps = {f"{grid.measure or 'distance'} over its own floor{others}": floors, "clips with a whole subject, %": whole}
    names = {shape: f"{shape_text(shape)}{marks.get(grid.measures.get(shape, ''), '')}" for shape in grid.shapes}
    upright = len(grid.shapes) <= MOST_UPRIGHT
    shown = list(maps.items())[: 2 if grid.has_whole else 1]
    height = 0.45 + len(shown) * (0.75 + 0.33 * len(grid.contenders) + (0.0 if upright else 0.5))
    with canvas.sheet("shapes", height) as figure:
        for axes, (title, values) in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
            axes.set_title(canvas.label(title))
            places = _heat_map(axes, grid, values)
            axes.set_xticks(list(places.values()), [names[shape] for shape in places], rotation=0 if upright else 60)
        handles = [Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=INK, **outline) for outline in OUTLINES.values()]
        handles.append(Rectangle((0, 0), 1, 1, facecolor=canvas.colour_of(0), edgecolor="none", alpha=0.3))
        labels = ["trained on this shape", "in the range of those trained on", "out of range"]
        figure.legend(handles, labels, loc="outside upper left", ncols=3, handlelength=1.3, handleheight=1.1)
        caption = (
            "Columns: frames, height and width in pixels, by place and size; means over seeds. The fuller the colour, the worse. "
            "A floor is the same distance between as many real clips of that shape and other real ones, so 1 is as good as real; few "
            "clips draw every ratio towards 1."
        )
        if marks:
            others = ", ".join(marks.values())
            caption += f" {others}: too few frames for {grid.measure}, another distance, to be read beside its like only."
        return Drawing(name="shapes", title="The shape grid", caption=caption, svg=canvas.svg(figure))


def _heat_map(axes: Axes, grid: ShapeMap, values: Mapping[Spot, tuple[str, float]]) -> dict[Shape, float]:
    """Draws each spot's text in a colour as full as its number, 0 to 1; where each shape's column is."""
    places: dict[Shape, float] = {}
    x = 0.0
    for k, shape in enumerate(grid.shapes):
        x += PLACE_GAP if k and grid.place(shape) != grid.place(grid.shapes[k - 1]) else 0.0
        places[shape] = x
        x += 1.0
    for y, contender in enumerate(grid.contenders):
        for shape, at in places.items():
            spot = grid.spots[contender, shape]
            text, strength = values.get(spot, (metrics.DASH, None))
            axes.text(at, y, text, ha="center", va="center")
            if strength is None:
                continue
            alpha = FAINTEST + (FULLEST - FAINTEST) * strength
            corner = (at - 0.46, y - 0.43)
            axes.add_patch(Rectangle(corner, 0.92, 0.86, facecolor=canvas.colour_of(0), edgecolor="none", alpha=alpha))
            if spot.place in OUTLINES:
                axes.add_patch(Rectangle(corner, 0.92, 0.86, facecolor="none", edgecolor=INK, **OUTLINES[spot.place]))
    axes.set_xlim(-0.55, x - 0.45)
    axes.set_ylim(len(grid.contenders) - 0.5, -0.5)
    axes.set_yticks(range(len(grid.contenders)), [canvas.label(name) for name in grid.contenders])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return places
