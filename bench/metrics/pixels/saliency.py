"""Where a clip's motion and contrast are, for any video: composition without a detector, truth or learnt features. No torch.

Energy of a pixel: how much its colour changes from frame to frame (motion, none in one frame alone) and from pixel to pixel (contrast).
Brightness and hue scale both alike, so they hardly count. What is left is where the energy lies, in shares of the frame. Crops of clips
enlarge what they show, and bring what is at its sides nearer to the border. Fine texture has less contrast in a clip that was shrunk or
squeezed, so clips compare best with clips of the same shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import scipy  # its parts are imported when they are used

from bench.metrics.pixels.contract import PixelMeasure, PixelValue
from bench.shapes import Refusal

# Of the energy: its mean place and standard deviation in shares of the frame, and its share near the border.
FEATURES = ("centre_x", "centre_y", "spread_x", "spread_y", "border")
MIN_SIDE = 8  # pixels


@dataclass(frozen=True)
class SaliencySettings:
    """Chosen for the largest distance of crops, relative to that of two halves of one set. Fixed: they are part of the measure's name."""

    smoothing: float = 0.02  # standard deviation of the blur against grain; shorter sides of the frame
    motion: float = 12.0  # weight of a level a frame, against a level a shorter side; more of it sees grain in clips at rest
    background: float = 0.9  # share of pixels that are background: as much motion, or contrast, as they have does not count
    border: float = 1 / 8  # of the frame's width or height, on each side


SETTINGS = SaliencySettings()


def measure(clips: Iterable[np.ndarray]) -> np.ndarray:
    """Clips, N of (T, H, W, 3) uint8 -> where their energy is: (N, 5), the columns of FEATURES; NaN for a clip of one flat colour."""
    return np.array([_features(energy(clip)) for clip in clips])


def energy(clip: np.ndarray) -> np.ndarray:
    """Clip (T, H, W, 3) uint8 -> (H, W) motion and contrast above the background's, levels a shorter side; 0 in a flat clip."""
    side = min(clip.shape[1:3])
    if side < MIN_SIDE:
        raise Refusal(f"a clip is {clip.shape[1]}x{clip.shape[2]} pixels, saliency needs sides of at least {MIN_SIDE}")
    blur = SETTINGS.smoothing * side
    pixels = scipy.ndimage.gaussian_filter(clip.astype(np.float32), (0, blur, blur, 0), mode="nearest")
    change_y, change_x = np.gradient(pixels, axis=(1, 2))  # each (T, H, W, 3)
    contrast = np.sqrt(np.square(change_y).sum(axis=-1) + np.square(change_x).sum(axis=-1)).mean(axis=0)  # (H, W)
    salient = side * _above_background(contrast)
    if len(clip) > 1:
        motion = np.sqrt(np.square(np.diff(pixels, axis=0)).sum(axis=-1)).mean(axis=0)  # (H, W)
        salient += SETTINGS.motion * _above_background(motion)
    return salient


def _above_background(levels: np.ndarray) -> np.ndarray:
    return np.maximum(levels.astype(np.float64) - np.quantile(levels, SETTINGS.background), 0)


def _features(energy: np.ndarray) -> list[float]:
    """Energy (H, W) -> the columns of FEATURES."""
    if not energy.any():
        return [np.nan] * len(FEATURES)
    share = energy / energy.sum()
    height, width = share.shape
    (centre_x, spread_x), (centre_y, spread_y) = _moments(share.sum(axis=0)), _moments(share.sum(axis=1))
    rows, columns = round(SETTINGS.border * height), round(SETTINGS.border * width)
    at_border = np.ones(share.shape, dtype=bool)
    at_border[rows : height - rows, columns : width - columns] = False
    return [centre_x, centre_y, spread_x, spread_y, float(share[at_border].sum())]


def _moments(share: np.ndarray) -> tuple[float, float]:
    """Shares (size,) along one axis, sum 1 -> their mean place and its standard deviation, in shares of the axis."""
    place = (np.arange(len(share)) + 0.5) / len(share)
    mean = float(share @ place)
    return mean, float(np.sqrt(share @ np.square(place - mean)))


SALIENCY = PixelMeasure(
    name="saliency",
    version=1,
    values=(
        PixelValue(
            name="saliency_distance",
            title="Distance in where motion and contrast are",
            unit="share of the frame",
            better="lower",
            axis=True,
            plain="have motion and contrast where real ones have them",
        ),
    ),
    measure=lambda frames: {"saliency_distance": measure(frames)},
    settings=asdict(SETTINGS),
    applies=lambda sets: sets.mixed or sets.boxes is not None,  # of clips of one shape only where framing can be held against it
)
