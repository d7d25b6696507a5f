"""The figures of a physics world: errors and floors, a film beside the truth, readings over time, errors by distance from training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from bench.data.physics.regions import REGIONS, Region
from bench.metrics.physics.scoring import region_name
from bench.report.load import Run
from bench.report.physics.kept import KeptPhysics, first_of_each, kept
from bench.report.physics.scores import TITLES, backbone_of, is_measured, setups_of, values_of
from bench.report.render import canvas
from bench.report.render import catalogue as metrics
from bench.report.render.canvas import INK, Drawing
from bench.report.verdicts.learned import NAIVE, WHERE
from bench.report.verdicts.stats import mean_interval

STYLES: dict[str, Any] = {"nearest": "-", "continued": "--", "frozen": "-.", "twin": ":", "reconstruction": (0, (1, 4))}
SHOWN = ("reconstruction", "twin", *NAIVE)  # lines beside the models' errors
MOST_CLIPS, MOST_LINES = 3, 4  # columns of readings, and values of one that are lines over time; a reading of more is a profile
MOMENTS = 3  # frames of which a profile is drawn
STRIP_FRAMES, GAP = 8, 2  # frames of a film, and pixels between them
NUM_BINS = 6  # of distances outside


def all_figures(run: Run) -> list[Drawing | None]:
    """Those of a run that scores physics."""
    if not is_measured(run):
        return []
    every = kept(run)
    shown = first_of_each(every)
    return [errors(run), film(shown), *readings(shown), distances(run, every)]


def errors(run: Run) -> Drawing | None:
    """The primary error in every region: contenders by seeds, their means with intervals, and the floors as lines."""
    names = {region: region_name(str(run.primary), region) for region in REGIONS}
    there = {region: found for region, name in names.items() if (found := values_of(run, name, "trained"))}
    if not there:
        return None
    backbones = list(dict.fromkeys(backbone_of(cell) for cell in run.cells))
    trained_with = list(dict.fromkeys(setups_of(run).values()))
    with canvas.sheet("physics-errors", 3.0) as figure:
        panels = canvas.panels(figure, len(there))
        for axes, (region, found) in zip(panels, there.items(), strict=True):
            for place, setup in enumerate(trained_with):
                for b, backbone in enumerate(backbones):
                    if series := found.get((setup, backbone)):
                        _mean(axes, place + 0.24 * (b - (len(backbones) - 1) / 2), series, b)
            for subject in SHOWN:
                if level := [value for series in values_of(run, names[region], subject).values() for value in series]:
                    axes.axhline(float(np.mean(level)), color=INK, alpha=0.55, linewidth=1, linestyle=STYLES[subject])
            axes.set_xticks(range(len(trained_with)), [canvas.label(setup or "all") for setup in trained_with])
            axes.set_xlim(-0.6, len(trained_with) - 0.4)
            axes.set_title(WHERE[region])
            axes.grid(axis="x", visible=False)
        _logarithmic(panels[0])
        panels[0].set_ylabel(canvas.label(metrics.find(names["in"]).title.lower()))
        handles = [Line2D([], [], **(canvas.series(b) | {"linestyle": "none"})) for b in range(len(backbones))]
        handles += [Line2D([], [], color=INK, alpha=0.55, linewidth=1, linestyle=STYLES[subject]) for subject in SHOWN]
        canvas.put_legend(figure, handles, [*map(canvas.label, backbones), *(TITLES[subject].lower() for subject in SHOWN)])
        caption = (
            "The primary error where clips start inside the ranges that were trained on, outside them, and in combinations of them that "
            "training never had. Faint: every seed; marked: their mean, with its 95 % interval. Below the full, dashed and dash-dotted "
            "lines a model knows more than three guesses without physics."
        )
        return Drawing(name="physics-errors", title="Errors and floors", caption=caption, svg=canvas.svg(figure))


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: metrics.number(value, 1))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mean(axes: Axes, x: float, series: Sequence[float], place: int) -> None:
    """A contender's seeds, mean and interval."""
    look, found = canvas.series(place) | {"linestyle": "none"}, mean_interval(series)
    axes.plot([x] * len(series), series, markersize=3, alpha=0.35, **look)
    axes.plot([x], [found.mean], markersize=6.5, **look)
    if found.low is not None and found.high is not None:
        axes.vlines(x, max(found.low, found.mean / 100), found.high, color=look["color"], linewidth=1.4)


def film(shown: Mapping[str, KeptPhysics]) -> Drawing | None:
    """The first clip of every region, frame by frame: the truth, and what every backbone made of its known frames."""
    strips: list[tuple[Region, list[tuple[str, np.ndarray]]]] = []
    for region in REGIONS:
        rows = [(backbone, own.frames(region, "trained")) for backbone, own in shown.items()]
        real = next((frames for own in shown.values() if (frames := own.frames(region, "real")) is not None), None)
        clips = [(name, frames[0]) for name, frames in [("truth", real), *rows] if frames is not None]
        if len(clips) > 1 and len({clip.shape for _, clip in clips}) == 1:
            strips.append((region, clips))
    if not strips:
        return None
    height = sum(0.36 + 0.82 * len(clips) for _, clips in strips)
    with canvas.sheet("physics-film", height + 0.2) as figure:
        ratios = [len(clips) for _, clips in strips]
        for axes, (region, clips) in zip(
            figure.subplots(len(strips), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0], strips, strict=True
        ):
            picture, places = _strip([clip for _, clip in clips])
            axes.imshow(picture, interpolation="nearest", aspect="equal")
            axes.set_title(WHERE[region])
            axes.set_yticks(places, [canvas.label(name) for name, _ in clips])
            axes.set_xticks([])
            axes.tick_params(length=0)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
        caption = (
            "The first test clip of each region, not chosen; time to the right. The first frames are known to the models, the rest not."
        )
        return Drawing(name="physics-film", title="Beside the truth", caption=caption, svg=canvas.svg(figure))


def _strip(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """Clips (T, H, W, 3) below each other, their frames side by side -> one picture, and the middle of each row."""
    num_frames, height, width, _ = clips[0].shape
    chosen = np.unique(np.linspace(0, num_frames - 1, min(num_frames, STRIP_FRAMES)).astype(int))
    scale = max(1, 64 // height)
    high, wide = height * scale, width * scale
    picture = np.full((len(clips) * (high + GAP) - GAP, len(chosen) * (wide + GAP) - GAP, 4), 0, dtype=np.uint8)
    for row, clip in enumerate(clips):
        for column, frame in enumerate(chosen):
            enlarged = clip[frame].repeat(scale, axis=0).repeat(scale, axis=1)
            top, left = row * (high + GAP), column * (wide + GAP)
            picture[top : top + high, left : left + wide, :3] = enlarged
            picture[top : top + high, left : left + wide, 3] = 255
    return picture, [row * (high + GAP) + high / 2 for row in range(len(clips))]


def readings(shown: Mapping[str, KeptPhysics]) -> list[Drawing]:
    """What the instrument read over time, predicted beside true; one figure a reading."""
    named: dict[str, dict[Region, dict[str, tuple[np.ndarray, np.ndarray]]]] = {}
    for backbone, own in shown.items():
        for region in own.regions():
            for name, read, real in own.drawn(region):
                named.setdefault(name, {}).setdefault(region, {})[backbone] = read, real
    return [_reading(name, found, list(shown)) for name, found in named.items()]


def _reading(name: str, found: Mapping[Region, Mapping[str, tuple[np.ndarray, np.ndarray]]], backbones: Sequence[str]) -> Drawing:
    """A row a region, a column a clip."""
    with canvas.sheet(f"physics-{name}", 0.5 + 1.75 * len(found)) as figure:
        grid = figure.subplots(len(found), MOST_CLIPS, squeeze=False, sharex=True, sharey="row")
        profile = False
        for row, (region, own) in zip(grid, found.items(), strict=True):
            for column, axes in enumerate(row):
                for backbone, (read, real) in own.items():
                    if column >= len(read):
                        continue
                    colour = canvas.colour_of(list(backbones).index(backbone))
                    profile = read.ndim == 3 and read.shape[2] > MOST_LINES
                    for x, truth, prediction, fade in _lines(real[column], read[column], profile):
                        axes.plot(x, truth, color=INK, linewidth=2.4, alpha=0.25 * fade)
                        axes.plot(x, prediction, color=colour, linewidth=1.1, alpha=fade)
                if not column:
                    axes.set_ylabel(canvas.label(f"{name.replace('_', ' ')}\n{region}"))
        for axes in grid[-1]:
            axes.set_xlabel("across the frame" if profile else "frame")
        handles = [Line2D([], [], color=INK, linewidth=2.4, alpha=0.25)]
        handles += [Line2D([], [], color=canvas.colour_of(b), linewidth=1.1) for b in range(len(backbones))]
        canvas.put_legend(figure, handles, ["truth", *map(canvas.label, backbones)])
        how = f"at {MOMENTS} moments, fuller with time" if profile else "over time"
        caption = f"{name.replace('_', ' ').capitalize()} as the instrument reads it {how}; the first clips of each region, not chosen."
        return Drawing(
            name=f"physics-{name.replace(' ', '-')}", title=name.replace("_", " ").capitalize(), caption=caption, svg=canvas.svg(figure)
        )


def _lines(real: np.ndarray, read: np.ndarray, profile: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Of one clip (T,) or (T, K): x, truth, prediction and strength of each line."""
    if not profile:
        values = [(real, read)] if real.ndim == 1 else [(real[:, k], read[:, k]) for k in range(real.shape[1])]
        return [(np.arange(len(truth)), truth, prediction, 1.0) for truth, prediction in values]
    moments = np.linspace(len(real) / 2, len(real) - 1, MOMENTS).astype(int)
    x = (np.arange(real.shape[1]) + 0.5) / real.shape[1]
    return [(x, real[t], read[t], (place + 1) / MOMENTS) for place, t in enumerate(moments)]


def distances(run: Run, every: list[KeptPhysics]) -> Drawing | None:
    """The primary error of every clip against how far it starts from what was trained on, in bins of equally many clips."""
    name, backbones = str(run.primary), list(dict.fromkeys(backbone_of(own.cell) for own in every))
    of_setup: dict[str, list[KeptPhysics]] = {setup: [] for setup in setups_of(run).values()}
    for own in every:
        if own.scores("in", "trained", name) is not None:
            of_setup[own.setup].append(own)
    columns = {setup: cells for setup, cells in of_setup.items() if cells}
    if not columns:
        return None
    with canvas.sheet("physics-distance", 3.0) as figure:
        panels = canvas.panels(figure, len(columns))
        for axes, (setup, mine) in zip(panels, columns.items(), strict=True):
            for b, backbone in enumerate(backbones):
                points = _points([own for own in mine if backbone_of(own.cell) == backbone], name, "trained")
                _binned(axes, points, canvas.series(b))
            for subject in NAIVE:
                _binned(axes, _points(mine[:1], name, subject), {"color": INK, "alpha": 0.55, "linewidth": 1, "linestyle": STYLES[subject]})
            axes.set_title(canvas.label(setup or "all training clips"))
            axes.set_xlabel("distance from the trained ranges, in their widths")
        _logarithmic(panels[0])
        panels[0].set_ylabel(canvas.label(metrics.find(name).title.lower()))
        handles = [Line2D([], [], **canvas.series(b)) for b in range(len(backbones))]
        handles += [Line2D([], [], color=INK, alpha=0.55, linewidth=1, linestyle=STYLES[subject]) for subject in NAIVE]
        canvas.put_legend(figure, handles, [*map(canvas.label, backbones), *(TITLES[subject].lower() for subject in NAIVE)])
        caption = (
            "Mean error of all seeds' clips by how far their start is from what was trained on: 0 inside, beyond in bins of equally many "
            "clips; combinations count by how deep in the corner that training left out they lie. Lines: the guesses without physics."
        )
        return Drawing(name="physics-distance", title="Error by distance from training", caption=caption, svg=canvas.svg(figure))


def _points(cells: Sequence[KeptPhysics], name: str, subject: str) -> list[tuple[float, float]]:
    """(distance, error) of every clip that has both."""
    found = []
    for own in cells:
        for region in own.regions():
            values, outside = own.scores(region, subject, name), own.outside(region)
            if values is not None and outside is not None and len(values) == len(outside):
                found += [(float(x), float(y)) for x, y in zip(outside, values, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return found


def _binned(axes: Axes, points: Sequence[tuple[float, float]], look: dict[str, Any]) -> None:
    inside, outside = [y for x, y in points if x == 0], sorted((x, y) for x, y in points if x > 0)
    drawn = [(0.0, float(np.mean(inside)))] if inside else []
    for part in np.array_split(np.array(outside).reshape(-1, 2), min(NUM_BINS, max(1, len(outside)))):
        drawn += [tuple(part.mean(axis=0))] if len(part) else []
    if drawn:
        axes.plot(*zip(*drawn, strict=True), **look)
