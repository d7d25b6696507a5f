"""Pictures of a profile as SVG files that stand alone: what just fits, and heat maps of the ratios."""

import math
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.commands.profile.cross import QUANTITIES, quantity_text, ratio
from bench.commands.profile.result import Cross, ProfileResult
from bench.report.render.svg import COLOURS, GRID, MARKERS, figure, to_svg

WIDEST = 2.0  # the colours of a heat map end at least at ratios of 1/4 and 4


def all_figures(result: ProfileResult) -> dict[str, tuple[str, str]]:
    """File name -> (SVG, caption)."""
    figures = {}
    if any(contender.frontier for contender in result.contenders):
        caption = f"Largest training step at batch 1 that fits {result.target.name}, {result.precision}, predicted. Below a line it fits."
        figures["frontier.svg"] = (frontier(result), caption)
    if result.cross is not None:
        for quantity in QUANTITIES:
            if any(ratio(point, quantity) is not None for point in result.cross.points):
                what = quantity_text(result.cross, quantity)
                caption = f"{' / '.join(result.cross.names)}: {what}, training step, batch 1. Black line: equal."
                figures[f"cross-{quantity.removesuffix('_s').replace('_', '-')}.svg"] = (heat_map(result.cross, quantity), caption)
    return figures


def frontier(result: ProfileResult) -> str:
    """Frames against height = width, one line a backbone."""
    with figure("frontier", 6.4, 4.2) as drawn:
        axes = drawn.subplots()
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for place, contender in enumerate(result.contenders):
            if contender.frontier:
                sizes, frames = zip(*contender.frontier, strict=True)
                look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
                axes.plot(sizes, frames, label=contender.name, linewidth=1.6, markersize=5, **look)
        axes.plot([math.sqrt(result.shape[1] * result.shape[2])], [result.shape[0]], "k+", markersize=9, label="the shape asked for")
        axes.xaxis.set_major_locator(FixedLocator(sorted({size for contender in result.contenders for size, _ in contender.frontier})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
        axes.set_xlabel("latent height = width (voxels)")
        axes.set_ylabel("most latent frames")
        axes.set_title(f"Training at batch 1 that just fits {result.target.name} ({result.precision}, predicted)")
        axes.grid(color=GRID, linewidth=0.6)
        axes.legend()
        return to_svg(drawn)


def heat_map(cross: Cross, quantity: str) -> str:
    """Ratio over size and frames. Blue: the first backbone is cheaper; red: dearer; blank: not measured."""
    values = {(point.shape[0], point.shape[1]): ratio(point, quantity) for point in cross.points}
    frames, sizes = (sorted({key[axis] for key in values}) for axis in (0, 1))
    table = np.array([[math.log2(value) if (value := values.get((f, s))) else math.nan for s in sizes] for f in frames])
    widest = max(WIDEST, float(np.nanmax(np.abs(table))))
    with figure(quantity, 6.4, 4.4) as drawn:
        axes = drawn.subplots()
        edges = (np.arange(len(each) + 1) - 0.5 for each in (sizes, frames))
        image = axes.pcolormesh(*edges, table, cmap="RdBu_r", vmin=-widest, vmax=widest)
        for row, column in np.ndindex(*table.shape):
            shade = float(table[row, column])
            known = not math.isnan(shade)
            colour = "white" if known and abs(shade) > 0.6 * widest else "#1d1f21"
            text = f"{2.0**shade:.2f}" if known else "not measured"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9 if known else 6)
        if min(table.shape) > 1 and np.nanmin(table) < 0 < np.nanmax(table):
            centres = (np.arange(len(each)) for each in (sizes, frames))
            axes.contour(*centres, np.ma.masked_invalid(table), levels=[0.0], colors="black", linewidths=1.8)
        axes.set_xticks(range(len(sizes)), [f"{size} x {size}" for size in sizes])
        axes.set_yticks(range(len(frames)), [str(num_frames) for num_frames in frames])
        axes.set_xlabel("latent height x width (voxels)")
        axes.set_ylabel("latent frames")
        axes.set_title(f"{cross.names[0]} / {cross.names[1]}: {quantity_text(cross, quantity)}")
        bar = drawn.colorbar(image, ax=axes, label=f"below 1: {cross.names[0]} is cheaper")
        ticks = np.arange(math.ceil(-widest), math.floor(widest) + 1)
        bar.set_ticks(ticks.tolist(), labels=[f"{2.0**tick:g}" for tick in ticks])
        return to_svg(drawn)
