"""The picture of an audit: for each policy, where the pixels of the clips go, and what fills the batches."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from bench.commands.audit.result import AuditResult
from bench.data.policy.ledger import PIXELS, ROOM
from bench.report.render import canvas
from bench.report.render.canvas import Drawing

# Kind of share -> its place among the page's colours --p0 ... --p7. What is used comes first, and what waits is a paler shade of it.
PIXEL_COLOURS = {"used": 0, "remainder": 1, "cropped": 2, "scaled": 3, "frames": 4, "short": 5, "small": 6, "large": 7}
ROOM_COLOURS = {"clips": 0, "padding": 2, "unfilled": 7}


def ledger_bars(result: AuditResult) -> Drawing:
    """Two panels of stacked bars, a row for each policy."""
    names = [policy.name for policy in result.policies]
    ledgers = [policy.ledger for policy in result.policies]
    with canvas.sheet("ledger", 1.3 + 0.42 * len(names)) as figure:
        pixels, room = canvas.panels(figure, 2, width_ratios=(2.2, 1))
        _bars(pixels, [vars(ledger.pixels) if ledger else None for ledger in ledgers], PIXEL_COLOURS, PIXELS, columns=4)
        _bars(room, [vars(ledger.room) if ledger else None for ledger in ledgers], ROOM_COLOURS, ROOM, columns=3)
        pixels.set_yticks(range(len(names)), [canvas.label(name) for name in names])
        pixels.invert_yaxis()
        pixels.set_xlabel("share of the pixels of all clips")
        room.set_xlabel("share of the batches' room")
        room.tick_params(axis="y", length=0)
        caption = (
            f"Left: where the pixels of the {result.clips.num_clips:,} clips go; what waits for a full batch is used in another epoch, "
            "unless its shape never fills one, and all else is lost. Right: what fills the latent voxels that the batches have room for. "
            "The number beside a bar is its first share."
        )
        return Drawing(name="ledger", title="Used and lost", caption=caption, svg=canvas.svg(figure))


def _bars(
    axes: Axes, shares: Sequence[Mapping[str, float] | None], kinds: Mapping[str, int], titles: Mapping[str, str], columns: int
) -> None:
    """One bar of all its shares for each mapping, the first in numbers beside it; None is a policy that cannot be done."""
    for place, share in enumerate(shares):
        if share is None:
            axes.text(0.01, place, "cannot be done", va="center")
            continue
        left = 0.0
        for kind, colour in kinds.items():
            axes.barh(place, share[kind], left=left, color=canvas.part_colour(colour), height=0.62)
            left += share[kind]
        axes.annotate(f"{share[next(iter(kinds))]:.0%}", (1, place), xytext=(5, 0), textcoords="offset points", va="center")
    shown = [kind for kind in kinds if any(share and share[kind] for share in shares)]
    handles = [Patch(facecolor=canvas.part_colour(kinds[kind]), label=titles[kind]) for kind in shown]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=columns, handlelength=1, handleheight=1)
    axes.set_xlim(0, 1.06)  # room for the number
    axes.spines["bottom"].set_bounds(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", visible=False)
