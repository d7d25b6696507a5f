"""What stands out of a clip's plain background, and its connected pieces, frame by frame: what measures of worlds look at. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are used


@dataclass(frozen=True, kw_only=True)
class Components:
    """Connected pieces of the foreground; neighbours are the eight around a pixel, in its own frame."""

    labels: np.ndarray  # (T, H, W) int: 0 is background, k + 1 is piece k
    areas: np.ndarray  # (pieces,) pixels
    frames: np.ndarray  # (pieces,) the frame each is in; rises


def contrast(clip: np.ndarray) -> np.ndarray:
    """Clip (T, H, W, 3) uint8 -> (T, H, W) levels, 0 to 255, that a pixel's strongest channel differs from the clip's background."""
    pixels = clip.astype(np.float32)
    background = np.median(pixels.reshape(-1, 3), axis=0)  # covers most of every true frame
    return np.abs(pixels - background).max(axis=-1)


def components(foreground: np.ndarray) -> Components:
    """Foreground (T, H, W) bool -> its pieces."""
    _, height, width = foreground.shape
    neighbours = np.zeros((3, 3, 3), dtype=bool)
    neighbours[1] = True  # eight neighbours in the same frame, none in the next
    labels, num = scipy.ndimage.label(foreground, structure=neighbours)
    areas = np.bincount(labels.ravel(), minlength=num + 1)[1:]
    first_pixel = np.unique(labels, return_index=True)[1][-num:] if num else np.zeros(0, dtype=int)
    return Components(labels=labels, areas=areas, frames=first_pixel // (height * width))
