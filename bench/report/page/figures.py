"""The figures of every run: its ratios, training curves, quality against what training cost, and where the time went."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, StrMethodFormatter

from bench.records.record import Measurement
from bench.report.grid import shape_figures
from bench.report.grid.shape_map import ShapeMap
from bench.report.load import CellResult, Run
from bench.report.page import generation, ratio_picture, tuning
from bench.report.page.tables import time_split
from bench.report.physics import figures as physics_figures
from bench.report.render import canvas
from bench.report.render.canvas import INK, Drawing
from bench.report.scaling.picture import draw_scaling
from bench.report.verdicts import compare
from bench.report.verdicts.compare import MeasureRow, apart_said
from bench.report.verdicts.findings import Findings
from bench.report.verdicts.ratios import AxisRatios

MAX_POINTS = 3000  # of all curves of a panel
TRAINING = 3  # FLOPs of training over those of its forward passes
MOST_LINEAR = 30  # times the smallest value: beyond, an axis is logarithmic
MOST_DRAWN = 1e60  # beyond it nothing is drawn: axes of doubles end
LEVELS: dict[str, tuple[str, Any]] = {
    "real": ("real against real", ":"),
    "reconstruction": ("autoencoder reconstruction", "--"),
}  # titles and line styles


def all_figures(run: Run, found: Findings, grid: ShapeMap | None, shown: AxisRatios | None, prefix: str = "") -> list[Drawing]:
    """The figures of a run; one without data is left out. `prefix` keeps the names apart where a page shows several runs."""
    rows = found.rows
    drawings = [
        draw_scaling(found.scaling),
        ratio_picture.draw(run, shown) if shown else None,
        shape_figures.interaction(found.blocks),
        shape_figures.heat_maps(grid) if grid else None,
        *physics_figures.all_figures(run),
        training_curves(run),
        tuning.tuning_curves(run),
        quality_course(run, rows),
        generation.frame_figure(run),
        time_bars(run),
    ]
    return [replace(each, svg=canvas.own_ids(each.svg, f"{prefix}{each.name}")) for each in drawings if each is not None]


def training_curves(run: Run) -> Drawing | None:
    """Training loss (smoothed) and validation loss against steps, wall clock and FLOPs."""
    cells = [cell for cell in run.cells if cell.record and cell.record.training and cell.record.training.loss]
    if not cells:
        return None
    with canvas.sheet("training", 3.3) as figure:
        panels = canvas.panels(figure, 3)
        lowest, highest = [], []
        for cell in cells:
            assert cell.record and cell.record.training
            training, look = cell.record.training, canvas.look(run, cell.contender)
            smooth, num = smoothed(training.loss), len(training.loss)
            kept = np.unique(np.linspace(0, len(smooth) - 1, min(len(smooth), 300, max(40, MAX_POINTS // len(cells)))).astype(int))
            points = [point for point in training.validation if math.isfinite(point.loss)]
            losses = [point.loss for point in points]
            steps, at_steps = np.arange(1, num + 1), np.array([point.step for point in points])
            courses: list[tuple[np.ndarray, np.ndarray]] = [(steps, at_steps)]  # training and validation, by panel
            ends = np.array(training.step_end_s) if training.step_end_s else np.cumsum(training.step_time_s)
            ends = ends if len(ends) == num else np.full(num, np.nan)  # of a record that does not tell it for every step
            courses.append((ends, np.array([point.wall_time_s for point in points])))
            if (total := cell.record.measurement("train_flops")) and abs(total.value) < MOST_DRAWN:
                courses.append((steps * total.value / num, at_steps * total.value / num))
            for axes, (at, val_at) in zip(panels, courses, strict=False):
                axes.plot(at[kept], smooth[kept], color=look["color"], alpha=0.45, linewidth=1.0)
                axes.plot(val_at, losses, markersize=3.5, **look)
            shown = smooth[len(smooth) // 10 :] if len(smooth) > 10 else smooth
            finite = np.array([*shown, *losses])
            finite = finite[np.abs(finite) < MOST_DRAWN]
            lowest.append(finite.min(initial=math.inf))
            highest.append(finite.max(initial=-math.inf))
        bottom, top = (min(lowest), max(highest)) if min(lowest) <= max(highest) else (0.0, 1.0)
        pad = 0.06 * (top - bottom) or 0.1
        panels[0].set_ylim(bottom - pad, top + pad)
        panels[0].set_ylabel("loss")
        for axes, label in zip(panels, ("training step", "training time (s)", "training FLOPs"), strict=True):
            axes.set_xlabel(label)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        panels[2].xaxis.set_major_formatter(EngFormatter(sep=" "))
        if not panels[2].lines:
            panels[2].text(0.5, 0.5, "FLOPs were not recorded", transform=panels[2].transAxes, ha="center")
        thin = Line2D([], [], color=INK, alpha=0.45, linewidth=1.0)
        marked = Line2D([], [], color=INK, marker="o", markersize=3.5)
        shown_names = list(dict.fromkeys(cell.contender for cell in cells))
        canvas.legend(figure, run, shown_names, [(thin, "training, smoothed"), (marked, "validation")])
        caption = (
            "Thin: training loss, a centred mean over 1/25 of the run. Marked: validation loss of the averaged weights at fixed timesteps. "
            "One line a seed. The first tenth of training may leave the panel at the top. Training FLOPs are 3 times forward."
        )
        caption = " ".join(filter(None, [apart_said(run), caption]))
        return Drawing(name="training", title="Training curves", caption=caption, svg=canvas.svg(figure))


def quality_course(run: Run, rows: Sequence[MeasureRow]) -> Drawing | None:
    """The primary distance while training: against its time and its FLOPs, a line a seed where it was taken at several points."""
    row = next(iter(compare.leading(run, rows)), None)  # the distance that stands for quality
    courses = [(cell.contender, points) for cell in run.cells if row and (points := quality_points(cell, row.name))]
    if row is None or not courses:
        return None
    with canvas.sheet("quality", 3.1) as figure:
        panels = canvas.panels(figure, 2)
        for contender, points in courses:
            look = canvas.look(run, contender) | ({"linestyle": "none"} if len(points) == 1 else {})
            for place, axes in enumerate(panels):
                if known := [point for point in points if 0 < point.cost[place] < MOST_DRAWN > abs(point.value)]:
                    axes.plot([point.cost[place] for point in known], [point.value for point in known], markersize=6, **look)
                for point in known[-1:]:
                    if point.low is not None and point.high is not None:
                        axes.vlines(point.cost[place], point.low, point.high, color=look["color"], linewidth=1.2)
        for axes, label in zip(panels, ("training time (s)", "training FLOPs"), strict=True):
            for reference, (_, largest) in row.references.items():
                axes.axhline(largest, color=INK, linewidth=1, linestyle=LEVELS[reference][1], alpha=0.6)
            axes.set_xlabel(label)
            axes.margins(x=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_xlim(0, axes.get_xlim()[1] * 1.05)
        panels[1].xaxis.set_major_formatter(EngFormatter(sep=" "))
        drawn = [point.value for _, points in courses for point in points if abs(point.value) < MOST_DRAWN]
        drawn += [largest for _, largest in row.references.values()]
        if min(drawn, default=0) > 0 and max(drawn) / min(drawn) > MOST_LINEAR:
            panels[0].set_yscale("log")
            panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))  # as text: superscripts stay TeX in an SVG
            panels[0].yaxis.set_minor_formatter(NullFormatter())
        else:
            panels[0].set_ylim(bottom=min(0, panels[0].get_ylim()[0]))
        panels[0].set_ylabel(f"{row.name} (lower is better)")
        levels = [LEVELS[reference] for reference in row.references]
        known_levels = [(Line2D([], [], color=INK, alpha=0.6, linewidth=1, linestyle=style), title) for title, style in levels]
        with_value = list(dict.fromkeys(contender for contender, _ in courses))
        canvas.legend(figure, run, with_value, known_levels, marker_only=True)
        several = any(len(points) > 1 for _, points in courses)
        when = "while training, a line a seed" if several else "at the end of training, one point a seed"
        caption = f"{row.metric.title} {when}, against what training had cost. Left and down is better."
        if any(entry.clips for entry in row.entries):
            caption += " Vertical lines: 95 % interval over the clips of that run, which says nothing about another seed."
        return Drawing(name="quality", title="Quality against what training costs", caption=caption, svg=canvas.svg(figure))


@dataclass(frozen=True, kw_only=True)
class CoursePoint:
    """A distance at one point of a training run."""

    cost: tuple[float, float]  # seconds and FLOPs of training so far; 0 where they are not known
    value: float
    low: float | None  # over its clips
    high: float | None


def quality_points(cell: CellResult, name: str) -> list[CoursePoint]:
    """A cell's values of a distance, in the order of training: those on the way, and the one at its end."""
    record, found = cell.record, list[CoursePoint]()
    for point in record.points if record else ():
        found += [_course_point(m, point.wall_time_s, TRAINING * point.forward_flops) for m in point.measurements if m.name == name]
    if record and (last := record.measurement(name)):
        costs = [record.measurement(cost) for cost in ("train_wall_time_s", "train_flops")]
        found.append(_course_point(last, *(cost.value if cost else 0.0 for cost in costs)))
    return found


def _course_point(measurement: Measurement, seconds: float, flops: float) -> CoursePoint:
    low, high = (None if end is None or not math.isfinite(end) else end for end in (measurement.low, measurement.high))
    return CoursePoint(cost=(seconds, flops), value=measurement.value, low=low, high=high)


def time_bars(run: Run) -> Drawing | None:
    """Where the seconds of a cell went."""
    means = time_split(run)
    if not means:
        return None
    phases = list(dict.fromkeys(phase for split in means.values() for phase in split))
    with canvas.sheet("time", 0.9 + 0.42 * len(means)) as figure:
        [axes] = canvas.panels(figure, 1)
        left = np.zeros(len(means))
        for place, phase in enumerate(phases):
            seconds = np.array([split.get(phase, 0.0) for split in means.values()])
            axes.barh(range(len(means)), seconds, left=left, color=canvas.part_colour(place), height=0.62)
            left += seconds
        for place, total in enumerate(left):
            text = f"{total:.0f} s" if total >= 10 else f"{total:.2g} s"
            axes.annotate(text, (total, place), xytext=(6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(means)), [canvas.label(name) for name in means])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, max(left.max(), 1e-9) * 1.09)
        axes.set_xlabel("seconds of the cell's process, mean over finished cells")
        handles = [Patch(facecolor=canvas.part_colour(place), label=canvas.label(phase)) for place, phase in enumerate(phases)]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(len(phases), 7), handlelength=1, handleheight=1)
        caption = "What all contenders share (data, autoencoder, latents, reference features) is made once and then read from the cache."
        return Drawing(name="time", title="Where the time went", caption=caption, svg=canvas.svg(figure))


def smoothed(loss: Sequence[float]) -> np.ndarray:
    """Centred mean over 1/25 of the run, at the ends over what there is; a value that is not finite stays a gap."""
    series = np.asarray(loss, dtype=float)
    half = max(1, len(series) // 50)
    finite = np.isfinite(series)
    sums, counts = np.concatenate([[0.0], np.cumsum(np.where(finite, series, 0))]), np.concatenate([[0], np.cumsum(finite)])
    at = np.arange(len(series))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(series))
    num = counts[last] - counts[first]
    return np.where(finite, (sums[last] - sums[first]) / np.maximum(num, 1), np.nan)
