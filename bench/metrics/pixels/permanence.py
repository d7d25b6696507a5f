"""Object permanence in one-object worlds, from pixels alone: is there one object in every frame, and does it stay itself?

For clips of one bright, saturated shape on a plain dark background (bench.data.sources.worlds with num_objects=1). There the
walls keep the shape inside the frame, so in a true clip it is never hidden, cut, or second. Real clips measure 1.0; that
and the autoencoder's reconstructions are the floors of this number.
"""

from dataclasses import asdict, dataclass

import numpy as np

from bench.data.ragged import Frames
from bench.metrics.pixels.contract import SHARE, PixelMeasure, PixelValue
from bench.metrics.pixels.foreground import components, contrast


@dataclass(frozen=True)
class PermanenceThresholds:
    """What counts as an object, and as the same object. Fixed: they are part of the measure's name."""

    foreground: float = 72.0  # levels (of 255) that a pixel's strongest channel differs from the clip's background
    speck_share: float = 0.0075  # of the frame's area; smaller components are noise (4 pixels of 24x24)
    object_share: float = 0.03  # of the frame's area; the least an object covers. The smallest true shape, a triangle, covers 0.063
    crowd_share: float = 0.5  # of the frame's area; more is no object but noise or a flooded frame. A true disc covers 0.25
    clutter: float = 0.25  # specks together, relative to the object's area; more is noise, not one object
    hue_deviation: float = 9.0  # degrees that any frame's hue may lie off the clip's mean hue. A steady drift of 20 gives 10
    chroma: float = 60.0  # levels between strongest and weakest channel of the object's colour, or its hue means nothing
    size_ratio: float = 1.3  # area over the clip's median area, either way. Halving half-way gives 1.5 or 2


THRESHOLDS = PermanenceThresholds()


def measure(frames: Frames) -> dict[str, float]:
    """Clips (N, T, H, W, 3) uint8 -> share with exactly one object in every frame, and share where it keeps hue and size too."""
    one_object, steady = verdicts(np.asarray(frames))
    return {"one_object_rate": float(one_object.mean()), "steady_rate": float(steady.mean())}


def verdicts(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clips (N, T, H, W, 3) uint8 -> one object in every frame, (N,) bool; and its hue and size stay, (N,) bool."""
    _, areas, colours = objects(frames)
    one_object = np.asarray((areas > 0).all(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = areas / np.median(areas, axis=1, keepdims=True)  # (N, T)
        same_size = (np.maximum(ratios, 1 / ratios) <= THRESHOLDS.size_ratio).all(axis=1)
    saturated = (np.ptp(colours, axis=-1) >= THRESHOLDS.chroma).all(axis=1)
    return one_object, one_object & saturated & same_size & (hue_deviation(colours) <= THRESHOLDS.hue_deviation)


def objects(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips (N, T, H, W, 3) -> objects of each frame (N, T); area in pixels of the only one, 0 without; its mean colour (N, T, 3)."""
    counts, areas, colours = zip(*(_clip_objects(clip) for clip in frames), strict=True)
    return np.stack(counts), np.stack(areas), np.stack(colours)


def _clip_objects(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip (T, H, W, 3) -> number of objects (T,), area of the only one (T,) or 0, its mean colour (T, 3)."""
    num_frames, height, width, _ = clip.shape
    pixels = clip.astype(np.float32)
    pieces = components(contrast(clip) > THRESHOLDS.foreground)
    speck = pieces.areas < max(THRESHOLDS.speck_share * height * width, 2)
    num_objects = np.bincount(pieces.frames[~speck], minlength=num_frames)
    speck_area = np.bincount(pieces.frames[speck], weights=pieces.areas[speck], minlength=num_frames)
    area, colour = np.zeros(num_frames), np.zeros((num_frames, 3))
    least, most = THRESHOLDS.object_share * height * width, THRESHOLDS.crowd_share * height * width
    for piece in np.flatnonzero(~speck):
        frame, size = pieces.frames[piece], pieces.areas[piece]
        if num_objects[frame] == 1 and least <= size <= most and speck_area[frame] <= THRESHOLDS.clutter * size:
            area[frame] = size
            colour[frame] = pixels[frame][pieces.labels[frame] == piece + 1].mean(axis=0)
    return num_objects, area, colour


def hue_deviation(colours: np.ndarray) -> np.ndarray:
    """Mean colours (N, T, 3) -> (N,) degrees: largest angle on the hue circle between a frame and the clip's circular mean."""
    red, green, blue = colours[..., 0], colours[..., 1], colours[..., 2]
    strongest, chroma = colours.max(axis=-1), np.maximum(np.ptp(colours, axis=-1), 1e-6)
    sextant = np.select(  # HSV's hue in sixths of a turn; grey mixed in at an edge does not change it
        [strongest == red, strongest == green], [(green - blue) / chroma, (blue - red) / chroma + 2], (red - green) / chroma + 4
    )
    turns = np.exp(1j * sextant * np.pi / 3)  # (N, T)
    mean = np.angle(turns.mean(axis=1, keepdims=True))
    return np.degrees(np.abs(np.angle(turns * np.exp(-1j * mean)))).max(axis=1)


PERMANENCE = PixelMeasure(
    name="permanence",
    version=1,
    values=(
        PixelValue(name="one_object_rate", title="Clips with exactly one object in every frame", unit=SHARE, better="higher", axis=True),
        PixelValue(name="steady_rate", title="Clips whose one object keeps colour and size", unit=SHARE, better="higher", axis=True),
    ),
    measure=measure,
    settings=asdict(THRESHOLDS),
    applies=lambda sets: sets.num_objects == 1 and not sets.mixed,
)
