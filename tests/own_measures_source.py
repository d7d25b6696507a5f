"""What another package would hold: a distance and a pixel measure, and some that are refused. Copied onto the path by a test."""

import numpy as np

from bench.metrics.distances.table import DistanceKind
from bench.metrics.pixels.contract import PixelMeasure, PixelValue


def shift(a: np.ndarray, b: np.ndarray) -> float:
    """How far apart the means of two sets of features are."""
    return float(np.linalg.norm(a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)))


def brightness(frames: np.ndarray) -> dict[str, float | np.ndarray]:
    rows = np.array([clip.mean() / 255 for clip in frames])[:, None]  # (N, 1)
    return {"brightness": float(rows.mean()), "brightness_distance": rows}


SHIFT = DistanceKind(key="shift", title="Shift of the mean", distance=shift, canonical="shvd", prefix="sd_", settings={"shift_version": 3})
TAKEN = DistanceKind(key="taken", title="Taken", distance=shift, canonical="takenvd", prefix="fd_")
BRIGHTNESS = PixelMeasure(
    name="brightness",
    version=1,
    values=(
        PixelValue(name="brightness", title="Mean brightness", better="none"),
        PixelValue(name="brightness_distance", title="Distance in brightness", better="lower", axis=True),
    ),
    measure=brightness,
    settings={"white": 255},
)
SAME = PixelMeasure(
    name="same", version=1, values=(PixelValue(name="steady_rate", title="Steady", better="higher"),), measure=lambda frames: {}
)
