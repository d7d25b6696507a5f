"""Worlds with exact laws: rigid bodies and a liquid, whose state is known in every frame, inside and outside what is trained on.

Clips to train and to validate on are drawn inside the trained ranges; test clips from the region that is asked for.
"""

import functools
import importlib.metadata
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic

from bench.data.clips import SPLITS, ClipSet, open_frames, save_clips
from bench.data.frozen import Count, Seed
from bench.data.physics.regions import Region, Regions
from bench.data.physics.table import WORLDS
from bench.data.physics.world import Film, Range, Scene, World
from bench.data.progress import Progress
from bench.data.seeds import stream_seed
from bench.data.source import MOST_CLIPS, SourceConfig, digest_of
from bench.shapes import Refusal, did_you_mean

GENERATOR_VERSION = 1  # bump when the starts of the same config change
OUTSIDE = "outside"  # in a clip's truth (T, 1): how far its start is from all that is trained on, in widths of the trained ranges
CHUNK = 8  # clips that a process films at once
MOST_PROCESSES = 16
MOST_TRIED = 20  # clips for each pair that is asked for


class Config(SourceConfig):
    """A world, where its clips start, and how many there are."""

    source: Literal["physics"] = "physics"
    world: str  # a physics world; `ls` lists them
    num_train: Annotated[int, pydantic.Field(ge=1, le=MOST_CLIPS)]  # clips in the training split
    region: Region = "in"  # that test clips start in: inside the trained ranges, outside, or in combinations that training never has
    trained: dict[str, Range] = pydantic.Field(default_factory=dict)  # parameter -> range to train on, in the place of the world's own
    beyond: dict[str, tuple[Range, ...]] = pydantic.Field(default_factory=dict)  # parameter -> ranges of region out, likewise
    moved: float = pydantic.Field(0.0, gt=-1, lt=1)  # share by which every parameter of a test clip's start is moved: how far chaos goes
    broken: str = ""  # law, a twin of the world: then test clips are pairs, a valid one and behind it its twin that breaks the law
    known: Count = 1  # first frames that the two of a pair share
    fps: Annotated[float, pydantic.Field(gt=0, le=1000)] | None = None  # frames per second; null: the world's own
    seed: Seed = 0  # of the worlds, not of a run: all runs share the data

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        world = WORLDS.find(self.world)
        known = [parameter.name for parameter in world.parameters]
        for field, given in (("trained", self.trained), ("beyond", self.beyond)):
            if odd := sorted(given.keys() - set(known)):
                near = did_you_mean(odd[0], known)
                raise Refusal(f"{field} has {odd[0]!r}, which world {world.name!r} has not{near}; it has {', '.join(known)}")
        ranges = self.ranges()
        for name, every in ranges.items():
            for low, high in every:
                if not (math.isfinite(low) and math.isfinite(high) and low < high):
                    raise Refusal(f"{name}: ({low:g}, {high:g}) is (smallest, largest), so the first must be below the second")
            inside = every[0]
            if over := [other for other in every[1:] if other[0] < inside[1] and inside[0] < other[1]]:
                raise Refusal(f"beyond: {name} {over[0]} overlaps its trained range {inside}; keep them apart")
        if self.region == "out" and all(len(every) == 1 for every in ranges.values()):
            raise Refusal(f"region 'out' of world {world.name!r} has no range; give one, such as beyond={{{known[0]}: [[a, b]]}}")
        if self.broken and self.broken not in world.twins:
            raise Refusal(
                f"broken {self.broken!r} is no law of world {world.name!r}{did_you_mean(self.broken, list(world.twins))}; "
                f"there are {', '.join(world.twins)}"
            )
        if self.broken and (self.num_test % 2 or self.known >= self.num_frames):
            raise Refusal(f"broken: pairs need an even num_test, got {self.num_test}, and known below num_frames, got {self.known}")
        world.check(ranges, self.shape, self.fps or world.fps)
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, H, W) of every clip."""
        return (self.num_frames, self.height, self.width)

    def ranges(self) -> dict[str, tuple[Range, ...]]:
        """Parameter -> its trained range, then those beyond."""
        own = WORLDS.find(self.world).parameters
        return {each.name: (self.trained.get(each.name, each.trained), *self.beyond.get(each.name, each.beyond)) for each in own}

    def regions(self) -> Regions:
        """Where its clips start."""
        ranges = self.ranges()
        return Regions(
            WORLDS.find(self.world), {name: every[0] for name, every in ranges.items()}, {n: every[1:] for n, every in ranges.items()}
        )

    def tested(self, region: Region, num_clips: int, moved: float = 0.0) -> Self:
        """The same world with `num_clips` test clips from a region, and as few others as can be."""
        return self.changed(region=region, num_train=1, num_val=1, num_test=num_clips, moved=moved)

    def paired(self, law: str, num_pairs: int, known: int) -> Self:
        """The same world with pairs of test clips, valid and breaking a law after the known frames, and as few others as can be."""
        return self.changed(num_train=1, num_val=1, num_test=2 * num_pairs, broken=law, known=known)


def digest(config: Config) -> str:
    """The config, the world and what it is made with: nothing else determines a clip."""
    world = WORLDS.find(config.world)
    versions = {name: importlib.metadata.version(name) for name in world.made_with}
    return digest_of(GENERATOR_VERSION, world.settings(), versions, config.identity(), {n: list(r) for n, r in config.ranges().items()})


def labels(config: Config) -> tuple[str, ...]:
    """None: what differs from clip to clip are numbers."""
    return ()


def write(config: Config, folder: Path, progress: Progress) -> None:
    """All splits. Clip k of a split is the same whatever the number of clips."""
    num_clips = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    frames, splits, done = open_frames(folder, num_clips, config.shape), {}, 0
    with _mapping(WORLDS.find(config.world)) as spread:
        for split in SPLITS:
            truth: list[Mapping[str, np.ndarray]] = []
            made = _pairs(config, spread) if config.broken and split == "test" else spread(_clip, config, split, range(num_clips[split]))
            for index, film in enumerate(made):
                frames[split][index] = film.frames
                truth.append(film.truth)
                done += 1
                progress(done, sum(num_clips.values()), f"filming {config.world}")
            stacked = {name: np.stack([own[name] for own in truth]) for name in truth[0]}
            region = config.region if split == "test" else "in"
            ids = tuple(f"{split}-{region}-{index:06d}" for index in range(num_clips[split]))
            splits[split] = ClipSet(frames[split], np.zeros(num_clips[split], np.int64), ids, stacked)
    save_clips(folder, splits, label_names=labels(config), fps=config.fps or WORLDS.find(config.world).fps)


def scene(config: Config, split: str, index: int) -> Scene:
    """What clip `index` of a split shows."""
    world, region = WORLDS.find(config.world), config.region if split == "test" else "in"
    rng = np.random.default_rng([stream_seed(config.seed, f"{split} {region} {half}", index) for half in (0, 1)])
    start, seed = config.regions().draw(region, rng), int(rng.integers(2**62))
    if split == "test":
        start = {name: value * (1 + config.moved) for name, value in start.items()}
    return Scene(start=start, seed=seed, shape=config.shape, fps=config.fps or world.fps)


Spread = Callable[..., Iterator[Any]]  # (function, config, split, indices) -> function(config, split, index) of each, in their order


@contextmanager
def _mapping(world: World) -> Iterator[Spread]:
    """Several processes where a clip of the world takes long, or else this one."""
    num = min(os.cpu_count() or 1, MOST_PROCESSES) if world.spread else 1
    if num == 1:
        yield lambda function, config, split, indices: (function(config, split, index) for index in indices)
        return
    with ProcessPoolExecutor(num, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, config, split, indices: pool.map(functools.partial(function, config, split), indices, chunksize=CHUNK)


def _clip(config: Config, split: str, index: int) -> Film:
    """A valid clip."""
    found = film(config, scene(config, split, index))
    assert found is not None  # no law is broken
    return found


def film(config: Config, what: Scene) -> Film | None:
    """What a scene shows, and in its truth how far from the trained ranges it starts; None of a law that nothing in it obeys."""
    found = WORLDS.find(config.world).film(what)
    outside = np.full((config.num_frames, 1), config.regions().distance(what.start))
    return None if found is None else Film(frames=found.frames, truth={**found.truth, OUTSIDE: outside})


def _pair(config: Config, split: str, index: int) -> tuple[Film, Film] | None:
    """A valid clip and its twin; None where nothing in it obeys the law that is to be broken."""
    valid = scene(config, split, index)
    twin = film(config, replace(valid, altered=config.broken, known=config.known))
    found = film(config, replace(valid, known=config.known))
    return None if twin is None or found is None else (found, twin)


def _pairs(config: Config, spread: Spread) -> Iterator[Film]:
    """The first pairs that there are, clip after clip. Refusal where nearly no clip has one."""
    num_pairs, num_found, tried = config.num_test // 2, 0, 0
    while num_found < num_pairs and tried < MOST_TRIED * num_pairs:
        for pair in spread(_pair, config, "test", range(tried, tried + num_pairs)):
            if pair is not None and num_found < num_pairs:
                num_found += 1
                yield from pair
        tried += num_pairs
    if num_found < num_pairs:
        raise Refusal(
            f"broken {config.broken!r}: of {tried} clips of world {config.world!r} {num_found} obey that law after {config.known} known "
            f"frames, {num_pairs} were asked for; use longer clips, fewer known frames or another law"
        )
