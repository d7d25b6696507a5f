"""What a figure is drawn on: SVG that follows the page, so that dark mode needs no second drawing.

matplotlib draws with marker colours (`INK`, `LINE`, `PAGE`, `SOFT`, one a series) that are then replaced by `currentColor` and
`var(--...)` of page.css; text takes the reader's font.
"""

import itertools
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.load import Run
from bench.report.render import svg as files
from bench.report.render.svg import MARKERS
from bench.shapes import visible

INK, LINE, PAGE, SOFT = "#010101", "#010102", "#010103", "#010104"
NUM_COLOURS = 8  # --c0 ... --c7 in page.css
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
WIDTH = 10.4  # inches, the page's text width
ROW, HANDLE = 128, 3  # characters that fit side by side in a legend; as wide as so many is a handle
LEGEND_ROW = 0.19  # inches
MARGIN = 6.0  # points around a figure that stands alone

STYLE = files.STYLE | {
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with what is said about it."""

    name: str  # file name
    title: str
    caption: str
    svg: str  # for the page: takes colours and font from it


def sheet(name: str, height: float, width: float = WIDTH) -> AbstractContextManager[Figure]:
    """A figure as wide as the page and `height` inches high; `name` sets its identifiers."""
    return files.figure(name, width, height, STYLE)


def panels(drawn: Figure, num: int, **options: Any) -> list[Axes]:
    """Panels in a row of one height."""
    return list(drawn.subplots(1, num, sharey=True, squeeze=False, **options)[0])


def look(run: Run, contender: str) -> dict[str, Any]:
    """Colour, marker and line of a contender. Where backbones and something else vary, the colour says the backbone, the rest the other."""
    axes = {cell.contender: cell.axes for cell in run.cells}
    backbones = {name: str(each.get("backbone")) for name, each in axes.items()}
    others = {name: repr({key: value for key, value in each.items() if key != "backbone"}) for name, each in axes.items()}
    colour = mark = run.labels.index(contender)
    style = colour // NUM_COLOURS
    if len(set(backbones.values())) > 1 and len(set(others.values())) > 1:
        colour = list(dict.fromkeys(backbones.values())).index(backbones[contender])
        mark = style = list(dict.fromkeys(others.values())).index(others[contender])
    return _look(colour, mark, style)


def series(place: int) -> dict[str, Any]:
    """Colour, marker and line of the k-th of things that are no contenders of a run."""
    return _look(place, place, place // NUM_COLOURS)


def _look(colour: int, mark: int, style: int) -> dict[str, Any]:
    turned = mark + mark // len(MARKERS)  # colours and markers are as many: the ninth has the first colour, and not its marker
    return {"color": colour_of(colour), "marker": MARKERS[turned % len(MARKERS)], "linestyle": STYLES[style % len(STYLES)]}


def colour_of(place: int) -> str:
    """Marker colour of the k-th series."""
    return f"#0300{place % NUM_COLOURS:02x}"


def part_colour(place: int) -> str:
    """Marker colour of the k-th part of a bar, --p0 ... --p7 in page.css."""
    return f"#0400{place % NUM_COLOURS:02x}"


def legend(figure: Figure, run: Run, contenders: Sequence[str], more: list[tuple[Line2D, str]], marker_only: bool = False) -> None:
    """Contenders, then `more` handles with their texts, above the figure."""
    handles = [Line2D([], [], markersize=6, **(look(run, name) | ({"linestyle": "none"} if marker_only else {}))) for name in contenders]
    labels = [label(name) for name in contenders] + [text for _, text in more]
    put_legend(figure, [*handles, *(line for line, _ in more)], labels)


def put_legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """Above the panels, in as many columns as fit; the figure grows by what it takes beyond two rows."""
    rows = math.ceil(len(labels) / (num := columns(labels)))
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - 2))
    figure.legend(list(handles), list(labels), loc="outside upper left", ncols=num)


def columns(labels: Sequence[str]) -> int:
    """Of a legend: as many as fit side by side, five at most.

    >>> columns(["a", "b"]), columns(["x" * 60] * 3)
    (2, 2)
    """
    for num in range(min(len(labels), 5), 1, -1):
        rows, longer = divmod(len(labels), num)  # matplotlib fills column by column, the first ones with one more
        starts = [column * rows + min(column, longer) for column in range(num + 1)]
        if sum(max(map(len, labels[start:end])) + HANDLE for start, end in itertools.pairwise(starts)) <= ROW:
            return num
    return 1


def label(text: str) -> str:
    """A label matplotlib takes as it is: one with a leading underscore would be dropped."""
    text = visible(text)
    return f"\u200b{text}" if text.startswith("_") else text


def svg(figure: Figure) -> str:
    """The figure, its marker colours and fonts replaced by the page's."""
    text = files.to_svg(figure, transparent=True)
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(LINE, "var(--rule)")
    text = text.replace(PAGE, "var(--page)").replace(SOFT, "var(--soft)")
    text = re.sub(r"#0300([0-9a-f]{2})", lambda found: f"var(--c{int(found[1], 16)})", text)
    text = re.sub(r"#0400([0-9a-f]{2})", lambda found: f"var(--p{int(found[1], 16)})", text)
    text = re.sub(r"font: ([\d.]+px) 'DejaVu Sans'[^;\"]*", r"font: \1 system-ui, sans-serif", text)
    return re.sub(r'(<svg [^>]*?)width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?)height="[^"]*" ', r"\1", text, count=1), count=1)


def own_ids(svg: str, name: str) -> str:
    """Ids made unique on the page."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r"(url\(#|href=\"#)", rf"\1{name}-", svg)


def standalone(drawing: Drawing, css_variables: str) -> str:
    """The figure as a file of its own, on a background of its own, light or dark as the reader prefers."""
    style = f"<style>{css_variables} svg {{ color: var(--ink); background: var(--page); }}</style>"
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing.svg)
    assert box, "matplotlib writes a viewBox"
    width, height = float(box[1]) + 2 * MARGIN, float(box[2]) + 2 * MARGIN
    svg = drawing.svg.replace(box[0], f'viewBox="{-MARGIN:g} {-MARGIN:g} {width:g} {height:g}"', 1)
    return re.sub(r"<svg ([^>]*>)", rf'<svg width="{width:g}pt" height="{height:g}pt" \1{style}', svg, count=1) + "\n"
