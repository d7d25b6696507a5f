"""Named contrasts: which two contenders of a matrix are compared, and under which title, said before anything runs. Knows no torch.

A matrix with `contrasts` asks these questions and no others: its headline rests on them, each of two contenders, however many others
there are. Cells of `include` that fix the same and differ in something else, such as the budget, ask the same questions again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.backbone import canonical_name, short_name
from bench.data.frozen import content_hash, flatten
from bench.shapes import Refusal, did_you_mean

if TYPE_CHECKING:
    from bench.study.matrix import NamedCell

Side = str | dict[str, Any]  # a backbone, in full or without its module; or the values of axes that make it one contender
Axes = dict[str, Any]  # dotted field -> value: a contender
Contrasts = dict[str, tuple[Axes, Axes]]  # title -> its two contenders
NEXT_PATCH = "next patch"  # the contrast that the claim `next-patch` is judged by: the autoregressive contender first
DECIDES = {"next-patch": NEXT_PATCH}  # claim -> the title that it needs


def contrasts_of(asked: Mapping[str, Sequence[Side]], cells: Sequence[NamedCell], claim: str | None) -> Contrasts:
    """The contrasts that a matrix asks, among the contenders that its cells are. Refusal for one that names no two of them."""
    if (needed := DECIDES.get(str(claim))) is not None and needed not in asked:
        raise Refusal(f"claim {claim} is judged by a contrast called {needed!r}; add it under `contrasts`, or name another claim")
    main = [named for named in cells if not named.further]
    found: Contrasts = {}
    pairs: dict[str, str] = {}  # what two contenders are -> title
    for title, sides in asked.items():
        if not title.strip() or title != title.strip() or not title.isprintable():
            raise Refusal(f"contrasts: the title {title!r} is no line of text; give it a few words, such as 'convolution or attention'")
        if len(sides) != 2:
            raise Refusal(f"contrasts: {title!r} has {len(sides)} sides; a contrast has two")
        first, second = (_contender(title, side, main) for side in sides)
        if first == second:
            raise Refusal(f"contrasts: both sides of {title!r} are {_told(first)}; name two contenders")
        if _budget(first) != _budget(second):
            told = f"{_told(first)} and {_told(second)}"
            raise Refusal(f"contrasts: the sides of {title!r} have different budgets ({told}); a contrast is at one, name two of the same")
        pair = content_hash(sorted(map(content_hash, (first, second))))
        if pair in pairs:
            raise Refusal(f"contrasts: {title!r} compares the same two as {pairs[pair]!r}; remove one")
        pairs[pair] = title
        found[title] = first, second
    return found


def told(contrasts: Mapping[str, Sequence[Axes]]) -> str:
    """'next patch (dit:AR against dit:DiT), ...' for a line; 'none'."""
    return ", ".join(f"{title} ({' against '.join(map(_told, sides))})" for title, sides in contrasts.items()) or "none"


def _contender(title: str, side: Side, cells: Sequence[NamedCell]) -> Axes:
    """The axes of the one contender that a side names."""
    known = {content_hash(named.axes): named for named in cells}.values()
    asked = {"backbone": side} if isinstance(side, str) else flatten(_one_name(side))
    found = [named.axes for named in known if all(_is(named, key, value) for key, value in asked.items())]
    found = [axes for axes in found if set(axes) == set(asked)] or found  # who fixes this and no more, before whoever fixes more
    if len(found) == 1:
        return found[0]
    told = repr(side) if isinstance(side, str) else _told(asked)
    names = list(dict.fromkeys(name for named in known for name in (named.cell.backbone, short_name(named.cell.backbone))))
    near = did_you_mean(side, names) if isinstance(side, str) else ""
    among = ", ".join(_told(named.axes) for named in known)
    if not found:
        raise Refusal(f"contrasts: {told} of {title!r} is no contender{near}; there are {among}")
    raise Refusal(f"contrasts: {told} of {title!r} is {len(found)} contenders; fix more axes, of {', '.join(map(_told, found))}")


def _budget(axes: Axes) -> Axes:
    return {key: value for key, value in axes.items() if key.partition(".")[0] == "budget"}


def _one_name(side: Mapping[str, Any]) -> dict[str, Any]:
    return {**side, "backbone": canonical_name(side["backbone"])} if "backbone" in side else dict(side)


def _is(named: NamedCell, key: str, value: Any) -> bool:
    """Whether a cell has this value of an axis; a backbone by any of its names, and by the one it had before it was sized."""
    if key != "backbone":
        return key in named.axes and named.axes[key] == value
    own = [named.cell.backbone, *([named.match.asked] if named.match else [])]
    return canonical_name(value) in {name for each in own for name in (each, short_name(each))}


def _told(axes: Mapping[str, Any]) -> str:
    """'dit:DiT-XS/2' or '{backbone: dit:DiT-XS/2, data.stills: 0.3}'."""
    if list(axes) == ["backbone"]:
        return str(axes["backbone"])
    return f"{{{', '.join(f'{key}: {value}' for key, value in axes.items())}}}"
