"""What of each clip is trained on under a batching policy: which frames, which window, at which size; and what is lost, and why.

    crop    every clip is resized until it covers one shape and cropped around its centre; images keep their one frame
    bucket  the same, to the one of several shapes that keeps most of the clip
    pack    every clip at its own shape, cut to multiples of a patch
    pad     as pack

Frames beyond the last whole window of `crop` and `bucket` are lost; so are clips shorter than one. Knows integers and boxes, not pixels.
"""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.data.policy.config import Batching
from bench.data.source import SourceConfig
from bench.shapes import LatentSpec, Refusal, Shape, cover_box

MAX_BUCKETS = 16  # derived ones; rarer shapes join the bucket that keeps most of them

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the clip as it came


@dataclass(frozen=True)
class Item:
    """One training example: frames `first_frame` ... of a clip, `box` of each, at the size of `shape`."""

    clip: int  # in its split
    first_frame: int
    box: Box
    shape: Shape  # (T, H, W) in pixels, as the autoencoder gets it


@dataclass(frozen=True)
class Lost:
    """A clip that no item shows."""

    clip: int
    kind: str  # "short", "small", "large"
    reason: str  # with what would be right


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """All clips of a split under a policy."""

    items: tuple[Item, ...]
    lost: tuple[Lost, ...]
    shapes: tuple[Shape, ...]  # distinct shapes of the items, most frequent first


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a policy needs to know to fit clips."""

    policy: str  # crop, bucket, pack, pad
    one_shape: Shape  # (T, H, W) in pixels: what `crop` makes of every clip
    multiple: int  # pixels: heights and widths are cut to multiples of it
    max_pixels: int  # T x H x W of the largest item that fits a batch
    buckets: tuple[Shape, ...] = ()  # of policy `bucket`; () = derived from the clips


def training_rules(data: SourceConfig, batching: Batching, spec: LatentSpec) -> Rules:
    """How a policy fits clips of the training split."""
    pixels_per_voxel = spec.temporal_stride * spec.spatial_stride**2
    return Rules(
        policy=batching.policy,
        one_shape=(data.num_frames, data.height, data.width),
        multiple=batching.side_multiple if data.mixed else 1,  # of data of one shape the backbone says itself what it takes
        max_pixels=sys.maxsize if batching.voxel_budget is None else batching.voxel_budget * pixels_per_voxel,
        buckets=batching.buckets,
    )


def held_out_rules(data: SourceConfig, batching: Batching) -> Rules:
    """How clips of validation and test are fitted: at their own shapes, whatever the policy, so that all policies are judged alike."""
    return Rules(
        policy="pack",
        one_shape=(data.num_frames, data.height, data.width),
        multiple=batching.side_multiple if data.mixed else 1,
        max_pixels=sys.maxsize,
    )


def fit(shapes: Sequence[Shape], rules: Rules) -> Fitted:
    """Clips (T, H, W) in pixels -> items. Refusal where the policy's own shapes cannot be, or nothing is left to train on."""
    items: list[Item] = []
    lost: list[Lost] = []
    buckets = _buckets(shapes, rules)
    for clip, shape in enumerate(shapes):
        found = _fit_one(clip, shape, rules, buckets)
        if isinstance(found, Lost):
            lost.append(found)
        else:
            items += found
    if not items:
        first = lost[0]
        raise Refusal(
            f"batching.policy {rules.policy!r} leaves no clip to train on: {len(lost)} are lost, clip {first.clip} {first.reason}"
        )
    if rules.buckets and (empty := set(rules.buckets) - {item.shape for item in items}):
        name = shape_text(sorted(empty)[0])
        raise Refusal(f"bucket {name} stays empty: no clip is best kept by it; remove it from batching.buckets or add clips of its shape")
    counts = Counter(item.shape for item in items)
    return Fitted(items=tuple(items), lost=tuple(lost), shapes=tuple(shape for shape, _ in counts.most_common()))


def _fit_one(clip: int, shape: Shape, rules: Rules, buckets: tuple[Shape, ...]) -> list[Item] | Lost:
    """All items of a clip, or why there are none."""
    num_frames, height, width = shape
    if rules.policy in ("pack", "pad"):
        fitted = native_shape(shape, rules.multiple)
        if min(fitted[1:]) == 0:
            return Lost(
                clip, "small", f"is {height}x{width} pixels, smaller than one patch of {rules.multiple}x{rules.multiple}; enlarge it"
            )
        if math.prod(fitted) > rules.max_pixels:
            times = math.prod(fitted) / rules.max_pixels
            return Lost(
                clip, "large", f"is {shape_text(fitted)}, {times:.2g} times what batching.voxel_budget holds; raise it or shorten the clip"
            )
        top, left = (height - fitted[1]) // 2, (width - fitted[2]) // 2
        return [Item(clip, 0, (left, top, left + fitted[2], top + fitted[1]), fitted)]
    usable = [bucket for bucket in buckets if bucket[0] <= num_frames and (bucket[0] == 1) == (num_frames == 1)]
    if not usable:
        if num_frames == 1:
            return Lost(
                clip, "short", f"is an image, and no shape of {rules.policy} has one frame; add 1xHxW to batching.buckets or use pack"
            )
        needed = min((bucket[0] for bucket in buckets if bucket[0] > 1), default=1)
        return Lost(clip, "short", f"has {num_frames} frames, {rules.policy} needs {needed}; lower data.num_frames or use pack")
    target = max(usable, key=lambda bucket: (kept_share(shape, bucket), -math.prod(bucket), bucket))  # enlarging keeps all and costs more
    box = cover_box(height, width, target[1], target[2])
    return [Item(clip, first, box, target) for first in range(0, num_frames - target[0] + 1, target[0])]


def _buckets(shapes: Sequence[Shape], rules: Rules) -> tuple[Shape, ...]:
    """Shapes that clips are brought to: one for videos and one for images under `crop`; those given or found under `bucket`."""
    if rules.policy == "crop":
        found: tuple[Shape, ...] = (rules.one_shape, (1, *rules.one_shape[1:]))
    elif rules.buckets:
        found = rules.buckets
    elif rules.policy == "bucket":
        counts = Counter(native_shape(shape, rules.multiple) for shape in shapes)
        possible = [(shape, num) for shape, num in counts.most_common() if 0 < math.prod(shape) <= rules.max_pixels]
        # A bucket that cannot fill one batch would never be trained on.
        filling = [shape for shape, num in possible if num * math.prod(shape) >= rules.max_pixels]
        found = tuple((filling or [shape for shape, _ in possible])[:MAX_BUCKETS])
        if not found:
            raise Refusal(f"no clip fits batching.voxel_budget ({rules.max_pixels:,} pixels of a clip); raise it or use smaller clips")
    else:
        return ()
    for bucket in found:
        if bucket[1] % rules.multiple or bucket[2] % rules.multiple:
            raise Refusal(f"shape {shape_text(bucket)} of {rules.policy}: height and width must be multiples of {rules.multiple} pixels")
        if math.prod(bucket) > rules.max_pixels:
            times = math.prod(bucket) / rules.max_pixels
            raise Refusal(f"shape {shape_text(bucket)} of {rules.policy} is {times:.2g} times what batching.voxel_budget holds; raise it")
    return found


def native_shape(shape: Shape, multiple: int) -> Shape:
    """(T, H, W) with height and width cut down to multiples of `multiple`; 0 where a side is smaller."""
    num_frames, height, width = shape
    return (num_frames, height // multiple * multiple, width // multiple * multiple)


def kept_share(shape: Shape, target: Shape) -> float:
    """Share of a clip's pixels that survive becoming `target`: those in the window, or as many as the target has where it is smaller."""
    num_frames, height, width = shape
    left, top, right, bottom = cover_box(height, width, target[1], target[2])
    windows = num_frames // target[0]
    return windows * target[0] * min((right - left) * (bottom - top), target[1] * target[2]) / math.prod(shape)


def shape_text(shape: Shape) -> str:
    """(10, 24, 48) -> '10x24x48': frames x height x width."""
    return "x".join(map(str, shape))
