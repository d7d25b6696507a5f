"""A page's first picture: on every axis how many times as good the others are as the first, on one logarithmic scale, better to their side.

Filled: carried by the page's rules, or exact. Hollow: not. Whoever is better gives a mark its shape and colour, and the words beside it say
by how much. It is drawn small, so that its letters can be read on a phone.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from bench.report.load import Run
from bench.report.render import canvas, words
from bench.report.render.canvas import INK, LINE, PAGE, SOFT, Drawing
from bench.report.verdicts.ratios import QUALITY, STABILITY, AxisRatios, Ratio, RatioRow

NAME = "ratios"  # of its file
SIDE, MIDDLE, WORDS = 86.0, 148.0, 106.0  # points: of titles, of the scale, of words
HEAD, FOOT, LANE, CLOSE = 24.0, 30.0, 28.0, 5.5  # points: above and below the rows; of a row with one mark, and of each of many marks
SIZE, SMALL = 8.4, 7.4  # points, of letters
SAID, NOTE = 10.0, 9.5  # points from line to line: of words beside a mark, and of a note
MOST_SAID = 21  # letters of a line of such words: as many as their room has
TICKS = (1.1, 1.25, 1.5, 2, 3, 5, 10, 30, 100, 1000)  # times as good, of which a scale shows two
LEAST = 1.5  # a scale goes at least so far
MOST_WORDED = 2  # marks of a row that have their own words; of more the best has


def draw(run: Run, shown: AxisRatios) -> Drawing:
    """The picture of a run's ratios."""
    heights = [_height(row) for row in shown.rows]
    legend = 12.0 * math.ceil(len(shown.others) / 3) if len(shown.others) > 1 else 0.0
    width, height = SIDE + MIDDLE + WORDS, HEAD + legend + sum(heights) + FOOT
    with canvas.sheet(NAME, height / 72, width / 72) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        scale = Scale(shown.rows)
        _head(axes, run, shown, legend)
        top = HEAD + legend
        _ticks(axes, scale, top, height - FOOT)
        for row, room in zip(shown.rows, heights, strict=True):
            _row(axes, run, shown, scale, row, top, room)
            top += room
        _foot(axes, shown, height)
        svg = canvas.svg(figure).replace("<svg ", '<svg preserveAspectRatio="xMinYMin meet" ', 1)  # where it is held lower than wide
        return Drawing(name=NAME, title="How many times as good", caption=_caption(shown), svg=svg)


class Scale:
    """The logarithmic axis: as far to the right as to the left."""

    def __init__(self, rows: Sequence[RatioRow]):
        ratios = [ratio for row in rows for ratio in row.ratios]
        far = max([abs(math.log(ratio.value)) for ratio in ratios] + [math.log(LEAST)])
        ends = [abs(math.log(end)) for ratio in ratios for end in (ratio.low, ratio.high) if end and math.isfinite(end)]
        self.limit = 1.08 * max(far, min(max(ends, default=0), 1.6 * far))  # an interval may leave it, a mark may not

    def at(self, ratio: float) -> float:
        """Place of a ratio in points."""
        share = math.log(ratio) / self.limit if 0 < ratio < math.inf else math.copysign(2, ratio - 1)
        return SIDE + MIDDLE / 2 * (1 + share)

    def clipped(self, ratio: float) -> tuple[float, bool]:
        """The same within the scale, and whether it is beyond."""
        place = self.at(ratio)
        return min(max(place, SIDE), SIDE + MIDDLE), not SIDE <= place <= SIDE + MIDDLE

    def ticks(self) -> list[float]:
        """AxisRatios at which the scale is marked, 1 in their middle."""
        inside = [tick for tick in TICKS if 0.35 * self.limit < math.log(tick) < 0.95 * self.limit]
        apart = [tick for tick in inside[:1] if math.log(inside[-1] / tick) > 0.3 * self.limit]
        return [*(1 / tick for tick in (*inside[-1:], *apart)), 1.0, *apart, *inside[-1:]]


def _height(row: RatioRow) -> float:
    """Room for its marks, for its title with the note below, and for what is said of each mark."""
    num = len(row.ratios)
    marks = LANE if num == 1 else 10.0 + 11.5 * num if num <= MOST_WORDED else 8 + CLOSE * num
    said = max(len(_said(ratio)) for ratio in row.ratios)
    words_of = num * (SAID * said + 2) if num <= MOST_WORDED else SAID * said + 2
    return max(marks, 14.0 + NOTE * len(_noted(row)), words_of if said > 1 else 0.0)


def _noted(row: RatioRow) -> list[str]:
    """The note in lines."""
    return textwrap.wrap(row.note, 22)


def _said(ratio: Ratio) -> list[str]:
    """The words beside a mark in lines that end inside the picture."""
    return textwrap.wrap(ratio.says, MOST_SAID)


def _look(run: Run, shown: AxisRatios, whose: str) -> tuple[str, str]:
    """Shape and colour of a contender, as everywhere on the page; of a data pipeline, its own."""
    place = (shown.first, *shown.others).index(whose) + 2
    look = canvas.look(run, whose) if whose in run.contenders else canvas.series(place)
    return look["marker"], look["color"]


def _head(axes: Axes, run: Run, shown: AxisRatios, legend: float) -> None:
    """Whose side is which; and of several others each one's mark."""
    centre, y = SIDE + MIDDLE / 2, 11.0
    right = f"{shown.others[0]} better" if len(shown.others) == 1 else f"better than {shown.first}"
    axes.text(
        centre - 7, y, canvas.label(f"\N{LEFTWARDS ARROW} {_short(shown.first)} better"), ha="right", va="center", size=SIZE, weight="bold"
    )
    axes.text(centre + 7, y, canvas.label(f"{_short(right)} \N{RIGHTWARDS ARROW}"), ha="left", va="center", size=SIZE, weight="bold")
    for place, name in enumerate(shown.others if legend else ()):
        x, line = 8 + (SIDE + MIDDLE + WORDS - 8) / 3 * (place % 3), HEAD - 2 + 12 * (place // 3)
        marker, colour = _look(run, shown, name)
        axes.plot([x], [line], marker=marker, color=colour, markersize=4.5, linestyle="none")
        axes.text(x + 7, line, canvas.label(_short(name, 22)), va="center", size=SMALL)


def _ticks(axes: Axes, scale: Scale, top: float, bottom: float) -> None:
    for tick in scale.ticks():
        x = scale.at(tick)
        axes.plot([x, x], [top, bottom], color=SOFT if tick == 1 else LINE, linewidth=0.9 if tick == 1 else 0.6)
        text = "equal" if tick == 1 else f"{max(tick, 1 / tick):g}\N{MULTIPLICATION SIGN}"
        axes.text(x, bottom + 8, text, ha="center", va="center", size=SMALL, color=SOFT)


def _row(axes: Axes, run: Run, shown: AxisRatios, scale: Scale, row: RatioRow, top: float, room: float) -> None:
    """One axis: title, marks with their intervals, words."""
    axes.plot([0, SIDE + MIDDLE + WORDS], [top, top], color=LINE, linewidth=0.5)
    note = _noted(row)
    middle = top + room / 2 - 4.5 * len(note)
    axes.text(0, middle, canvas.label(row.title), va="center", size=SIZE)
    for place, line in enumerate(note):
        axes.text(0, middle + NOTE * (place + 1), canvas.label(line), va="center", size=SMALL, color=SOFT)
    best = max(row.ratios, key=lambda ratio: ratio.value)
    for place, ratio in enumerate(row.ratios):
        y = top + room * (place + 0.5) / len(row.ratios) if len(row.ratios) <= MOST_WORDED else top + 4 + CLOSE * (place + 0.5)
        marker, colour = _look(run, shown, ratio.whose if ratio.value >= 1 or len(shown.others) > 1 else shown.first)
        _mark(axes, scale, ratio, y, marker, colour, 5.6 if len(row.ratios) <= MOST_WORDED else 4.2)
        if len(row.ratios) <= MOST_WORDED:
            _words(axes, SIDE + MIDDLE + 8, y, ratio)
        elif ratio is best:
            _best(axes, shown, ratio, top + room / 2, marker, colour)


def _best(axes: Axes, shown: AxisRatios, best: Ratio, y: float, marker: str, colour: str) -> None:
    """Of many marks who is farthest to the right, and by how much; the first, where all are worse."""
    x, color = SIDE + MIDDLE + 8, INK if best.carried else SOFT
    if best.value < 1:
        axes.text(x, y, canvas.label(f"{_short(shown.first, 13)} best"), va="center", size=SMALL, color=color)
        return
    axes.plot([x + 2], [y], marker=marker, color=colour, markersize=4.2, linestyle="none", markerfacecolor=colour if best.carried else PAGE)
    _words(axes, x + 8, y, best)


def _words(axes: Axes, x: float, y: float, ratio: Ratio) -> None:
    """What is said of a mark, in lines about its height."""
    lines = _said(ratio)
    for place, line in enumerate(lines):
        at = y + SAID * (place - (len(lines) - 1) / 2)
        axes.text(x, at, canvas.label(line), va="center", size=SIZE, color=INK if ratio.carried else SOFT)


def _mark(axes: Axes, scale: Scale, ratio: Ratio, y: float, marker: str, colour: str, size: float) -> None:
    """A ratio with its interval; an arrowhead where that goes on."""
    if ratio.low is not None and ratio.high is not None:
        (left, cut_left), (right, cut_right) = scale.clipped(ratio.low), scale.clipped(ratio.high)
        axes.plot([left, right], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
        for x, cut, head in ((left, cut_left, "<"), (right, cut_right, ">")):
            axes.plot([x], [y], marker=head if cut else "|", color=colour, markersize=4, markeredgewidth=1.1, linestyle="none")
    axes.plot(
        [scale.at(ratio.value)], [y], marker=marker, color=colour, markersize=size, markerfacecolor=colour if ratio.carried else PAGE,
        markeredgewidth=1.3, linestyle="none",
    )  # fmt: skip


def _foot(axes: Axes, shown: AxisRatios, height: float) -> None:
    """What filled, hollow and a line mean."""
    y = height - 7.0
    marks: dict[str, Any] = {"marker": "o", "color": INK, "markersize": 4.5, "markeredgewidth": 1.1}
    axes.plot([4], [y], **marks)
    axes.text(11, y, "carried, or exact", va="center", size=SMALL, color=SOFT)
    axes.plot([94], [y], markerfacecolor=PAGE, **marks)
    chance = "chance, or not asked" if shown.named else "may be chance"
    axes.text(101, y, f"one run each: {chance}" if shown.one_run else chance, va="center", size=SMALL, color=SOFT)
    if not shown.one_run:
        x = 186 if shown.named else 174
        axes.plot([x, x + 16], [y, y], linewidth=1.3, color=INK, marker="|", markersize=4)
        axes.text(x + 22, y, "95 % interval over seeds", va="center", size=SMALL, color=SOFT)


def _caption(shown: AxisRatios) -> str:
    """What a reader of the picture alone must know."""
    interval = "a single seed has no interval" if shown.one_run else "lines are 95 % intervals over seeds, each by itself"
    held = shown.others[0] if len(shown.others) == 1 else words.listed(shown.others)
    stable = " Stability, the spread over seeds, is shown and not tested." if any(row.title == STABILITY for row in shown.rows) else ""
    return (
        f"How many times as good {held} {'is' if len(shown.others) == 1 else 'are'} as {shown.first}, on one logarithmic scale. "
        f"Filled marks are carried or exact, hollow ones may be chance; {interval}.{_asked(shown)}{stable}"
    )


def _asked(shown: AxisRatios) -> str:
    """Why marks of clip quality may be hollow that nobody tested."""
    if not shown.named:
        return ""
    if not any(row.title == QUALITY for row in shown.rows):
        return " Clip quality is left out: the contrasts that were named before the run share no contender."
    return " Of clip quality only contrasts that were named before the run are filled: other pairs were not asked."


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
