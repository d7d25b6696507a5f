"""Clips brought to a few shapes, and batches of one shape each: what `crop` and `bucket` share."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from bench.data.policy.contract import Item, Lost, Rules
from bench.shapes import Refusal, Shape, cover_box, num_voxels, shape_text


def covered(name: str, targets: Sequence[Shape], shapes: Sequence[Shape], rules: Rules) -> list[list[Item] | Lost]:
    """Each clip resized until it covers the target that keeps most of it, and cropped around its centre; images keep their one frame.

    Frames beyond the last whole window are lost; so are clips shorter than one. `name` of the policy, for what is said of losses.
    """
    for target in targets:
        if target[1] % rules.multiple or target[2] % rules.multiple:
            raise Refusal(f"shape {shape_text(target)} of {name}: height and width must be multiples of {rules.multiple} pixels")
        if math.prod(target) > rules.max_pixels:
            times = math.prod(target) / rules.max_pixels
            raise Refusal(f"shape {shape_text(target)} of {name} is {times:.2g} times what batching.voxel_budget holds; raise it")
    return [_cover(name, targets, clip, shape) for clip, shape in enumerate(shapes)]


def _cover(name: str, targets: Sequence[Shape], clip: int, shape: Shape) -> list[Item] | Lost:
    num_frames, height, width = shape
    usable = [target for target in targets if target[0] <= num_frames and (target[0] == 1) == (num_frames == 1)]
    if not usable and num_frames == 1:
        return Lost(clip, "short", f"is an image, and no shape of {name} has one frame; add 1xHxW to batching.buckets or use pack")
    if not usable:
        needed = min((target[0] for target in targets if target[0] > 1), default=1)
        return Lost(clip, "short", f"has {num_frames} frames, {name} needs {needed}; lower data.num_frames or use pack")
    target = max(usable, key=lambda target: (kept_share(shape, target), -math.prod(target), target))  # enlarging keeps all and costs more
    box = cover_box(height, width, target[1], target[2])
    return [Item(clip, first, box, target) for first in range(0, num_frames - target[0] + 1, target[0])]


def kept_share(shape: Shape, target: Shape) -> float:
    """Share of a clip's pixels that survive becoming `target`: those in the window, or as many as the target has where it is smaller."""
    num_frames, height, width = shape
    left, top, right, bottom = cover_box(height, width, target[1], target[2])
    windows = num_frames // target[0]
    return windows * target[0] * min((right - left) * (bottom - top), target[1] * target[2]) / math.prod(shape)


def full_batches(order: Sequence[int], shapes: Sequence[Shape], cost: Callable[[int], int], voxel_budget: int) -> list[list[int]]:
    """Full batches of one shape, in the order in which they fill; what fills none waits for another epoch's order."""
    waiting: dict[Shape, list[int]] = defaultdict(list)
    batches = []
    for item in order:
        bucket = waiting[shapes[item]]
        bucket.append(item)
        if len(bucket) == voxel_budget // num_voxels(shapes[item]):
            batches.append(waiting.pop(shapes[item]))
    return batches
