"""Where the pixels of a data set go under a batching policy, to the last one. Knows integers and boxes, not pixels, and no torch.

Two accounts, and in each the shares add up to one:
    of the pixels of all training clips: used, or lost to cropping, scaling down, length, size, or the remainder of an epoch
    of the latent voxels that the batches have room for: clips, padding, unfilled
The remainder changes with the epoch, so both are means over the first `EPOCHS` epochs of a seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.data.policy.batches import BatchStream, clips_per_batch
from bench.data.policy.config import Batching
from bench.data.policy.contract import Item
from bench.data.policy.fitting import Alike, Fitted
from bench.data.policy.table import POLICIES
from bench.shapes import LatentSpec, Shape, num_voxels, shape_text

EPOCHS = 4
SHOWN = 5  # lost clips that are named
INSIDE = 1e-6  # pixels that a box may stick out of a window by rounding

# Kind of share -> what tables and pictures call it.
PIXELS = {
    "used": "used",
    "cropped": "cropped",
    "scaled": "scaled down",
    "frames": "frames beyond the last window",
    "short": "clips too short",
    "small": "clips too small",
    "large": "clips too large",
    "remainder": "waiting for a full batch",
}
ROOM = {"clips": "clips", "padding": "padding", "unfilled": "unfilled"}
SUBJECT = {"subject_kept": "subject inside the window", "subject_whole": "items with the whole subject in every frame"}


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Shares of the pixels (T x H x W) of all clips; they add up to one."""

    used: float  # as many as the items have, or the windows where these are smaller
    cropped: float  # outside the windows
    scaled: float  # inside, and gone where the window was scaled down
    frames: float  # frames beyond the last whole window of a clip
    short: float  # clips shorter than one window
    small: float  # clips smaller than a patch
    large: float  # clips larger than a batch
    remainder: float  # items that fill no batch by the end of an epoch


@dataclass(frozen=True, kw_only=True)
class Room:
    """Shares of the latent voxels that the batches of an epoch have room for; they add up to one."""

    clips: float  # what is called fill
    padding: float
    unfilled: float


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Both accounts, and what they are made of."""

    pixels: Pixels
    room: Room
    frames_used: float  # share of the frames of all clips that some batch shows, of whatever window
    clips_used: float  # share of the clips that some batch shows
    num_clips: int
    num_items: int  # training examples that the policy makes of them
    num_shapes: int  # distinct ones
    steps_per_epoch: float
    voxels_per_item: tuple[int, int, int]  # latent voxels of the smallest, the median and the largest item
    subject_kept: float | None  # mean share of the subject's box inside the window, over frames of items; None without boxes
    subject_whole: float | None  # share of items that show all of it in every frame
    losses: tuple[str, ...]  # clips and buckets that are lost, by name, with what would be right
    stills: float = 0.0  # share of steps, and of the frames that they show, that are still images
    stills_per_epoch: float = 0.0  # still images in the steps of an epoch, in which as many frames are shown as the items have


def ledger(
    shapes: Sequence[Shape],
    fitted: Fitted,
    batching: Batching,
    spec: LatentSpec,
    seed: int,
    boxes: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> Ledger:
    """Clips (T, H, W) in pixels as they came and what a policy made of them; `boxes` (N, T, 4) of each clip's subject, in pixels."""
    if isinstance(alike := fitted.items, Alike) and batching.batch_size is not None and boxes is None:  # what holds of one holds of all
        one = Fitted(items=alike.first, lost=(), shapes=fitted.shapes)
        found = ledger(shapes[:1], one, batching, spec, seed)
        return replace(
            found,
            num_clips=len(shapes),
            num_items=len(alike),
            steps_per_epoch=len(alike) / batching.batch_size,
            stills_per_epoch=found.stills_per_epoch * len(shapes),
        )
    latent_shapes = [spec.latent_shape(item.shape) for item in fitted.items]
    drawn, room, steps = _drawn(latent_shapes, batching, seed)
    total = sum(math.prod(shape) for shape in shapes)
    account = dict.fromkeys(Pixels.__dataclass_fields__, 0.0)
    in_items = np.zeros(len(shapes))  # frames of each clip that some item has
    used_frames = 0.0
    used_clips: dict[int, float] = {}
    for item, share in zip(fitted.items, drawn, strict=True):
        height, width = shapes[item.clip][1:]
        left, top, right, bottom = item.box
        window = (right - left) * (bottom - top)
        kept = min(window, item.shape[1] * item.shape[2])
        account["used"] += share * item.shape[0] * kept
        account["scaled"] += share * item.shape[0] * (window - kept)
        account["cropped"] += share * item.shape[0] * (height * width - window)
        account["remainder"] += (1 - share) * item.shape[0] * height * width
        in_items[item.clip] += item.shape[0]
        used_frames += share * item.shape[0]
        used_clips[item.clip] = max(used_clips.get(item.clip, 0.0), share)
    kinds = {lost.clip: lost.kind for lost in fitted.lost}
    for clip, (num_frames, height, width) in enumerate(shapes):
        account[kinds.get(clip, "frames")] += (num_frames - in_items[clip]) * height * width
    losses = [f"clip {names[lost.clip] if names else lost.clip} {lost.reason}" for lost in fitted.lost[:SHOWN]]
    losses += [f"and {len(fitted.lost) - SHOWN} more clips"] if len(fitted.lost) > SHOWN else []
    losses += [
        f"bucket {shape_text(shape)} has {num} items and a batch takes {needed}, so it is never trained on; "
        "lower batching.voxel_budget or list other buckets"
        for shape, (num, needed) in starved(fitted, batching, spec).items()
    ]
    kept_box, whole = _subject(fitted.items, boxes)
    voxels = sorted(num_voxels(shape) for shape in latent_shapes)
    return Ledger(
        pixels=Pixels(**{kind: amount / total for kind, amount in account.items()}),
        room=room,
        frames_used=used_frames / sum(shape[0] for shape in shapes),
        clips_used=sum(used_clips.values()) / len(shapes),
        num_clips=len(shapes),
        num_items=len(fitted.items),
        num_shapes=len(fitted.shapes),
        steps_per_epoch=steps,
        voxels_per_item=(voxels[0], voxels[len(voxels) // 2], voxels[-1]),
        subject_kept=kept_box,
        subject_whole=whole,
        losses=tuple(losses),
        stills=batching.stills,
        stills_per_epoch=batching.stills * sum(shape[0] for shape in latent_shapes),
    )


def _drawn(shapes: Sequence[Shape], batching: Batching, seed: int) -> tuple[list[float], Room, float]:
    """Share of the epochs in which each item is in a batch; the account of the batches' room; batches an epoch."""
    if batching.batch_size is not None:  # batches run on over the ends of epochs: nothing waits, nothing is padded
        return [1.0] * len(shapes), Room(clips=1.0, padding=0.0, unfilled=0.0), len(shapes) / batching.batch_size
    assert batching.voxel_budget is not None
    stream, policy = BatchStream(shapes, batching, seed), POLICIES.find(batching.policy)
    times = np.zeros(len(shapes))
    clips = padding = batches = 0
    for epoch in range(EPOCHS):
        for members in stream.epoch(epoch):
            times[list(members)] += 1
            own = [shapes[item] for item in members]
            voxels = sum(map(num_voxels, own))
            clips += voxels
            padding += sum(map(num_voxels, policy.given(own))) - voxels
            batches += 1
    budget = batches * batching.voxel_budget
    room = Room(clips=clips / budget, padding=padding / budget, unfilled=(budget - clips - padding) / budget)
    return (times / EPOCHS).tolist(), room, batches / EPOCHS


def _subject(items: Sequence[Item], boxes: np.ndarray | None) -> tuple[float | None, float | None]:
    """Mean share of the subject's box inside an item's window, and share of items with all of it in every frame."""
    if boxes is None:
        return None, None
    shares = []
    for item in items:
        box = _item_boxes(item, boxes)
        left, top, right, bottom = item.box
        inside = np.clip(np.minimum(box[:, 2:], (right, bottom)) - np.maximum(box[:, :2], (left, top)), 0, None)  # (T, 2)
        shares.append(float((inside.prod(1) / (box[:, 2:] - box[:, :2]).prod(1)).mean()))
    return float(np.mean(shares)), float(np.mean(wholly_inside(items, boxes)))


def wholly_inside(items: Sequence[Item], boxes: np.ndarray) -> list[bool]:
    """Whether an item's window holds all of the subject's box in every frame; `boxes` (N, T, 4) of the clips."""
    found = []
    for item in items:
        box = _item_boxes(item, boxes)
        beyond = np.concatenate([np.array(item.box[:2]) - box[:, :2], box[:, 2:] - np.array(item.box[2:])], axis=1)  # pixels, each side
        found.append(bool((beyond <= INSIDE).all()))
    return found


def _item_boxes(item: Item, boxes: np.ndarray) -> np.ndarray:
    """The subject's box in each frame of an item, (T, 4)."""
    return boxes[item.clip, item.first_frame : item.first_frame + item.shape[0]]


def starved(fitted: Fitted, batching: Batching, spec: LatentSpec) -> dict[Shape, tuple[int, int]]:
    """Shapes of items, in pixels, that never fill a batch of one shape -> how many items have it, and how many a batch takes."""
    if batching.voxel_budget is None or not POLICIES.find(batching.policy).full_batches:
        return {}
    counts = fitted.num_of()
    needed = {shape: clips_per_batch(spec.latent_shape(shape), batching) for shape in fitted.shapes}
    return {shape: (counts[shape], needed[shape]) for shape in fitted.shapes if counts[shape] < needed[shape]}
