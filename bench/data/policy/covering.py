"""Clips brought to a few shapes, and batches of one shape each: what the policies `crop` and `bucket` do."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from bench.data.policy.contract import Item, Lost, Rules
from bench.data.policy.own_shapes import native_shape
from bench.shapes import Refusal, Shape, cover_box, num_voxels, shape_text

MAX_BUCKETS = 16  # derived ones; rarer shapes join the bucket that keeps most of them


def cropped(shapes: Sequence[Shape], rules: Rules) -> list[list[Item] | Lost]:
    """Windows of the one shape of the data; images become one frame of it."""
    return covered("crop", (rules.one_shape, (1, *rules.one_shape[1:])), shapes, rules)


def bucketed(shapes: Sequence[Shape], rules: Rules) -> list[list[Item] | Lost]:
    """Windows of the one of several shapes that keeps most of a clip: those that the user lists, or those that clips have most often."""
    return covered("bucket", rules.buckets or _frequent(shapes, rules), shapes, rules)


def _frequent(shapes: Sequence[Shape], rules: Rules) -> tuple[Shape, ...]:
    counts = Counter(native_shape(shape, rules.multiple) for shape in shapes)
    possible = [(shape, num) for shape, num in counts.most_common() if 0 < math.prod(shape) <= rules.max_pixels]
    # A bucket that cannot fill one batch would never be trained on.
    filling = [shape for shape, num in possible if num * math.prod(shape) >= rules.max_pixels]
    found = tuple((filling or [shape for shape, _ in possible])[:MAX_BUCKETS])
    if not found:
        raise Refusal(f"no clip fits batching.voxel_budget ({rules.max_pixels:,} pixels of a clip); raise it or use smaller clips")
    return found


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
