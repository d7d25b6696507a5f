"""Rigid bodies in a box, by pymunk: endless clips whose exact state is known in every frame.

A clip shows one bright shape (its class: disc, square, triangle, ring) of any hue that moves over a plain dark
background and bounces off the frame's edges without loss. Further objects, gravity, and damping are options.

Units: lengths in the frame's shorter side, x to the right, y down, both from the top left corner; time in seconds.
So x * min(height, width) - 0.5 is a column index, and a clip has the same motion at any resolution.

Every body collides as the disc around it, and without friction. So motion does not depend on the class, and without
damping spin never changes (a spinning square stays nameable) and energy is kept to rounding.
"""

import colorsys
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pydantic
import pymunk

from bench.data.clips import SPLITS, ClipSet, open_frames, save_clips
from bench.data.source import Count, Progress, SourceConfig, digest_of

GENERATOR_VERSION = 1  # bump when a clip of the same config changes
SHAPES = ("disc", "square", "triangle", "ring")
RING_HOLE = 0.5  # inner over outer radius
BACKGROUND = 16  # grey level
STATE = ("x", "y", "vx", "vy", "angle", "angular_velocity", "radius", "hue", "shape", "mass")  # hue in turns; shape indexes SHAPES
BATCH = 64  # clips rendered at once; bounds memory

NonNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Range = tuple[NonNegative, NonNegative]


class Config(SourceConfig):
    """A world and how many clips of it."""

    source: Literal["worlds"] = "worlds"
    num_train: Count  # clips in the training split
    seed: Annotated[int, pydantic.Field(ge=0)] = 0  # of the worlds, not of a run: all runs share the data
    num_objects: Count = 1  # the first one gives the class
    radius: Range = (0.22, 0.28)  # of the disc around a shape, drawn uniformly; shorter sides of the frame
    speed: Range = (0.3, 0.8)  # at the first frame, drawn uniformly; shorter sides per second
    tilt: NonNegative = math.pi  # largest angle either way at the first frame; radians, 0 = squares and triangles stand on a side
    spin: NonNegative = 0.6  # largest angular velocity either way; radians per second
    gravity: Annotated[float, pydantic.Field(allow_inf_nan=False)] = 0.0  # downward acceleration; shorter sides per second squared
    damping: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0  # share of velocity and of spin lost per second: an arrow of time
    fps: Annotated[float, pydantic.Field(gt=0, le=1000)] = 8.0  # frames per second
    num_substeps: Count = 16  # physics steps per frame

    @pydantic.field_validator("radius", "speed")
    @classmethod
    def _ordered(cls, value: Range) -> Range:
        if value[0] > value[1]:
            raise ValueError("is (smallest, largest), so the first must not exceed the second")
        return value

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        box = (self.width / self.side) * (self.height / self.side)
        if self.radius[0] == 0 or self.radius[1] >= 0.5:
            raise ValueError(f"radius = {self.radius}: must be above 0 and below 0.5, or a shape does not fit the frame")
        if self.num_objects > 1 and self.num_objects * math.pi * self.radius[1] ** 2 > 0.45 * box:
            most = max(1, int(0.45 * box / (math.pi * self.radius[1] ** 2)))
            raise ValueError(f"num_objects = {self.num_objects} of radius {self.radius[1]} leave no room; use {most} or smaller ones")
        return self

    @property
    def side(self) -> int:
        """Pixels per unit of length."""
        return min(self.height, self.width)


def digest(config: Config) -> str:
    """The config, the generator and the physics library: nothing else determines a clip."""
    return digest_of(GENERATOR_VERSION, pymunk.version, config.model_dump(mode="json"))


def labels(config: Config) -> tuple[str, ...]:
    """Shapes of the first object."""
    return SHAPES


def write(config: Config, folder: Path, progress: Progress) -> None:
    """All splits. Clip k of a split is the same whatever the number of clips."""
    num_clips = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    frames = open_frames(folder, num_clips, (config.num_frames, config.height, config.width))
    total, done = sum(num_clips.values()), 0
    splits = {}
    for split in SPLITS:
        num = num_clips[split]
        states = np.empty((num, config.num_frames, config.num_objects, len(STATE)))
        for start in range(0, num, BATCH):
            stop = min(start + BATCH, num)
            for index in range(start, stop):
                states[index] = simulate(config, split, index)
            frames[split][start:stop] = render(states[start:stop], config.height, config.width)
            done += stop - start
            progress(done, total, "simulating worlds")
        truth = {name: states[..., i] for i, name in enumerate(STATE)}
        truth["shape"] = truth["shape"].astype(np.int64)
        clip_ids = tuple(f"{split}-{index:06d}" for index in range(num))
        splits[split] = ClipSet(frames[split], truth["shape"][:, 0, 0], clip_ids, truth)
    save_clips(folder, splits, label_names=SHAPES, fps=config.fps)


def clip_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The clip's own generator: splits and clips share nothing, and no clip depends on how many there are."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(f"{seed}/{split}/{index}".encode(), digest_size=16).digest()))


def simulate(config: Config, split: str, index: int) -> np.ndarray:
    """State of every object in every frame: (T, objects, 10) float64, the columns of STATE."""
    rng = clip_rng(config.seed, split, index)
    space = pymunk.Space()
    space.gravity = (0.0, config.gravity)
    space.damping = 1 - config.damping  # pymunk names the share that is kept
    space.iterations = 30
    space.collision_slop = 1e-4  # pymunk's 0.1 is meant for pixels
    width, height = config.width / config.side, config.height / config.side
    space.add(*_walls(space, width, height))
    bodies: list[pymunk.Body] = []
    constants = []  # radius, hue, shape, mass of each
    for radius, (x, y) in _placed(config, rng, width, height):
        shape = index % len(SHAPES) if not bodies else int(rng.integers(len(SHAPES)))  # classes in equal numbers
        mass = math.pi * radius**2
        body = pymunk.Body(mass, mass * radius**2 / 2)
        disc = pymunk.Circle(body, radius)
        disc.elasticity, disc.friction = 1.0, 0.0
        direction, speed = rng.uniform(-config.tilt, config.tilt), rng.uniform(*config.speed)
        body.position, body.velocity = (x, y), (speed * math.cos(direction), speed * math.sin(direction))
        body.angle, body.angular_velocity = rng.uniform(-config.tilt, config.tilt), rng.uniform(-config.spin, config.spin)
        space.add(body, disc)
        bodies.append(body)
        constants.append((radius, rng.uniform(), shape, mass))
    state = np.empty((config.num_frames, len(bodies), len(STATE)))
    for frame in range(config.num_frames):
        for _ in range(config.num_substeps if frame else 0):
            space.step(1 / config.fps / config.num_substeps)
        state[frame] = [(*b.position, *b.velocity, b.angle, b.angular_velocity, *c) for b, c in zip(bodies, constants, strict=True)]
    return state


def _walls(space: pymunk.Space, width: float, height: float) -> list[pymunk.Segment]:
    """Four elastic walls outside the frame, thick enough that nothing passes through between two steps."""
    thick = 2.0
    corners = [(-thick, -thick), (width + thick, -thick), (width + thick, height + thick), (-thick, height + thick)]
    walls = []
    for k in range(4):
        wall = pymunk.Segment(space.static_body, corners[k - 1], corners[k], thick)
        wall.elasticity, wall.friction = 1.0, 0.0
        walls.append(wall)
    return walls


def _placed(config: Config, rng: np.random.Generator, width: float, height: float) -> Iterator[tuple[float, tuple[float, float]]]:
    """Radius and centre of each object, inside the frame and apart. Starts over when the last ones find no room."""
    for _ in range(1000):
        discs: list[tuple[float, tuple[float, float]]] = []
        for _ in range(20 * config.num_objects):
            radius = rng.uniform(*config.radius)
            x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
            if all(math.hypot(x - other[0], y - other[1]) > radius + reach for reach, other in discs):
                discs.append((radius, (x, y)))
            if len(discs) == config.num_objects:
                yield from discs
                return
    raise ValueError(f"num_objects = {config.num_objects} of radius {config.radius} found no room; use fewer or smaller ones")


def render(states: np.ndarray, height: int, width: int) -> np.ndarray:
    """States (N, T, objects, 10) -> frames (N, T, H, W, 3) uint8, edges smoothed over one pixel by the distance to the outline."""
    side = min(height, width)
    num, num_frames, num_objects, _ = states.shape
    flat = states.reshape(num * num_frames, num_objects, len(STATE)).astype(np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(width, dtype=np.float32)[None, :] + 0.5
    image = np.full((len(flat), height, width, 3), BACKGROUND, dtype=np.float32)
    shapes = states[:, 0, :, STATE.index("shape")].astype(int)  # (N, objects): does not change within a clip
    for k in range(num_objects):
        for shape, name in enumerate(SHAPES):
            chosen = np.repeat(shapes[:, k] == shape, num_frames)
            if not chosen.any():
                continue
            x, y, _, _, angle, _, radius, hue, _, _ = flat[chosen, k].T[:, :, None, None]
            dx, dy = columns - x * side, rows - y * side  # (frames, 1, W), (frames, H, 1)
            cover = np.clip(0.5 - DISTANCES[name](dx, dy, angle, radius * side), 0, 1)[..., None]  # (frames, H, W, 1)
            image[chosen] += cover * (_rgb(hue[:, 0, 0])[:, None, None] - image[chosen])
    return (image + 0.5).astype(np.uint8).reshape(num, num_frames, height, width, 3)


def _rgb(hue: np.ndarray) -> np.ndarray:
    """Hue in turns (M,) -> fully saturated bright colour (M, 3), 0 to 255."""
    return np.array([colorsys.hsv_to_rgb(float(turn), 1.0, 1.0) for turn in hue], dtype=np.float32) * 255


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


DISTANCES = {
    "disc": _disc,
    "square": lambda *args: _polygon(4, *args),
    "triangle": lambda *args: _polygon(3, *args),
    "ring": _ring,
}
