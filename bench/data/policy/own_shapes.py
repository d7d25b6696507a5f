"""Clips at their own shapes, cut to multiples of a patch: what `pack` and `pad` train on, and what every policy is judged by."""

import math
from collections.abc import Sequence

from bench.data.policy.contract import Item, Lost, Rules
from bench.shapes import Shape, shape_text


def at_own_shapes(shapes: Sequence[Shape], rules: Rules) -> list[list[Item] | Lost]:
    """Every clip whole but for what is cut from its sides, evenly; lost where it is smaller than a patch or larger than a batch."""
    return [_cut(clip, shape, rules) for clip, shape in enumerate(shapes)]


def _cut(clip: int, shape: Shape, rules: Rules) -> list[Item] | Lost:
    _, height, width = shape
    fitted = native_shape(shape, rules.multiple)
    if min(fitted[1:]) == 0:
        return Lost(clip, "small", f"is {height}x{width} pixels, smaller than one patch of {rules.multiple}x{rules.multiple}; enlarge it")
    if math.prod(fitted) > rules.max_pixels:
        times = math.prod(fitted) / rules.max_pixels
        return Lost(
            clip, "large", f"is {shape_text(fitted)}, {times:.2g} times what batching.voxel_budget holds; raise it or shorten the clip"
        )
    top, left = (height - fitted[1]) // 2, (width - fitted[2]) // 2
    return [Item(clip, 0, (left, top, left + fitted[2], top + fitted[1]), fitted)]


def native_shape(shape: Shape, multiple: int) -> Shape:
    """(T, H, W) with height and width cut down to multiples of `multiple`; 0 where a side is smaller."""
    num_frames, height, width = shape
    return (num_frames, height // multiple * multiple, width // multiple * multiple)
