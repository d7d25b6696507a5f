"""Rigid bodies in a box, by pymunk: endless clips whose exact state is known in every frame.

A clip shows one bright shape (its class: disc, square, triangle, ring) of any hue that moves over a plain dark
background and bounces off the frame's edges without loss. Further objects, gravity, and damping are options; so are captions, which
say colour, shape, direction, bounces and number, and then all of these are such as have a name.

Units: lengths in the frame's shorter side, x to the right, y down, both from the top left corner; time in seconds.
So x * min(height, width) - 0.5 is a column index, and a clip has the same motion at any resolution. Clips may have many
shapes, dealt out in turn: then the shorter side is each clip's own.

Every body collides as the disc around it, and without friction. So motion does not depend on the class, and without
damping spin never changes (a spinning square stays nameable) and energy is kept to rounding.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pydantic
import pymunk

from bench.data.clips import SPLITS, ClipSet, open_ragged_frames, save_clips
from bench.data.frozen import Count, Grown, Seed
from bench.data.progress import Progress
from bench.data.ragged import by_shape
from bench.data.source import MOST_CLIPS, SourceConfig, Survey, check_clip_shape, digest_of
from bench.data.worlds.caption import ANGLE_SLACK, COLOURS, DIRECTIONS, HUE_SLACK, NUMBERS, captions_of, steady, turns
from bench.data.worlds.combinations import MOST_UNSEEN, Combination, combinations, held_out, is_unseen
from bench.data.worlds.drawing import NUM_SIDES, SHAPES, STATE, render
from bench.shapes import Refusal, Shape

GENERATOR_VERSION = 1  # bump when a clip of the same config changes
CAPTIONED_VERSION = 2  # bump when one that has a caption does, its caption, or what is held out
ADDED = ("shapes", "margin", "placement")  # fields that the first cached clips did not have
MOST_STATES = 10**8  # of all objects in all frames of all clips: 80 bytes each are held in memory
TRIES = 1000  # draws of a start, before there is taken to be none
BATCH = 64  # clips rendered at once; bounds memory

NonNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
RangeFromZero = tuple[NonNegative, NonNegative]
Unseen = Annotated[int, pydantic.Field(ge=0, le=MOST_UNSEEN, multiple_of=len(SHAPES))]


class Config(Grown, SourceConfig):
    """A world and how many clips of it."""

    added = ("captions", "unseen")

    source: Literal["worlds"] = "worlds"
    num_train: Annotated[int, pydantic.Field(ge=1, le=MOST_CLIPS)]  # clips in the training split
    seed: Seed = 0  # of the worlds, not of a run: all runs share the data
    num_objects: Count = 1  # the first one gives the class
    radius: RangeFromZero = (0.22, 0.28)  # of the disc around a shape, drawn uniformly; shorter sides of the frame
    speed: RangeFromZero = (0.3, 0.8)  # at the first frame, drawn uniformly; shorter sides per second
    tilt: NonNegative = math.pi  # largest angle either way at the first frame; radians, 0 = squares and triangles stand on a side
    spin: NonNegative = 0.6  # largest angular velocity either way; radians per second
    gravity: Annotated[float, pydantic.Field(allow_inf_nan=False)] = 0.0  # downward acceleration; shorter sides per second squared
    damping: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0  # share of velocity and of spin lost per second: an arrow of time
    fps: Annotated[float, pydantic.Field(gt=0, le=1000)] = 8.0  # frames per second
    num_substeps: Annotated[int, pydantic.Field(ge=1, le=10**4)] = 16  # physics steps per frame
    shapes: tuple[Shape, ...] = ()  # (T, H, W) in pixels, dealt to clips in turn; one named twice comes twice as often. () = the one shape
    margin: NonNegative = 0.0  # between every object's disc and the frame's edge, at all times; shorter sides
    placement: Literal["uniform", "edges"] = "uniform"  # edges: the first object starts in an outer third of the longer side
    captions: Literal["generated"] | None = None  # generated: all is drawn such that words can tell it; num_objects is the most
    unseen: Unseen = 0  # combinations of colour, shape and direction that half of the test clips have and no other clip; needs captions

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        for name, value in (("radius", self.radius), ("speed", self.speed)):
            if value[0] > value[1]:
                raise Refusal(f"{name}: {value} is (smallest, largest), so the first must not exceed the second")
        if self.radius[0] == 0 or self.radius[1] + self.margin >= 0.5:
            raise Refusal(
                f"radius = {self.radius} and margin = {self.margin}: a radius must be above 0, and with the margin below 0.5, "
                "or a shape does not fit the frame"
            )
        self._can_be_told()
        for shape in self.shapes or [clip_shape(self, 0)]:
            check_clip_shape("shapes has", shape, least=(1, 8, 8))
            self._fits_frame(*shape[1:])
        longest = max(shape[0] for shape in self.shapes or [clip_shape(self, 0)])
        if (num_states := (self.num_train + self.num_val + self.num_test) * longest * self.num_objects) > MOST_STATES:
            raise Refusal(f"clips x frames x objects are {num_states:,}, at most {MOST_STATES:,} can be; use fewer or shorter clips")
        return self

    def _can_be_told(self) -> None:
        """Refusal for what no caption of a clip would be true of."""
        if self.captions is None:
            if self.unseen:
                raise Refusal(f"unseen = {self.unseen} is of what captions say, and there are none; give captions: generated, or unseen: 0")
            return
        if self.gravity:
            raise Refusal(f"gravity = {self.gravity} turns objects, so that no word says where one moves; captions need gravity: 0")
        if self.num_objects > len(NUMBERS):
            raise Refusal(f"num_objects = {self.num_objects} with captions, which know {len(NUMBERS)} colours; use {len(NUMBERS)} or fewer")
        if not self.speed[0]:
            raise Refusal(f"speed = {self.speed} lets objects rest, so that no word says where one moves; captions need both above 0")

    def _fits_frame(self, height: int, width: int) -> None:
        """Refusal where a frame of this aspect has no room for what is to be in it."""
        sides = (width / min(height, width), height / min(height, width))
        room = math.prod(side - 2 * self.margin for side in sides)
        if self.num_objects > 1 and self.num_objects * math.pi * self.radius[1] ** 2 > 0.45 * room:
            most = max(1, int(0.45 * room / (math.pi * self.radius[1] ** 2)))
            raise Refusal(
                f"num_objects = {self.num_objects} of radius {self.radius[1]} in {height}x{width} leave no room; use {most} or smaller ones"
            )
        if self.placement == "edges" and self.radius[1] + self.margin >= max(sides) / 3:
            raise Refusal(
                f"placement = 'edges' with radius {self.radius[1]} and margin {self.margin} leaves no room in an outer third of "
                f"{height}x{width}; together they must be below {max(sides) / 3:.3g} shorter sides"
            )

    @property
    def mixed(self) -> bool:
        """Whether clips have several shapes."""
        return bool(self.shapes)

    def at(self, shape: Shape, num_clips: int) -> Self:
        """Clips of one shape, with the motion that they have at any other, and one to train on."""
        return super().at(shape, num_clips).changed(shapes=(), num_train=1)


def digest(config: Config) -> str:
    """The config, the generator and the physics library: nothing else determines a clip."""
    told = [CAPTIONED_VERSION] if config.captions == "generated" else []
    return digest_of(GENERATOR_VERSION, pymunk.version, config.identity(added=ADDED), *told)


def labels(config: Config) -> tuple[str, ...]:
    """Shapes of the first object."""
    return SHAPES


def write(config: Config, folder: Path, progress: Progress) -> None:
    """All splits. Clip k of a split is the same whatever the number of clips."""
    shapes = split_shapes(config)
    frames = open_ragged_frames(folder, shapes)
    states: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for split, batch in _simulated(config, shapes, progress):
        start = len(states[split])
        states[split] += batch
        for (_, height, width), members in by_shape(shapes[split][start : start + len(batch)]).items():
            clips = render(np.stack([batch[member] for member in members]), height, width)
            for member, clip in zip(members, clips, strict=True):
                frames[split][start + member][...] = clip
    splits = {}
    for split in SPLITS:
        padded = _padded(states[split])  # (N, longest T, objects, 10)
        truth = {name: padded[..., i] for i, name in enumerate(STATE)}
        truth["shape"] = np.nan_to_num(truth["shape"], nan=-1).astype(np.int64)
        if not set(ADDED).isdisjoint(config.identity(added=ADDED)):  # the truth of older configs is cached without it
            truth["box"] = boxes(states[split], shapes[split])
        told = captions_of(states[split]) if config.captions == "generated" else None
        splits[split] = ClipSet(frames[split], truth["shape"][:, 0, 0], clip_ids(split, len(shapes[split])), truth, told)
    save_clips(folder, splits, label_names=SHAPES, fps=config.fps)


def survey(config: Config, progress: Progress) -> Survey:
    """What `write` would make, by simulating without rendering. Boxes are told of any config."""
    shapes = split_shapes(config)
    states: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for split, batch in _simulated(config, shapes, progress):
        states[split] += batch
    return Survey(
        shapes={split: tuple(clips) for split, clips in shapes.items()},
        clip_ids={split: clip_ids(split, len(clips)) for split, clips in shapes.items()},
        boxes={split: boxes(states[split], clips) for split, clips in shapes.items()},
        fps=config.fps,
    )


def _simulated(config: Config, shapes: Mapping[str, Sequence[Shape]], progress: Progress) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Split and states of the next clips of it, up to `BATCH` at a time."""
    total, done = sum(map(len, shapes.values())), 0
    for split, clips in shapes.items():
        for start in range(0, len(clips), BATCH):
            batch = [simulate(config, split, index) for index in range(start, min(start + BATCH, len(clips)))]
            yield split, batch
            done += len(batch)
            progress(done, total, "simulating worlds")


def split_shapes(config: Config) -> dict[str, list[Shape]]:
    """Split -> the shape of each of its clips."""
    num_clips = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    return {split: [clip_shape(config, index) for index in range(num_clips[split])] for split in SPLITS}


def clip_shape(config: Config, index: int) -> Shape:
    """Shape (T, H, W) of clip `index` of any split.

    Dealt in turn, and one further each time that shapes and classes would meet in the same pairs again. So any run of
    clips has the shapes in nearly equal numbers, and 4 x len(shapes) clips have every shape with every class once.
    """
    if not config.shapes:
        return (config.num_frames, config.height, config.width)
    return config.shapes[(index + index // math.lcm(len(config.shapes), len(SHAPES))) % len(config.shapes)]


def clip_ids(split: str, num: int) -> tuple[str, ...]:
    """Names of a split's clips."""
    return tuple(f"{split}-{index:06d}" for index in range(num))


def boxes(states: Sequence[np.ndarray], shapes: Sequence[Shape]) -> np.ndarray:
    """States (T, objects, 10) of N clips of `shapes` -> x0, y0, x1, y1 in pixels of what is drawn: (N, longest T, objects, 4).

    A column c covers [c, c + 1), so the box of a shape that fills a frame is (0, 0, W, H). NaN behind a shorter clip's end.
    """
    return _padded([_extent(state) * min(shape[1:]) for state, shape in zip(states, shapes, strict=True)])


def _extent(state: np.ndarray) -> np.ndarray:
    """States (..., 10) -> x0, y0, x1, y1 (..., 4) in shorter sides: of a square's or triangle's corners, of a disc's circle."""
    x, y, angle, radius, shape = (state[..., STATE.index(name)] for name in ("x", "y", "angle", "radius", "shape"))
    box = np.stack([x - radius, y - radius, x + radius, y + radius], axis=-1)
    for name, num_sides in NUM_SIDES.items():
        turns = angle[..., None] + math.pi / 2 + math.pi * (2 * np.arange(num_sides) + 1) / num_sides  # between the sides' normals
        xs, ys = x[..., None] + radius[..., None] * np.cos(turns), y[..., None] + radius[..., None] * np.sin(turns)  # (..., corners)
        corners = np.stack([xs.min(axis=-1), ys.min(axis=-1), xs.max(axis=-1), ys.max(axis=-1)], axis=-1)
        box = np.where((shape == SHAPES.index(name))[..., None], corners, box)
    return box


def _padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays (T_i, ...) -> (N, longest T, ...), NaN behind the end of shorter ones."""
    padded = np.full((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), np.nan)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def clip_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The clip's own generator: splits and clips share nothing, and no clip depends on how many there are."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(f"{seed}/{split}/{index}".encode(), digest_size=16).digest()))


def simulate(config: Config, split: str, index: int) -> np.ndarray:
    """State of every object in every frame: (T, objects, 10) float64, the columns of STATE; NaN of an object that is not there."""
    rng = clip_rng(config.seed, split, index)
    if config.captions is None:
        return _simulated_once(config, rng, index, config.num_objects, None)
    number, unseen = int(rng.integers(1, config.num_objects + 1)), held_out(config.seed, config.unseen)
    seen = not (config.unseen and is_unseen(split, index))
    among = combinations(SHAPES[index % len(SHAPES)], unseen, seen=seen)
    told = among[int(rng.integers(len(among)))]
    for _ in range(TRIES):
        state = _simulated_once(config, rng, index, number, told)
        if not turns(state, steady(len(state)) + 1):  # so that pixels show which way it starts
            missing = np.full((len(state), config.num_objects - number, len(STATE)), np.nan)
            return np.concatenate([state, missing], axis=1)
    raise Refusal(
        f"speed = {config.speed} at fps = {config.fps} and radius = {config.radius} leave no way to go for half of a clip, which captions "
        "need; use lower speeds, more frames a second or smaller objects"
    )


def _simulated_once(config: Config, rng: np.random.Generator, index: int, num_objects: int, told: Combination | None) -> np.ndarray:
    """State (T, num_objects, 10) from one draw of everything but what is `told` of the first object."""
    num_frames, *size = clip_shape(config, index)
    height, width = (side / min(size) for side in size)
    space = pymunk.Space()
    space.gravity = (0.0, config.gravity)
    space.damping = 1 - config.damping  # pymunk names the share that is kept
    space.iterations = 30
    space.collision_slop = 1e-4  # pymunk's 0.1 is meant for pixels
    thick = 2.0  # of four elastic walls `margin` inside the frame's edges: nothing passes through between two steps
    near, right, bottom = config.margin - thick, width - config.margin + thick, height - config.margin + thick
    corners = [(near, near), (right, near), (right, bottom), (near, bottom)]
    for k in range(4):
        wall = pymunk.Segment(space.static_body, corners[k - 1], corners[k], thick)
        wall.elasticity, wall.friction = 1.0, 0.0
        space.add(wall)
    bodies: list[pymunk.Body] = []
    constants = []  # radius, hue, shape, mass of each
    colours = _colours(rng, told)
    for radius, (x, y) in _placed(config, rng, width, height, num_objects):
        shape = index % len(SHAPES) if not bodies else int(rng.integers(len(SHAPES)))  # classes in equal numbers
        mass = math.pi * radius**2
        body = pymunk.Body(mass, mass * radius**2 / 2)
        disc = pymunk.Circle(body, radius)
        disc.elasticity, disc.friction = 1.0, 0.0
        direction, speed = rng.uniform(-config.tilt, config.tilt), rng.uniform(*config.speed)
        if told is not None:  # `tilt` is of the turns of what is drawn alone
            word = told[2] if not bodies else list(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
            direction = DIRECTIONS[word] + rng.uniform(-ANGLE_SLACK, ANGLE_SLACK)
        body.position, body.velocity = (x, y), (speed * math.cos(direction), speed * math.sin(direction))
        body.angle, body.angular_velocity = rng.uniform(-config.tilt, config.tilt), rng.uniform(-config.spin, config.spin)
        space.add(body, disc)
        hue = rng.uniform() if told is None else (colours[len(bodies)] / len(COLOURS) + rng.uniform(-HUE_SLACK, HUE_SLACK)) % 1
        bodies.append(body)
        constants.append((radius, hue, shape, mass))
    state = np.empty((num_frames, len(bodies), len(STATE)))
    for frame in range(num_frames):
        for _ in range(config.num_substeps if frame else 0):
            space.step(1 / config.fps / config.num_substeps)
        state[frame] = [(*b.position, *b.velocity, b.angle, b.angular_velocity, *c) for b, c in zip(bodies, constants, strict=True)]
    return state


def _colours(rng: np.random.Generator, told: Combination | None) -> list[int]:
    """Places in COLOURS: the first object's as told, then every other one in a drawn order, so that no two objects share a name."""
    if told is None:
        return []
    own = COLOURS.index(told[0])
    return [own, *(other for other in rng.permutation(len(COLOURS)).tolist() if other != own)]


def _placed(
    config: Config, rng: np.random.Generator, width: float, height: float, num_objects: int
) -> Iterator[tuple[float, tuple[float, float]]]:
    """Radius and centre of each object, inside the frame's margin and apart. Starts over when the last ones find no room."""
    for _ in range(TRIES):
        discs: list[tuple[float, tuple[float, float]]] = []
        for _ in range(20 * num_objects):
            radius = rng.uniform(*config.radius)
            near = radius + config.margin
            ranges = [(near, width - near), (near, height - near)]
            if config.placement == "edges" and not discs:
                axis = int(rng.integers(2)) if width == height else int(height > width)
                ends = (near, max(width, height) / 3), (max(width, height) * 2 / 3, max(width, height) - near)
                ranges[axis] = ends[rng.integers(2)]
            x, y = (rng.uniform(*bounds) for bounds in ranges)
            if all(math.hypot(x - other[0], y - other[1]) > radius + reach for reach, other in discs):
                discs.append((radius, (x, y)))
            if len(discs) == num_objects:
                yield from discs
                return
    raise Refusal(f"num_objects = {config.num_objects} of radius {config.radius} found no room; use fewer or smaller ones")
