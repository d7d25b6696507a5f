"""One look for pictures that stand alone as SVG files; those of reports take their colours from the page instead (render/canvas)."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.shapes import visible

COLOURS = ("#1667b7", "#c2510c", "#2a7d4f", "#7f4bb8", "#b02f63", "#7a6a00", "#00747c", "#5b6067")  # those of reports
MARKERS = "osD^vPX*"
GRID = "#d9dad6"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "text.parse_math": False,
    "legend.frameon": False,
}


@contextmanager
def figure(name: str, width: float, height: float, style: dict[Any, Any] = STYLE) -> Iterator[Figure]:
    """A figure in the house's style, or another; inches. `name` sets the identifiers in the file: the same numbers make the same file."""
    with mpl.rc_context(style | {"svg.hashsalt": name}):
        yield Figure(figsize=(width, height), layout="constrained")


def to_svg(drawn: Figure, **options: Any) -> str:
    """The figure as text, without dates or versions; `options` of its `savefig`. To be called while `figure` is open."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # its width is guessed: the reader's font draws it
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, **options)
    return visible(buffer.getvalue())  # names of records and folders are in it
