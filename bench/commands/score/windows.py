"""Which frames of which items become the clips of a set, and those clips as one array.

A rule says in which order items are taken, where clips are cut and how a frame reaches its size; `read_set` follows it
until it has enough. Knows no network and no metric.

What was read is remembered: a second reading of the same files opens none of them until frames are needed. A file `set-<key>.json` in the
cache folder holds everything of a `ReadSet` but its frames. The key is the list of items, the rule and the number of clips. Before the file
is believed, its own hash is compared, and the content of every item that was opened is hashed again.
"""

import contextlib
import functools
import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import av
import numpy as np
import PIL
import psutil
from PIL import Image
from pydantic import Field

from bench.commands.score.collection import READER_VERSION, Collection, CollectionItem, Opened
from bench.data.clips import Skipped
from bench.data.files import StoreError, remove_leftovers
from bench.data.frozen import Frozen
from bench.data.progress import Progress
from bench.data.sealed import read_sealed, write_sealed
from bench.data.source import digest_of
from bench.shapes import Refusal, Shape, cover_box, did_you_mean, visible

ANOTHER_CACHE = "free space or choose another folder with --cache"
STARTS = ("random", "first", "disjoint")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a set of clips is made of a collection: `key` and the fields in `told` are all that decides it."""

    key: ClassVar[str]
    told: ClassVar[tuple[str, ...]]
    num_frames: int
    stride: int = 1  # frames of the item from one frame of a clip to the next
    size: tuple[int, int] | None = None  # height and width the frames are scaled and cropped to; None = as stored
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """All that decides the clips, as plain data."""
        return {"rule": self.key} | {name: getattr(self, name) for name in self.told}

    def draws(self, items: Sequence[CollectionItem]) -> Iterator[tuple[CollectionItem, int]]:
        """(item, turn) in the order of taking; an item may come again in a later turn."""
        raise NotImplementedError

    def windows(self, item: CollectionItem, turn: int, num_frames: int) -> list[range]:
        """Frame indices of the clips of an item of `num_frames`. Refusal(reason) where it gives none."""
        raise NotImplementedError

    def fit(self, item: CollectionItem, frames: np.ndarray) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 as stored -> as the metric sees them."""
        return frames if self.size is None else np.stack([cover(frame, *self.size) for frame in frames])


def fraction(seed: int, stream: str, name: str) -> float:
    """A number in [0, 1) that belongs to (seed, stream, name), whatever else is in the set."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


@dataclass(frozen=True, kw_only=True)
class SeededCut(Rule):
    """The rule of `score`: each item once, in an order drawn by seed and name, cut into clips of `num_frames`.

    Start "random": one clip an item, its start uniform over all that fit, drawn by seed and name. "first": one clip, from the first
    frame. "disjoint": every clip that fits, one after the other. Names decide, so adding an item moves no other.
    """

    key, told = "seeded-cut/1", ("num_frames", "stride", "start", "size", "seed")
    start: str = "random"  # of STARTS

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise Refusal(f"unknown --start {self.start!r}{did_you_mean(self.start, list(STARTS))}; there are {', '.join(STARTS)}")
        for option, number in (("--num-frames", self.num_frames), ("--stride", self.stride)):
            if number < 1:
                raise Refusal(f"{option} must be at least 1, got {number}")

    @property
    def span(self) -> int:
        """Frames of an item that one clip covers."""
        return (self.num_frames - 1) * self.stride + 1

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"size": f"cover {self.size[0]}x{self.size[1]}, bicubic, centre crop" if self.size else "as stored"}

    def draws(self, items: Sequence[CollectionItem]) -> Iterator[tuple[CollectionItem, int]]:
        for item in sorted(items, key=lambda item: fraction(self.seed, "order", item.name)):
            yield item, 0

    def windows(self, item: CollectionItem, turn: int, num_frames: int) -> list[range]:
        spare = num_frames - self.span
        if spare < 0:
            stride = f" at stride {self.stride}" if self.stride > 1 else ""
            raise Refusal(f"has {num_frames} frames, a clip of {self.num_frames}{stride} needs {self.span}")
        if self.start == "first":
            starts = [0]
        elif self.start == "random":
            starts = [int(fraction(self.seed, "start", item.name) * (spare + 1))]
        else:
            starts = list(range(0, spare + 1, self.span))
        return [range(start, start + self.span, self.stride) for start in starts]


def cover(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3): scaled by Pillow's antialiased bicubic filter until it covers, cropped around the centre."""
    box = cover_box(frame.shape[0], frame.shape[1], height, width)
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.BICUBIC, box=box))


class ReadSet(Frozen):
    """The clips of one set. `rows` are the clips as they count: row r is frames[rows[r]]; a rule of ours takes none twice."""

    frames: Any = Field(default=None, exclude=True)  # (unique clips, T, H, W, 3) uint8, in a file
    shape: Shape  # (T, H, W) of each clip, as the metric sees it
    rows: tuple[int, ...]
    names: tuple[str, ...]  # of the unique clips: item and first frame
    labels: tuple[str | None, ...]
    shapes: tuple[Shape, ...]  # (T, H, W) of each clip's item, as it came
    fps: tuple[float | None, ...]  # of each clip's item
    content: dict[str, str]  # item that was opened -> hash of its files
    skipped: tuple[Skipped, ...]  # items that gave nothing, or not all, in the order of trying
    num_untried: int  # items never opened, because there were enough
    num_copies: int  # clips whose frames are those of an earlier one
    digest: str  # identity of the content and of all that made it

    def __len__(self) -> int:
        return len(self.rows)

    def clip_list(self, num: int) -> list[str]:
        """What identifies the first `num` clips, in order."""
        return [self.digest, *(self.names[row] for row in self.rows[:num])]


def read_set(collection: Collection, rule: Rule, limit: int | None, progress: Progress, folder: Path) -> ReadSet:
    """The first `limit` clips (None: all) that `rule` takes from `collection`; frames lie in a file in `folder` without a name.

    Refusal where nothing could be read, or where frames are of several sizes and the rule keeps them.
    """
    # A memory map of the file outlives it. What its disk says is not said of an item: those are heard while they are read.
    with _of_cache(folder), tempfile.TemporaryFile(dir=folder) as file:
        taking = _Taking(rule, file)
        taking.take_all(collection, limit, progress)
        if not taking.rows:
            num, first = len(taking.skipped), taking.skipped[0]
            raise Refusal(f"no clip could be read from {collection.path}: {num} tried, the first: {first.name} {first.reason}")
        if len(taking.sizes) > 1:
            sizes = ", ".join(f"{height}x{width} ({num})" for (height, width), num in taking.sizes.most_common(8))
            raise Refusal(
                f"{collection.path} has clips of {len(taking.sizes)} sizes: {sizes}; choose one with --size, such as --size 64x64"
            )
        return taking.finish(collection)


@contextlib.contextmanager
def _of_cache(folder: Path) -> Iterator[None]:
    """Inside, an OSError is the cache's. StoreError that says so."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StoreError(f"the cache {folder} cannot hold the clips: {error.strerror or error}; free space or choose another") from error


class _Taking:
    """What has been read so far."""

    def __init__(self, rule: Rule, file: IO[bytes]):
        self.rule, self.file = rule, file
        self.shape: tuple[int, ...] = ()
        self.rows: list[int] = []
        self.seen: dict[tuple[str, int], int] = {}  # (item, first frame) -> unique clip
        self.pixels: Counter[bytes] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()  # of clips after fitting
        self.opened: dict[str, Opened] = {}
        self.content: dict[str, str] = {}
        self.skipped: list[Skipped] = []
        self.clips: list[tuple[str, str | None, Shape, float | None]] = []  # unique ones: name, label, shape and rate of the item

    def take_all(self, collection: Collection, limit: int | None, progress: Progress) -> None:
        """Items as the rule draws them, until there are `limit` clips or nothing more to come."""
        what, num_items = f"reading {visible(collection.path.name)}", len(collection.items)
        total = min(limit or num_items, num_items)
        since_last = 0  # draws without a clip: after all items in vain there is nothing more to come
        for item, turn in self.rule.draws(collection.items):
            num_before = len(self.rows)
            if num_before == limit or since_last == num_items:
                break
            progress(min(num_before, total), total, what)
            self.take(item, turn, limit)
            since_last = 0 if len(self.rows) > num_before else since_last + 1
        progress(total, total, what)

    def take(self, item: CollectionItem, turn: int, limit: int | None) -> None:
        """Clips of one item, or a reason why there are none."""
        if item.name in self.content and item.name not in self.opened:  # it was tried in vain
            return
        try:
            if item.name not in self.opened:
                self.content[item.name] = item.content()
                self.opened[item.name] = item.open()
            opened = self.opened[item.name]
            windows = self.rule.windows(item, turn, opened.num_frames)
        except (Refusal, OSError) as error:
            return self.leave_out(item, error)
        for window in windows[: None if limit is None else limit - len(self.rows)]:
            key = (item.name, window.start)
            if key not in self.seen:
                try:
                    clip = self.read(item, opened, window)
                except (Refusal, OSError) as error:
                    return self.leave_out(item, error)
                self.add(item, opened, window, clip)
            self.rows.append(self.seen[key])

    def leave_out(self, item: CollectionItem, error: Exception) -> None:
        """Its clips so far stay."""
        self.opened.pop(item.name, None)
        self.skipped.append(Skipped(item.name, str(error)))

    def read(self, item: CollectionItem, opened: Opened, window: range) -> np.ndarray:
        """One clip. Refusal(reason)."""
        height, width = max((opened.height, opened.width), self.rule.size or (0, 0), key=math.prod)
        needed_bytes, free_bytes = 3 * len(window) * height * width, psutil.virtual_memory().available
        if needed_bytes > free_bytes:
            size = f"{len(window)} frames of {height}x{width}"
            raise Refusal(f"gives a clip of {size}, {needed_bytes} bytes; {free_bytes} of memory are free")
        clip = np.ascontiguousarray(self.rule.fit(item, opened.read(window)))
        self.shape = self.shape or clip.shape
        if len(clip) != self.shape[0]:  # only a rule that takes all frames there are comes here
            raise Refusal(f"gives a clip of {len(clip)} frames, those before it have {self.shape[0]}")
        return clip

    def add(self, item: CollectionItem, opened: Opened, window: range, clip: np.ndarray) -> None:
        """Stores one clip. OSError where the cache cannot hold it."""
        self.sizes[clip.shape[1], clip.shape[2]] += 1
        if clip.shape == self.shape:  # of another size, it is only counted: the set is refused in the end
            self.file.write(clip.tobytes())
        self.pixels[hashlib.blake2b(clip.tobytes(), digest_size=16).digest()] += 1
        self.seen[item.name, window.start] = len(self.clips)
        shape = (opened.num_frames, opened.height, opened.width)
        self.clips.append((f"{item.name}#{window.start}", item.label, shape, opened.fps))

    def finish(self, collection: Collection) -> ReadSet:
        self.file.flush()
        names, labels, shapes, fps = zip(*self.clips, strict=True)
        return ReadSet(
            frames=np.memmap(self.file, dtype=np.uint8, mode="r", shape=(len(names), *self.shape)),
            shape=self.shape[:3],
            rows=tuple(self.rows),
            names=names,
            labels=labels,
            shapes=shapes,
            fps=fps,
            content=self.content,
            skipped=(*collection.skipped, *self.skipped),
            num_untried=len(collection.items) - len(self.content),
            num_copies=self.pixels.total() - len(self.pixels),
            digest=digest_of(identity(self.rule), names, self.content),
        )


def identity(rule: Rule) -> dict[str, Any]:
    """All that decides the clips of given files."""
    return {"reader": READER_VERSION, "av": av.__version__, "pillow": PIL.__version__, "rule": rule.describe()}


class LateFrames:
    """Frames (N, T, H, W, 3) uint8 that are read when the first of them is asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
        self.shape, self._read = shape, functools.cache(read)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self._read()[index])


def cached_set(collection: Collection, rule: Rule, limit: int | None, progress: Progress, cache: Path) -> ReadSet:
    """`read_set`, from the cache where the same files were read before by the same rule."""
    remove_leftovers(cache)
    items = [[item.name, item.label, item.kind] for item in collection.items]
    others = [[entry.name, entry.reason] for entry in collection.skipped]
    key = digest_of(identity(rule), limit, str(collection.path.resolve()), items, others)
    file = cache / f"set-{key[:16]}.json"
    if (known := _remembered(file, key, collection)) is not None:

        def read() -> np.ndarray:
            again = read_set(collection, rule, limit, progress, cache)
            if again.digest != known.digest:
                raise Refusal(f"{collection.path} changed while it was read; run again when nobody writes to it")
            return again.frames

        # Only dtype, shape, length and slices are used of frames, and a slice reads them.
        return known.model_copy(update={"frames": LateFrames((len(known.names), *known.shape, 3), read)})
    found = read_set(collection, rule, limit, progress, cache)
    write_sealed(file, key, found, ANOTHER_CACHE)
    return found


def _remembered(file: Path, key: str, collection: Collection) -> ReadSet | None:
    """What `file` says, without frames; None where it is not there, or out of date, or damaged, which is told."""
    known = read_sealed(file, key, ReadSet, "set")
    if known is None:
        return None
    opened = [item for item in collection.items if item.name in known.content]
    return known if all(item.content() == known.content[item.name] for item in opened) else None
