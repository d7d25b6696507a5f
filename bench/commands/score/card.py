"""An extractor's report card as files: card.json, card.md, card.png, card.svg, and strip.png with what each damage looks like. No torch."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image, ImageDraw

from bench.data.files import write_files
from bench.metrics.battery import judgements
from bench.metrics.battery.corruptions import AXES
from bench.metrics.battery.judgements import AxisResult, ReportCard
from bench.report.page.sheets import font_of
from bench.report.render.markdown import markdown_table
from bench.report.render.svg import STYLE
from bench.shapes import visible

COLUMNS = 5  # panels in a row
PASS, FAIL, MUTED = "#1a7f37", "#b42318", "#6b7280"
KINDS = {"spatial": "#2563a8", "temporal": "#9a4d00"}
STRIP_SIDE, STRIP_FRAMES, STRIP_LABEL = 64, 16, 170  # pixels of a frame's shorter side, frames in a row, pixels of a row's name
_STYLE = STYLE | {"svg.hashsalt": "card", "font.size": 8, "axes.axisbelow": "line"}


def write(card: ReportCard, folder: Path, source: np.ndarray | None = None) -> None:
    """All files of the card into `folder`; strip.png only with the battery's source clips (n, S, H, W, 3) uint8."""
    files: dict[str, str | bytes] = {"card.json": card.model_dump_json(indent=1) + "\n"}
    if source is not None:
        buffer = io.BytesIO()
        strip(card, source).save(buffer, "PNG", optimize=True)
        files["strip.png"] = buffer.getvalue()
    files["card.md"] = visible(markdown(card, with_strip=source is not None or (folder / "strip.png").exists()))
    with mpl.rc_context(_STYLE):
        picture, drawn = figure(card), {kind: io.BytesIO() for kind in ("png", "svg")}
        picture.savefig(drawn["png"], format="png", dpi=110, metadata={"Software": None})
        picture.set_layout_engine("none")  # it is laid out
        picture.savefig(drawn["svg"], format="svg", metadata={"Date": None, "Creator": None})
    files |= {"card.png": drawn["png"].getvalue(), "card.svg": visible(drawn["svg"].getvalue().decode())}
    write_files(folder, files)


def verdict(card: ReportCard) -> str:
    """One line: 'random3d fails 2 of 9 judgements: shuffle, elastic'."""
    failed, total = card.failed(), len(card.judgements)
    told = f"fails {len(failed)} of {total} judgements: {', '.join(failed)}" if failed else f"passes all {total} judgements"
    return f"{card.extractor} {told}"


def setting(card: ReportCard) -> str:
    return f"{card.num_clips} clips in each set, {card.num_frames} frames of {card.height}x{card.width}"


def in_floors(card: ReportCard, value: float | None) -> float:
    """A distance over the floor; NaN where either is missing."""
    return value / card.floor.frechet if value is not None and card.floor.frechet else math.nan


# Text


def markdown(card: ReportCard, with_strip: bool) -> str:
    """The card for a reader: verdict, judgements, axes, protocol."""
    meaning = "it may score a model" if card.passed else "its distance may not stand for the quality of a video model"
    floor = card.floor
    judged = [("pass" if each.passed else "**FAIL**", each.claim, each.evidence, ", ".join(each.axes)) for each in card.judgements]
    lines = [
        f"# Report card: {card.extractor}",
        "",
        f"**{verdict(card)}**; {meaning}. {setting(card)}.",
        "",
        "## Judgements",
        "",
        markdown_table(("", "Judgement", "Numbers", "Fails on"), judged),
        "",
        "![Distance over floor against strength, one panel for each kind of damage](card.png)",
        "",
        "## Distances",
        "",
        f"`{card.metric}` in multiples of its floor, the distance of two disjoint draws of undamaged clips: "
        f"{number(floor.frechet)} (standard error {number(floor.frechet_se)}). "
        f"Noticed means above {number(in_floors(card, judgements.threshold(floor)))} floors. "
        "The kernel distance is unbiased, so its floor is 0; it is not judged.",
        "",
        markdown_table(
            ("Damage", "Kind", "A level is", "Levels", "Floors", "Spearman", "Kernel distance at the strongest"),
            (axis_row(card, axis) for axis in card.axes),
        ),
        "",
    ]
    if with_strip:
        lines += ["![A clip under each damage at its strongest level](strip.png)", ""]
    facts = {
        "extractor": ", ".join(f"{key} {value}" for key, value in card.manifest.items() if value not in (None, "", {})),
        "clips": ", ".join(f"{key} {value}" for key, value in card.clips.items()),
        "seed of the damage": card.seed,
        "device": card.device,
        "versions": ", ".join(f"{key} {value}" for key, value in card.versions.items()),
        "card": f"version {card.version}",
    }
    lines += ["## Protocol", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    return "\n".join(lines)


def axis_row(card: ReportCard, axis: AxisResult) -> tuple[str, ...]:
    """One line of the table of distances."""
    if not axis.points:
        return (axis.title, axis.kind, axis.unit, "", f"not measured: {axis.note}", "", "")
    last = axis.points[-1]
    return (
        axis.title,
        axis.kind,
        axis.unit,
        ", ".join(f"{point.level:g}" for point in axis.points),
        ", ".join(number(in_floors(card, point.frechet)) for point in axis.points),
        number(judgements.trend(card.floor, axis)) if axis.judged else f"not judged: {axis.note}",
        f"{number(last.kernel)} ± {number(last.kernel_se)}",
    )


def number(value: float | None) -> str:
    """Three digits."""
    return "-" if value is None or math.isnan(value) else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


# Pictures


def figure(card: ReportCard) -> Figure:
    """A panel for each axis, spatial ones first: distance over floor against strength."""
    groups = [[axis for axis in card.axes if axis.kind == kind] for kind in KINDS]
    rows = [group[start : start + COLUMNS] for group in groups for start in range(0, len(group), COLUMNS)]
    picture = Figure(figsize=(11, 0.9 + 1.9 * len(rows)), layout="constrained", facecolor="white")
    FigureCanvasAgg(picture)
    grid = picture.subplots(len(rows), COLUMNS, sharey=True, squeeze=False)
    failing = {name for judgement in card.judgements if not judgement.passed for name in judgement.axes}
    low, high = limits(card)
    for row, axes in zip(grid, rows, strict=True):
        for panel in row[len(axes) :]:
            panel.set_visible(False)
        for panel, axis in zip(row, axes, strict=False):
            draw(panel, card, axis, axis.name in failing)
        row[0].set_yscale("log")
        row[0].minorticks_off()
        row[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        row[0].set_ylim(low, high)
        row[0].set_ylabel(f"{axes[0].kind}\ndistance / floor")
    failed, total = card.failed(), len(card.judgements)
    told = f"FAILS {len(failed)} of {total}: {', '.join(failed)}" if failed else f"PASSES all {total} judgements"
    title = textwrap.fill(f"{card.extractor} {told}", 84)
    picture.suptitle(title, x=0.01, ha="left", weight="bold", size=12, color=FAIL if failed else PASS)
    picture.text(0.995, 0.99, setting(card), ha="right", va="top", size=8.5)
    band = f"Band: floor to floor + {judgements.SIGMAS:g} standard errors. Dotted: {judgements.MIN_FLOORS:g} floors."
    picture.supxlabel(f"Line: Frechet distance with its standard error, floor = 1. {band}", size=8, color=MUTED)
    return picture


def limits(card: ReportCard) -> tuple[float, float]:
    """Ends of the common axis."""
    finite = [value for axis in card.axes for point in axis.points if (value := in_floors(card, point.frechet)) > 0]
    return 0.9 * min([0.8, *finite]), 1.5 * max([4.0, *finite])


def draw(panel: Axes, card: ReportCard, axis: AxisResult, failing: bool) -> None:
    """One panel."""
    colour = FAIL if failing else KINDS[axis.kind] if axis.judged else MUTED
    panel.set_title(f"✗ {axis.title}" if failing else axis.title, loc="left", size=9, color=FAIL if failing else "black")
    panel.spines[["top", "right"]].set_visible(False)
    limit = in_floors(card, judgements.threshold(card.floor))
    if not math.isnan(limit):
        panel.axhspan(1, limit, color=MUTED, alpha=0.25, linewidth=0)
    panel.axhline(1, color=MUTED, linewidth=0.8)
    panel.axhline(judgements.MIN_FLOORS, color=MUTED, linewidth=0.8, linestyle=":")
    points = [card.floor, *axis.points]
    heights = [in_floors(card, point.frechet) for point in points]
    errors = [in_floors(card, point.frechet_se) for point in points]
    panel.errorbar(range(len(points)), heights, yerr=errors, color=colour, marker="o", markersize=3.5, linewidth=1.4, elinewidth=0.8)
    panel.set_xticks(range(len(points)), [f"{point.level:g}" for point in points])
    panel.set_xlim(-0.3, max(len(points), 2) - 0.7)
    panel.set_xlabel(axis.unit, size=7.5, labelpad=1)
    panel.tick_params(labelsize=7.5, length=2.5)
    note = axis.note if not axis.judged else "not finite" if any(math.isnan(height) for height in heights) else ""
    if note:
        said = f"not judged:\n{note}" if axis.points else note
        panel.text(0.5, 0.93, said, transform=panel.transAxes, ha="center", va="top", size=6.5, wrap=True)


def strip(card: ReportCard, source: np.ndarray) -> Image.Image:
    """One clip, frames in a row, undamaged and under each damage at its strongest level."""
    shown = min(card.num_frames, STRIP_FRAMES)
    few = source[:2]  # a clip and the one it is mixed with
    rows = [("undamaged", few[0, :shown])]
    for axis in AXES.values():
        needed = axis.source_frames(card.num_frames)
        if few.shape[1] >= needed:
            rows.append((axis.title, axis.apply(few[:, :needed], axis.levels[-1], card.seed)[0, :shown]))
    zoom = max(1, STRIP_SIDE // min(card.height, card.width))
    height, width = card.height * zoom, card.width * zoom
    gap, between = 2, 4
    canvas = Image.new("RGB", (STRIP_LABEL + shown * (width + gap), len(rows) * (height + between)), "white")
    pen = ImageDraw.Draw(canvas)
    font = font_of(15)
    for place, (title, frames) in enumerate(rows):
        top = place * (height + between)
        pen.text((6, top + height / 2), title, fill="black", font=font, anchor="lm")
        for index, frame in enumerate(frames):
            picture = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(picture, (STRIP_LABEL + index * (width + gap), top))
    return canvas.quantize(192, dither=Image.Dither.NONE)
