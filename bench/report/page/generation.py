"""What generating a clip takes, contender by contender, and how its error goes over the frames: tables, and the figure of the second."""

import statistics

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.records.record import FrameError
from bench.report.load import Run
from bench.report.render import canvas
from bench.report.render import catalogue as metrics
from bench.report.render.canvas import INK, Drawing
from bench.report.render.table import NONE, Table

# Measurement -> as a line of the table has it.
LINES = {
    "generation_calls": "network calls, one after another",
    "generation_tokens": "tokens through the network",
    "generation_flops": "FLOPs",
    "latency_1_s": "time, one clip alone",
    "first_frame_s": "time to its first frame",
    "latency_64_s": "time, 64 clips at once",
    "cache_bytes": "kept from call to call",
}
MOST_FRAMES = 12  # of a table; of more it has as many, evenly apart, with both ends


def generation_table(run: Run) -> Table:
    """Means over the seeds of each contender, of finished cells."""
    lines, data = [], []
    for name, title in LINES.items():
        metric = metrics.find(name)
        values = {contender: _mean(run, contender, name) for contender in run.contenders}
        known = [value for value in values.values() if value is not None]
        if not known:
            continue
        divisor, unit = metrics.scale_of(metric, max(known), "")
        texts = [NONE if value is None else _text(metric, value / divisor) for value in values.values()]
        lines.append((f"{title}{f' [{unit}]' if unit else ''}", *texts))
        data.append({"measurement": name, **values})
    caption = "Latents of one clip of the data's shape, decoding apart; mean over seeds. A clip that is denoised whole is there all at once"
    return Table("generation", caption, ("Of a clip", *run.contenders), tuple(lines), data=pd.DataFrame(data))


def frame_table(run: Run) -> Table:
    """The error of every frame, or of some evenly apart: a contender's mean over seeds, and the floor."""
    courses = _courses(run)
    length = max((len(course) for course, _ in courses.values()), default=0)
    shown = sorted({round(place) for place in np.linspace(0, length - 1, min(length, MOST_FRAMES))}) if length else []
    lines, data = [], []
    floors = np.mean([floor for _, floor in courses.values()], axis=0) if courses else []
    for frame in range(length):
        values = {name: courses[name][0][frame] if name in courses else None for name in run.contenders}
        if frame in shown:
            texts = [NONE if value is None else metrics.number(value) for value in values.values()]
            lines.append((str(frame), *texts, metrics.number(floors[frame])))
        data.append({"frame": frame, **values, "real": floors[frame]})
    caption = "Frechet distance of the colours of a frame to those of the same frame of the test clips; mean over seeds"
    return Table("frames", caption, ("Frame", *run.contenders, "Real clips"), tuple(lines), data=pd.DataFrame(data))


def frame_figure(run: Run) -> Drawing | None:
    """The same as lines, one a seed."""
    cells = [cell for cell in run.cells if cell.record and cell.status == "ok" and cell.record.frames]
    if not cells:
        return None
    with canvas.sheet("frames", 3.0) as figure:
        [axes] = canvas.panels(figure, 1)
        for cell in cells:
            assert cell.record
            frames = [error.frame for error in cell.record.frames]
            axes.plot(frames, [error.distance for error in cell.record.frames], markersize=4, **canvas.look(run, cell.contender))
            axes.plot(frames, [error.floor for error in cell.record.frames], color=INK, linewidth=1, linestyle=":", alpha=0.6)
        axes.set_xlabel("frame")
        axes.set_ylabel("distance (lower is better)")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        floor = (Line2D([], [], color=INK, linewidth=1, linestyle=":", alpha=0.6), "real against real")
        canvas.legend(figure, run, list(dict.fromkeys(cell.contender for cell in cells)), [floor])
        caption = "Distance of each frame of generated clips to that frame of the test clips, by its colours. A line that climbs is drift."
        return Drawing(name="frames", title="Error by frame", caption=caption, svg=canvas.svg(figure))


def _mean(run: Run, contender: str, name: str) -> float | None:
    records = [cell.record for cell in run.of(contender) if cell.record and cell.status == "ok"]
    values = [measured.value for record in records if (measured := record.measurement(name)) is not None]
    return statistics.fmean(values) if values else None


def _text(metric: metrics.Metric, value: float) -> str:
    return metrics.count(value) if metric.scale == "count" and value == round(value) else metrics.number(value)


def _courses(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Contender -> distance and floor of every frame, each the mean over the seeds that have as many frames as the first."""
    found = {}
    for contender in run.contenders:
        courses = [cell.record.frames for cell in run.of(contender) if cell.record and cell.status == "ok" and cell.record.frames]
        alike: list[list[FrameError]] = [course for course in courses if len(course) == len(courses[0])]
        if alike:
            both = np.array([[(error.distance, error.floor) for error in course] for course in alike])  # (seeds, T, 2)
            found[contender] = (both.mean(0)[:, 0], both.mean(0)[:, 1])
    lengths = [len(course) for course, _ in found.values()]
    return {name: course for name, course in found.items() if len(course[0]) == lengths[0]}
