"""Tar shards as webdataset lays them out, read in place: one clip a sample, from its middle, whatever holds its frames.

Of a sample the clip is its video (.mp4, .webm, ...), its array (.npy, .npz), its frames (.000.png, .001.png, ...) or its image, the first
of these that it has; its class is the number in .cls, or the `label` of .json.

A sample's split is read off a hash of its content, or of its shard's: it does not change with the other samples, nor with how many clips
are asked for, and a copy is where its original is. Samples are looked at twice, shard by shard, and never listed.
"""

import hashlib
import heapq
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, Self

import av
import numpy as np
import pydantic

from bench.data.clips import SPLITS, ClipSet, Skipped, open_frames, save_clips
from bench.data.files import at_home
from bench.data.frozen import Count, Grown
from bench.data.media.captions import MOST_SHOWN, check_captions
from bench.data.media.inventory import look_through, unusable
from bench.data.media.sample_clip import Medium, caption_of, label_of, medium_of
from bench.data.media.tar import read_samples
from bench.data.progress import Progress
from bench.data.source import MOST_CLIPS, SourceConfig, digest_of
from bench.shapes import Refusal, Shape

READER_VERSION = 1  # bump when the same shards give other clips
MOST_NAMED = 1000  # samples that give no clip; others are counted
MOST_RATES = 10_000  # that a median is taken of
EDGE_BYTES = 2**16  # of each end of a shard, by which it is known: hashing all of terabytes at every start would take hours


class Config(Grown, SourceConfig):
    """Tar shards and which of their samples are held out."""

    added = ("captions", "caption_column")

    source: Literal["webdataset"] = "webdataset"
    path: str  # a folder, or a pattern such as "clips/train-{000..127}.tar" or "clips/*.tar"; not part of the content's identity
    frame_stride: Count = 1  # frames of a sample from one frame of its clip to the next
    num_train: Annotated[int, pydantic.Field(ge=1, le=MOST_CLIPS)] | None = None  # clips to train on, the first ones; None: all there are
    num_classes: Annotated[int, pydantic.Field(ge=0, le=10**6)] = 0  # classes are 0 ... num_classes - 1, by .cls or .json; 0: no classes
    split_by: Literal["sample", "shard"] = "sample"  # shard: where samples of one shard show one scene
    held_out: Annotated[float, pydantic.Field(gt=0, lt=0.5)] = 0.1  # share of samples, or shards, kept for val, and as much for test
    captions: Literal["txt", "json"] | None = None  # the part of a sample that has its caption: .txt, or .json
    caption_column: str = "text"  # the key of .json

    @property
    def shape(self) -> Shape:
        """(T, H, W) of a clip."""
        return (self.num_frames, self.height, self.width)

    def at(self, shape: Shape, num_clips: int) -> Self:
        """Clips of another shape from the same held-out samples. One to train on: nobody does."""
        return super().at(shape, num_clips).changed(num_train=1)


def digest(config: Config) -> str:
    """Names, sizes and ends of the shards, what is done with them, and the decoder."""
    shards = {name: _identity(path) for name, path in find_shards(config)[0].items()}
    return digest_of(READER_VERSION, av.__version__, config.identity(added=("captions", "caption_column"), place=("path",)), shards)


def labels(config: Config) -> tuple[str, ...]:
    """The numbers of the classes."""
    return tuple(map(str, range(config.num_classes)))


def find_shards(config: Config) -> tuple[dict[str, Path], list[Skipped]]:
    """Name -> path of every shard, in the order of names, and files that are none. Refusal where there is none, or one is missing."""
    place = at_home(Path(config.path))
    if place.is_dir():
        files, left_out = look_through(place)
        shards = {name: path for name, path in files.items() if path.suffix.lower() == ".tar"}
        packed = [name for name in files if re.search(r"\.(tgz|tar\.\w+)$", name, re.IGNORECASE)]
        left_out += [Skipped(name, "is compressed; unpack it to .tar") for name in packed]
    else:
        shards, left_out = _matching(str(place)), []
    if not shards:
        raise Refusal(f"path = {config.path}: no .tar there; name a folder with shards, or a pattern such as clips/train-{{000..127}}.tar")
    return shards, left_out


def _matching(pattern: str) -> dict[str, Path]:
    paths: list[Path] = []
    for one in map(Path, expand_braces(pattern)):
        base = Path(one.anchor)
        for path in sorted(base.glob(str(one.relative_to(base)))) if re.search(r"[*?[]", str(one)) else [one]:
            if reason := "is not there" if not os.path.lexists(path) else "is a folder" if path.is_dir() else unusable(path):
                raise Refusal(f"path = {pattern}: {path} {reason}")
            paths.append(path)
    root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return dict(sorted((path.relative_to(root).as_posix(), path) for path in paths))


def expand_braces(pattern: str) -> Iterator[str]:
    """'a{00..02}{x,y}' -> 'a00x', 'a00y', ... 'a02y', as a shell does it; numbers keep the zeros before the first.

    >>> list(expand_braces("s-{08..10}.tar"))
    ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        yield pattern
        return
    first, last, words = found.groups()
    inner = words.split(",") if words is not None else (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    for word in inner:
        for rest in expand_braces(pattern[found.end() :]):
            yield pattern[: found.start()] + word + rest


def _identity(path: Path) -> list[int | str]:
    """Size of a shard and a hash of its two ends; why it cannot be read, where it cannot."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            ends = []
            for start in (0, max(0, size - EDGE_BYTES)):
                file.seek(start)
                ends.append(file.read(EDGE_BYTES))
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]
    return [size, _hash(*ends)]


def _hash(*parts: bytes) -> str:
    """32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


@dataclass
class _Chosen:
    """The held-out samples of a split: of all that can be read, those of the smallest hashes."""

    most: int
    heap: list[tuple[int, str]] = field(default_factory=list)  # minus the hash; the clip's name
    named: dict[str, str] = field(default_factory=dict)  # hash -> name, of those in the heap
    num_seen: int = 0  # that can be read, or would not have been taken

    def may_take(self, content: str) -> bool:
        """Whether a sample is wanted, if it can be read. Refusal for a copy of one that is there."""
        if content in self.named:
            raise Refusal(f"has the same content as {self.named[content]}")
        return len(self.heap) < self.most or int(content, 16) < -self.heap[0][0]

    def take(self, content: str, name: str) -> None:
        heapq.heappush(self.heap, (-int(content, 16), name))
        self.named[content] = name
        if len(self.heap) > self.most:
            del self.named[f"{-heapq.heappop(self.heap)[0]:032x}"]


@dataclass(frozen=True, kw_only=True)
class _Usable:
    """A sample that has a clip."""

    name: str  # of the clip
    split: str
    medium: Medium
    label: int
    caption: str  # "" where it has none, or none is asked for
    content: str  # a hash


@dataclass
class _Pass:
    """One reading of all shards: usable samples in their order, others into the lists of what is left out."""

    config: Config
    shards: dict[str, Path]
    progress: Progress
    skipped: list[Skipped] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def samples(self, what: str) -> Iterator[_Usable]:
        """Each usable sample."""
        for done, (shard, path) in enumerate(self.shards.items()):
            self.progress(done, len(self.shards), what)
            of_shard = _hash(json.dumps(_identity(path)).encode())
            for sample in read_samples(path):
                if isinstance(sample, Skipped):
                    self.skip(sample.name if sample.name == path.name else f"{shard}/{sample.name}", sample.reason)
                    continue
                name = f"{shard}/{sample.key}"
                try:
                    medium = medium_of(sample)
                    label = label_of(sample, self.config.num_classes)
                    caption = caption_of(sample, self.config.captions, self.config.caption_column) if self.config.captions else ""
                except Refusal as error:
                    self.skip(name, str(error))
                    continue
                content = _hash(*medium.contents)
                split = self._split(of_shard if self.config.split_by == "shard" else content)
                yield _Usable(name=name, split=split, medium=medium, label=label, caption=caption, content=content)
        self.progress(len(self.shards), len(self.shards), what)

    def _split(self, content: str) -> str:
        share = int(content[:16], 16) / 2**64
        return "test" if share < self.config.held_out else "val" if share < 2 * self.config.held_out else "train"

    def skip(self, name: str, reason: str) -> None:
        if len(self.skipped) < MOST_NAMED:
            self.skipped.append(Skipped(name, reason))
        else:
            self.lost["samples that give no clip, beyond those named"] += 1


def write(config: Config, folder: Path, progress: Progress) -> None:
    """Reads all shards twice: which samples are held out, and which of them can be; then every clip."""
    shards, left_out = find_shards(config)
    found = _Pass(config, shards, progress, skipped=list(left_out))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        num_train, chosen = _choose(found, Path(scratch))
        splits, fps = _read(found, num_train, chosen, folder, Path(scratch))
    lost = {f"{split} samples beyond num_{split}": held.num_seen - held.most for split, held in chosen.items()}
    save_clips(
        folder,
        splits,
        label_names=labels(config),
        fps=fps,
        skipped=tuple(found.skipped),
        lost={reason: count for reason, count in (lost | found.lost).items() if count},
        notes=(f"{len(shards)} tar shards split by {config.split_by}, one clip from the middle of each sample, centre crop",),
    )


def _choose(found: _Pass, scratch: Path) -> tuple[int, dict[str, _Chosen]]:
    """How many samples there are to train on, and those that are held out, each of which has been read. Refusal where there are too few."""
    config, num_train = found.config, 0
    chosen = {"val": _Chosen(config.num_val), "test": _Chosen(config.num_test)}
    num_seen, num_untold, untold = 0, 0, []
    for usable in found.samples("choosing held-out samples"):
        name, split, medium, content = usable.name, usable.split, usable.medium, usable.content
        num_seen += 1
        if config.captions and not usable.caption:
            num_untold += 1
            untold += [name] if num_untold <= MOST_SHOWN else []
        if split == "train":
            num_train += 1
            continue
        try:
            if chosen[split].may_take(content):
                medium.clip(scratch, config.shape, config.frame_stride)
                chosen[split].take(content, name)
            chosen[split].num_seen += 1
        except Refusal as error:
            found.skip(name, str(error))
    check_captions(config.path, untold, num_untold, num_seen)
    have = {split: len(held.heap) for split, held in chosen.items()}
    if not num_train or have["val"] < config.num_val or have["test"] < config.num_test:
        raise Refusal(
            f"{config.path}: split by {config.split_by}, with data.held_out {config.held_out}, there are {num_train} samples to train on, "
            f"{have['val']} of num_val = {config.num_val} and {have['test']} of num_test = {config.num_test} that can be read; "
            "ask for fewer, change held_out or add shards"
        )
    return num_train, chosen


def _read(found: _Pass, num_train: int, chosen: dict[str, _Chosen], folder: Path, scratch: Path) -> tuple[dict[str, ClipSet], float]:
    """The clips of every split, those to train on in the order of the shards, and the median of their frames per second."""
    config = found.config
    most = {"train": min(num_train, config.num_train or num_train), "val": config.num_val, "test": config.num_test}
    rows = {name: row for held in chosen.values() for row, (_, name) in enumerate(sorted(held.heap, reverse=True))}
    copies = set(chain.from_iterable(held.named for held in chosen.values()))
    frames = open_frames(folder, most, config.shape)
    label_ids = {split: np.zeros(num, np.int64) for split, num in most.items()}
    ids: dict[str, list[str]] = {"train": [], "val": [""] * config.num_val, "test": [""] * config.num_test}
    rates: list[float] = []
    captions = {split: [""] * num for split, num in most.items()}
    for usable in _Pass(config, found.shards, found.progress).samples("reading samples"):
        name, split, medium, content = usable.name, usable.split, usable.medium, usable.content
        row = len(ids["train"]) if split == "train" else rows.get(name, most[split])
        if row == most[split]:
            continue
        if split == "train" and content in copies:  # in another shard than its original
            found.skip(name, "has the same content as a clip that is held out")
            continue
        try:
            frames[split][row], fps = medium.clip(scratch, config.shape, config.frame_stride)
        except Refusal as error:
            if split != "train":
                raise Refusal(f"{config.path}: {name} was read once and fails now: {error}") from error
            found.skip(name, str(error))
            continue
        label_ids[split][row], captions[split][row] = usable.label, usable.caption
        ids[split][row : row + 1] = [name]
        rates += [fps] if len(rates) < MOST_RATES else []
    if not ids["train"]:
        first = found.skipped[0]
        raise Refusal(f"{config.path}: no sample that is left to train on can be read; the first: {first.name} {first.reason}")
    told = {split: tuple(captions[split]) if config.captions else None for split in SPLITS}
    splits = {split: ClipSet(frames[split], label_ids[split], tuple(ids[split]), captions=told[split]) for split in SPLITS}
    return splits, float(np.median(rates))
