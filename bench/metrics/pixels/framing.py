"""Framing in one-object worlds, from pixels alone: is the subject whole in the frame, where is it, and how large?

For clips of one bright, saturated shape on a plain dark background (the source `worlds` with num_objects=1 and a margin of 1.2 pixels or
more): no part of it comes into the outermost pixels, so a subject that does is cut. A model that learns from crops makes cut ones. The
autoencoder must have learnt from cut ones too: one that never saw any paints the outermost pixels dark, and nothing is cut any more.
Clips may differ in shape, and may be of one frame. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import scipy  # its parts are imported when they are used

from bench.data.ragged import Frames, clip_shapes
from bench.metrics.pixels.contract import SHARE, PixelMeasure, PixelSets, PixelValue
from bench.metrics.pixels.foreground import components, contrast
from bench.shapes import Shape

FEATURES = ("centre_x", "centre_y", "extent_x", "extent_y")  # of the subject's box; shares of the frame's width and height


@dataclass(frozen=True)
class FramingThresholds:
    """What counts as a subject. Fixed: they are part of the measure's name."""

    foreground: float = 96.0  # levels (of 255) that a pixel's strongest channel differs from the clip's background; a true shape's: 239
    speck_share: float = 0.0075  # of the square of the frame's shorter side; smaller pieces are noise (4 pixels of 24x24)
    crowd_share: float = 0.5  # of the frame's area; more is no subject but noise or a flooded frame
    clutter: float = 0.25  # specks of a frame together, relative to the subject's area; more is noise, not a subject


THRESHOLDS = FramingThresholds()


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Where the subjects of N clips are."""

    boxes: tuple[np.ndarray, ...]  # N of (T, 4) pixels: x0, y0, x1, y1, half-open; NaN in a frame without a subject
    whole: np.ndarray  # (N,) bool: one subject in every frame, and none cut by the frame's edge
    features: np.ndarray  # (N, 4), the columns of FEATURES: means over the frames with a subject; NaN for a clip without one


def measure(clips: Sequence[np.ndarray] | np.ndarray) -> Framing:
    """Clips, N of (T, H, W, 3) uint8, at least one -> Framing of what is seen in them."""
    boxes, whole = [], []
    for clip in clips:
        box, alone = _subjects(clip)
        _, height, width, _ = clip.shape
        inside = (box[:, :2] > 0) & (box[:, 2:] < (width, height))  # (T, 2); False for NaN
        boxes.append(box)
        whole.append(bool(inside.all() and alone.all()))
    return _framing(boxes, whole, [clip.shape[:3] for clip in clips])


def truth(boxes: Sequence[np.ndarray] | np.ndarray, shapes: Sequence[Shape]) -> Framing:
    """True boxes, N of (T, 4) pixels, of clips of `shapes` (T, H, W), at least one -> their Framing."""
    whole = [
        bool(((box[:, :2] >= 0) & (box[:, 2:] <= (width, height))).all()) for box, (_, height, width) in zip(boxes, shapes, strict=True)
    ]
    return _framing(boxes, whole, shapes)


def _framing(boxes: Sequence[np.ndarray] | np.ndarray, whole: list[bool], shapes: Sequence[tuple[int, ...]]) -> Framing:
    features = np.full((len(boxes), len(FEATURES)), np.nan)
    for index, (box, (_, height, width)) in enumerate(zip(boxes, shapes, strict=True)):
        present = box[~np.isnan(box[:, 0])]  # (frames with a subject, 4)
        if len(present):
            low, high = present[:, :2] / (width, height), present[:, 2:] / (width, height)
            features[index] = *((low + high) / 2).mean(axis=0), *(high - low).mean(axis=0)
    return Framing(boxes=tuple(boxes), whole=np.array(whole), features=features)


def _subjects(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip (T, H, W, 3) -> box of the subject, the largest piece of each frame, (T, 4), NaN without one; is it the only piece, (T,)."""
    num_frames, height, width, _ = clip.shape
    pieces = components(contrast(clip) > THRESHOLDS.foreground)
    speck = pieces.areas < max(THRESHOLDS.speck_share * min(height, width) ** 2, 2)
    speck_area = np.bincount(pieces.frames[speck], weights=pieces.areas[speck], minlength=num_frames)
    slices = scipy.ndimage.find_objects(pieces.labels)
    boxes, alone = np.full((num_frames, 4), np.nan), np.zeros(num_frames, dtype=bool)
    for frame in range(num_frames):
        own = np.flatnonzero((pieces.frames == frame) & ~speck)
        if not len(own):
            continue
        subject = own[pieces.areas[own].argmax()]
        area = pieces.areas[subject]
        if area <= THRESHOLDS.crowd_share * height * width and speck_area[frame] <= THRESHOLDS.clutter * area:
            _, rows, columns = slices[subject]
            boxes[frame] = columns.start, rows.start, columns.stop, rows.stop
            alone[frame] = len(own) == 1
    return boxes, alone


def _values(frames: Frames) -> dict[str, float | np.ndarray]:
    seen = measure(list(frames))
    absent = np.isnan(seen.features[:, 0])  # in every frame: no distance counts such a clip
    return {
        "subject_whole_rate": float(seen.whole.mean()),
        "subject_absent_rate": float(absent.mean()),
        "framing_distance": seen.features,
    }


def _truth(sets: PixelSets) -> dict[str, np.ndarray]:
    assert sets.boxes is not None
    return {"framing_distance": truth(sets.boxes, clip_shapes(sets.test)).features}


FRAMING = PixelMeasure(
    name="framing",
    version=1,
    values=(
        PixelValue(
            name="subject_whole_rate",
            title="Clips whose subject is whole in every frame",
            unit=SHARE,
            better="higher",
            axis=True,
            plain="show their subject whole",
        ),
        PixelValue(name="subject_absent_rate", title="Clips without a subject", unit=SHARE, better="lower"),
        # Of real clips, by bench/run/measure/quality.py.
        PixelValue(name="crop_control_whole_rate", title="Crops whose subject is whole in every frame", unit=SHARE, better="none"),
        PixelValue(
            name="framing_distance",
            title="Distance in where the subject is",
            unit="share of the frame",
            better="lower",
            axis=True,
            plain="have their subject where real ones have it",
        ),
    ),
    measure=_values,
    settings=asdict(THRESHOLDS),
    applies=lambda sets: sets.boxes is not None,
    truth=_truth,
)
