"""The picture of a law: loss against training FLOPs, a curve a size, a panel a backbone; held-out losses beside what was said of them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, NullFormatter, StrMethodFormatter

from bench.report.render import canvas
from bench.report.render.canvas import INK, Drawing
from bench.report.scaling.findings import ScalingFindings
from bench.report.scaling.foresight import LEVEL, StudyLaw
from bench.report.scaling.points import LawPoint
from bench.report.scaling.words import agreed, short

STEPS = 60  # of a curve
BEYOND = 1.5  # times the clips drawn, before and after which a curve ends
HELD = 7  # colour of what was held out
TICKS = [step * 10.0**power for power in range(-4, 4) for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]  # of the loss


def draw_scaling(found: ScalingFindings | None) -> Drawing | None:
    """None of a run without a law."""
    if found is None or found.law is None:
        return None
    with canvas.sheet("scaling", 3.9) as figure:
        for place, axes in enumerate(canvas.panels(figure, len(found.points.families), sharex=True)):
            _panel(axes, found, found.law, place)
        floor = Line2D([], [], color=INK, linewidth=1, linestyle=":", alpha=0.6)
        handles = [
            Line2D([], [], color=INK, marker="o", markersize=4, linestyle="none"),
            Line2D([], [], color=INK, linewidth=1.6),
            Line2D([], [], color=INK, linewidth=1.6, linestyle=canvas.STYLES[1]),
            Line2D([], [], color=INK, marker="|", markersize=9, linestyle="none"),
            Line2D([], [], color=INK, marker="o", markersize=5, markerfacecolor="none", linestyle="none"),
            *([floor] if found.law.fitted.law.floor > 0 else []),
        ]
        labels = [
            "loss of a run",
            "the law",
            "the law where none was fitted",
            f"predicted, {100 * LEVEL:g} %",
            "held out: what came",
            "floor E",
        ]
        canvas.put_legend(figure, handles, labels[: len(handles)])
        caption = (
            "Validation loss at eight fixed timesteps, a curve a size with its parameters, a point a run and budget. "
            "The law is fitted to the filled points alone; intervals of the largest size were written down before it trained."
        )
        return Drawing(name="scaling", title="Loss against compute", caption=caption, svg=canvas.svg(figure))


def _panel(axes: Axes, found: ScalingFindings, law: StudyLaw, place: int) -> None:
    family = found.points.families[place]
    axes.set_title(canvas.label(found.points.labels[family]))
    sizes: dict[int, list[LawPoint]] = {}
    for point in (*found.points.fitted, *found.points.held_out):
        if point.family == family:
            sizes.setdefault(point.params, []).append(point)
    for number, size in enumerate(sorted(sizes)):
        own, held = sizes[size], sizes[size][0].held_out
        colour = canvas.colour_of(HELD if held else number)
        cost = own[0].flops / own[0].clips
        clips = np.geomspace(min(point.clips for point in own) / BEYOND, max(point.clips for point in own) * BEYOND, STEPS)
        curve = [agreed(loss) for loss in law.fitted.law.loss(np.full(STEPS, place), np.full(STEPS, float(size)), clips)]
        axes.plot(cost * clips, curve, color=colour, linewidth=1.4, linestyle=canvas.STYLES[1] if held else "-")
        axes.plot(
            [point.flops for point in own],
            [point.loss for point in own],
            linestyle="none", marker="o", markersize=5 if held else 3.5, color=colour, markerfacecolor="none" if held else colour,
        )  # fmt: skip
        end, offset, aligned = (-1, (4, -3), "left") if held else (0, (0, 3), "center")  # others begin close to where a held-out one does
        axes.annotate(short(size), (cost * clips[end], curve[end]), xytext=offset, textcoords="offset points", ha=aligned, fontsize=8)
    drawn = {(point.params, point.clips): point.flops for point in found.points.held_out if point.family == family}
    for each in found.outcomes:
        if each.family == family and (at := drawn.get((each.params, each.clips))):
            axes.vlines(at, each.low, each.high, color=canvas.colour_of(HELD), linewidth=1.6)
    if law.fitted.law.floor > 0:
        axes.axhline(agreed(law.fitted.law.floor), color=INK, linewidth=1, linestyle=":", alpha=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("training FLOPs")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # as text: superscripts stay TeX in an SVG
    axes.yaxis.set_minor_formatter(NullFormatter())
    if place == 0:
        axes.set_ylabel("validation loss")
