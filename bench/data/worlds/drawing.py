"""The state of a world's objects, and how it is drawn: frames of bright shapes on a plain dark background, edges smoothed over a pixel."""

import colorsys
import functools
import math
from collections.abc import Callable

import numpy as np

SHAPES = ("disc", "square", "triangle", "ring")
NUM_SIDES = {"square": 4, "triangle": 3}  # of the regular polygons among them
RING_HOLE = 0.5  # inner over outer radius
BACKGROUND = 16  # grey level
STATE = ("x", "y", "vx", "vy", "angle", "angular_velocity", "radius", "hue", "shape", "mass")  # hue in turns; shape indexes SHAPES


def render(states: np.ndarray, height: int, width: int) -> np.ndarray:
    """States (N, T, objects, 10), NaN of an object that is not there -> frames (N, T, H, W, 3) uint8, edges smoothed over a pixel."""
    side = min(height, width)
    num, num_frames, num_objects, _ = states.shape
    flat = states.reshape(num * num_frames, num_objects, len(STATE)).astype(np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(width, dtype=np.float32)[None, :] + 0.5
    image = np.full((len(flat), height, width, 3), BACKGROUND, dtype=np.float32)
    shapes = np.nan_to_num(states[:, 0, :, STATE.index("shape")], nan=-1).astype(int)  # (N, objects): does not change within a clip
    for k in range(num_objects):
        for shape, name in enumerate(SHAPES):
            chosen = np.repeat(shapes[:, k] == shape, num_frames)
            if not chosen.any():
                continue
            x, y, _, _, angle, _, radius, hue, _, _ = flat[chosen, k].T[:, :, None, None]
            dx, dy = columns - x * side, rows - y * side  # (frames, 1, W), (frames, H, 1)
            cover = np.clip(0.5 - DISTANCES[name](dx, dy, angle, radius * side), 0, 1)[..., None]  # (frames, H, W, 1)
            colour = np.array([colorsys.hsv_to_rgb(float(turn), 1.0, 1.0) for turn in hue[:, 0, 0]], dtype=np.float32) * 255  # (frames, 3)
            image[chosen] += cover * (colour[:, None, None] - image[chosen])
    return (image + 0.5).astype(np.uint8).reshape(num, num_frames, height, width, 3)


def _disc(dx: np.ndarray, dy: np.ndarray, angle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance to a disc's outline in pixels, negative inside."""
    return np.sqrt(dx * dx + dy * dy) - radius


def _ring(dx: np.ndarray, dy: np.ndarray, angle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """As a disc, with a hole."""
    distance = np.sqrt(dx * dx + dy * dy)
    return np.maximum(distance - radius, RING_HOLE * radius - distance)


def _polygon(num_sides: int, dx: np.ndarray, dy: np.ndarray, angle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance to the nearest side's line of a regular polygon in the circle of `radius`, standing on a side at angle 0."""
    turns = np.arange(num_sides, dtype=np.float32).reshape(-1, 1, 1, 1) / num_sides
    sides = angle + math.pi / 2 + 2 * math.pi * turns  # (sides, frames, 1, 1), where each side's normal points; y is down
    distance = dx * np.cos(sides[0]) + dy * np.sin(sides[0])
    for side in sides[1:]:
        np.maximum(distance, dx * np.cos(side) + dy * np.sin(side), out=distance)
    return distance - radius * math.cos(math.pi / num_sides)


DISTANCES: dict[str, Callable[..., np.ndarray]] = {
    "disc": _disc,
    "ring": _ring,
    **{name: functools.partial(_polygon, num_sides) for name, num_sides in NUM_SIDES.items()},
}
