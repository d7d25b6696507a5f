"""Worlds with exact laws: rigid bodies and a liquid, whose state is known in every frame, inside and outside what is trained on.

Clips to train and to validate on are drawn inside the trained ranges; test clips from the region that is asked for.
"""

import functools
import importlib.metadata
import math
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic

from bench.data.clips import SPLITS, ClipSet, open_frames, save_clips
from bench.data.frozen import Seed
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


class Config(SourceConfig):
    """A world, where its clips start, and how many there are."""

    source: Literal["physics"] = "physics"
    world: str  # a physics world; `ls` lists them
    num_train: Annotated[int, pydantic.Field(ge=1, le=MOST_CLIPS)]  # clips in the training split
    region: Region = "in"  # that test clips start in: inside the trained ranges, outside, or in combinations that training never has
    trained: dict[str, Range] = pydantic.Field(default_factory=dict)  # parameter -> range to train on, in the place of the world's own
    beyond: dict[str, tuple[Range, ...]] = pydantic.Field(default_factory=dict)  # parameter -> ranges of region out, likewise
    fps: Annotated[float, pydantic.Field(gt=0, le=1000)] | None = None  # frames per second; None: the world's own
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

    def tested(self, region: Region, num_clips: int) -> Self:
        """The same world with `num_clips` test clips from a region, and as few others as can be."""
        return self.changed(region=region, num_train=1, num_val=1, num_test=num_clips)


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
    with _filming(WORLDS.find(config.world)) as film_all:
        for split in SPLITS:
            truth: list[Mapping[str, np.ndarray]] = []
            for index, film in enumerate(film_all(config, [scene(config, split, index) for index in range(num_clips[split])])):
                frames[split][index] = film.frames
                truth.append(film.truth)
                done += 1
                progress(done, sum(num_clips.values()), f"filming {config.world}")
            stacked = {name: np.stack([own[name] for own in truth]) for name in truth[0]}
            ids = tuple(f"{split}-{config.region}-{index:06d}" for index in range(num_clips[split]))
            splits[split] = ClipSet(frames[split], np.zeros(num_clips[split], np.int64), ids, stacked)
    save_clips(folder, splits, label_names=labels(config), fps=config.fps or WORLDS.find(config.world).fps)


def scene(config: Config, split: str, index: int) -> Scene:
    """What clip `index` of a split shows."""
    world, region = WORLDS.find(config.world), config.region if split == "test" else "in"
    rng = np.random.default_rng([stream_seed(config.seed, f"{split} {region} {half}", index) for half in (0, 1)])
    start = config.regions().draw(region, rng)
    return Scene(start=start, seed=int(rng.integers(2**62)), shape=config.shape, fps=config.fps or world.fps)


@contextmanager
def _filming(world: World) -> Iterator[Any]:
    """`film_all(config, scenes)`: the films of scenes in their order, made by several processes where a world takes long."""
    num = min(os.cpu_count() or 1, 16) if world.spread else 1
    if num == 1:
        yield lambda config, scenes: (film(config, one) for one in scenes)
        return
    with ProcessPoolExecutor(num, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda config, scenes: pool.map(functools.partial(film, config), scenes, chunksize=CHUNK)


def film(config: Config, what: Scene) -> Film:
    """A valid clip, and in its truth how far from the trained ranges it starts."""
    found = WORLDS.find(config.world).film(what)
    assert found is not None  # no law is broken
    outside = np.full((config.num_frames, 1), config.regions().distance(what.start))
    return Film(frames=found.frames, truth={**found.truth, OUTSIDE: outside})
