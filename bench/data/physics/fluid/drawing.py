"""How a liquid looks: particles to smooth cover, cover to pixels of any number. A dark background, a blue-grey pool, a bright dye."""

from __future__ import annotations

import colorsys

import numpy as np
import scipy  # its parts are imported when they are used: whoever only names worlds and scores needs none

from bench.data.physics.fluid.flow import PER_CELL, Flow
from bench.data.physics.fluid.surface import resampled

BACKGROUND, POOL = (14, 14, 20), (96, 116, 150)  # red, green, blue
HUES = (-0.12, 0.38)  # turns that a dye's hue is drawn from: reds to greens, none near the pool's
FINE = 2  # places along a cell's side at which cover is worked out
SPREAD = 0.38  # cells, standard deviation of what a particle covers
FAINT, SOLID = 0.1, 0.7  # density of liquid, of 1, that covers nothing and everything: spray is seen, and no area is lost with it


def dye_colour(hue: float) -> tuple[float, float, float]:
    """Red, green, blue of a saturated dye of a hue in turns."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, 0.9, 0.95)
    return (255 * red, 255 * green, 255 * blue)


def cover(flow: Flow) -> np.ndarray:
    """How much of each fine place all liquid and the dyed liquid cover: (2, FINE R, FINE K) in [0, 1]."""
    rows, columns = (FINE * size for size in flow.tank.shape)
    at = flow.places / np.array(flow.tank.cell)[:, None] * FINE - 0.5  # places' centres are whole numbers
    low = np.floor(at)
    share = at - low
    column = np.stack([low[0], low[0] + 1]).clip(0, columns - 1).astype(np.intp)
    row = np.stack([low[1], low[1] + 1]).clip(0, rows - 1).astype(np.intp)
    index = (row[:, None] * columns + column[None]).reshape(4, -1)
    weight = (np.stack([1 - share[1], share[1]])[:, None] * np.stack([1 - share[0], share[0]])[None]).reshape(4, -1)
    sums = [np.bincount(index.ravel(), given.ravel(), rows * columns) for given in (weight, weight * flow.dyed)]
    density = np.stack(sums).reshape(2, rows, columns) * (FINE**2 / PER_CELL)
    # Beyond walls is a mirror: liquid at a wall is as dense as elsewhere.
    smooth = scipy.ndimage.gaussian_filter(density, (0, SPREAD * FINE, SPREAD * FINE), mode="reflect")
    everything = ((smooth[0] - FAINT) / (SOLID - FAINT)).clip(0, 1)
    dyed = np.divide(smooth[1], smooth[0], out=np.zeros_like(smooth[0]), where=smooth[0] > 1e-9)
    return np.stack([everything, everything * dyed.clip(0, 1)])


def picture(covered: np.ndarray, colour: tuple[float, float, float], height: int, width: int) -> np.ndarray:
    """`cover` of T frames (T, 2, h, w) -> pixels (T, height, width, 3) uint8, the dye in its colour."""
    everything, dyed = resampled(covered, height, width).swapaxes(0, 1)[..., None]
    background, pool, dye = (np.array(each, float) for each in (BACKGROUND, POOL, colour))
    return np.rint(background + (everything - dyed) * (pool - background) + dyed * (dye - background)).astype(np.uint8)
