"""Clips on disk: three splits of uint8 frames that are memory-mapped, with labels, names and exact state beside them.

A source fills what `open_frames` or `open_ragged_frames` returns and ends with `save_clips`; `read_clips` gives it back. The
layout on disk is (N, T, H, W, 3), as video decoders give it, in `<split>.npy`. Clips of many shapes lie there one behind the
other, without axes, and `<split>.shapes.npy` (N, 3) has each one's T, H and W. The one conversion to (C, T, H, W) floats happens
where clips enter the model, not here.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.files import NoRoom
from bench.data.ragged import Frames, Ragged, clip_shapes
from bench.shapes import Refusal, Shape, check_shape, told_of

SPLITS = ("train", "val", "test")
LAYOUT_VERSION = 1  # of the files below; part of every digest
META = "meta.json"  # written last, so a folder without it is unfinished


@dataclass(frozen=True)
class ClipSet:
    """One split. `frames` is a read-only memory map when it comes from a cache."""

    frames: Frames  # (N, T, H, W, 3) uint8, the layout on disk; Ragged where the clips have several shapes
    labels: np.ndarray  # (N,) int64; all 0 where there are no classes
    clip_ids: tuple[str, ...]  # N names, each unique over all splits
    # Exact state, each (N, T, objects, ...), T of the longest clip. Behind a shorter clip's end floats are NaN and integers -1.
    truth: dict[str, np.ndarray] | None = None
    captions: tuple[str, ...] | None = None  # what is to be seen in each, "" where nothing says it; None where the data has none

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def shapes(self) -> Sequence[Shape]:
        """(T, H, W) of each clip."""
        return clip_shapes(self.frames)


@dataclass(frozen=True)
class Skipped:
    """A file that gave no clip, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Clips:
    """All clips of one source, and what was left out on the way."""

    splits: dict[str, ClipSet]  # "train", "val", "test"
    label_names: tuple[str, ...]  # () = no classes
    fps: float  # of the clips, after any frame stride; the median over clips where files differ
    skipped: tuple[Skipped, ...] = ()  # files that gave nothing
    lost: dict[str, int]  # reason -> count, of what was usable and is not in any split
    notes: tuple[str, ...] = ()  # how the clips were made, for the report
    digest: str  # identity of the content


def open_frames(folder: Path, num_clips: Mapping[str, int], clip_shape: Shape) -> dict[str, np.ndarray]:
    """Writable memory maps (N, T, H, W, 3) uint8 per split in `folder`, their disk space reserved. OSError when it does not fit."""
    return _opened(folder, {split: (num, *clip_shape, 3) for split, num in num_clips.items()})


def open_ragged_frames(folder: Path, shapes: Mapping[str, Sequence[Shape]]) -> dict[str, Ragged]:
    """As `open_frames`, for splits whose clips have each its own shape (T, H, W)."""
    item_shapes = {split: [(*shape, 3) for shape in clips] for split, clips in shapes.items()}
    flat = _opened(folder, {split: (sum(map(math.prod, items)),) for split, items in item_shapes.items()})
    return {split: Ragged(flat[split], items) for split, items in item_shapes.items()}


def _opened(folder: Path, array_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A uint8 memory map of each shape as `<split>.npy`, checked against the free space and reserved."""
    needed_bytes = sum(map(math.prod, array_shapes.values()))
    if needed_bytes > (free_bytes := shutil.disk_usage(folder).free):
        raise out_of_disk(folder, needed_bytes, free_bytes)
    arrays: dict[str, np.ndarray] = {}
    for split, shape in array_shapes.items():
        path = folder / f"{split}.npy"
        arrays[split] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        reserve(path)
    return arrays


def reserve(path: Path) -> None:
    """Claims the file's blocks now: a memory map over a hole dies of SIGBUS, without a traceback, when the disk fills up."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve
                raise


def out_of_disk(folder: Path, needed_bytes: int, free_bytes: int) -> NoRoom:
    """The error of a full disk, with the folder and what it needs."""
    return NoRoom(
        errno.ENOSPC,
        f"no room for clips in {folder}: {needed_bytes} bytes needed, {free_bytes} free; free some, ask for fewer clips or move the cache",
    )


def save_clips(
    folder: Path,
    splits: Mapping[str, ClipSet],
    *,
    label_names: tuple[str, ...],
    fps: float,
    skipped: tuple[Skipped, ...] = (),
    lost: Mapping[str, int] | None = None,
    notes: tuple[str, ...] = (),
) -> None:
    """Ends a source's `write`. Each split's `frames` is what `open_frames` gave; rows beyond its `clip_ids` are cut off."""
    files = {split: _save_split(folder, split, clips) for split, clips in splits.items()}
    meta = {
        "layout": LAYOUT_VERSION,
        "label_names": label_names,
        "fps": fps,
        "skipped": [[entry.name, entry.reason] for entry in skipped],
        "lost": dict(lost or {}),
        "notes": notes,
        "splits": {
            split: {"clip_ids": clips.clip_ids, "bytes": files[split]}
            | ({} if clips.captions is None else {"captions": clips.captions[: len(clips.clip_ids)]})
            for split, clips in splits.items()
        },
    }
    (folder / META).write_text(json.dumps(meta))


def _save_split(folder: Path, split: str, clips: ClipSet) -> dict[str, int]:
    """Flushes frames and writes shapes, labels and truth; file name -> bytes."""
    num = len(clips.clip_ids)
    frames, path = clips.frames, folder / f"{split}.npy"
    if num < len(frames):  # files that broke off while being read
        frames = _cut(frames[:num], folder / f"{split}.short.npy")
        (folder / f"{split}.short.npy").replace(path)
    if isinstance(stored := frames.flat if isinstance(frames, Ragged) else frames, np.memmap):
        stored.flush()
    np.save(folder / f"{split}.labels.npy", np.asarray(clips.labels, dtype=np.int64)[:num])
    num_frames = None  # of the longest clip, which may have been cut off
    if isinstance(frames, Ragged):
        shapes = clip_shapes(frames)
        num_frames = max((shape[0] for shape in shapes), default=0)
        np.save(folder / f"{split}.shapes.npy", np.array(shapes, dtype=np.int64).reshape(num, 3))
    if clips.truth is not None:
        truth = {name: values[:num, :num_frames] for name, values in clips.truth.items()}
        np.savez(folder / f"{split}.truth.npz", **truth)  # type: ignore[arg-type]
    return {path.name: path.stat().st_size for path in sorted(folder.glob(f"{split}.*np[yz]"))}


def _cut(frames: Frames, path: Path) -> Frames:
    """`frames`, a part of a longer array, copied clip by clip into a file of their own."""
    values = frames.flat if isinstance(frames, Ragged) else frames
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=values.shape)
    copy = Ragged(stored, frames.shapes) if isinstance(frames, Ragged) else stored
    for index in range(len(frames)):
        copy[index][...] = frames[index]
    return copy


def read_clips(folder: Path, digest: str) -> Clips:
    """Clips that `save_clips` left in `folder`, frames memory-mapped. Refusal naming what is missing, cut short or inconsistent."""
    try:
        meta = json.loads((folder / META).read_text())
        if meta["layout"] != LAYOUT_VERSION:
            raise Refusal(f"{folder} has layout {meta['layout']}, this version reads {LAYOUT_VERSION}")
        splits = {split: _read_split(folder, split, meta["splits"][split], len(meta["label_names"])) for split in SPLITS}
        return Clips(
            splits=splits,
            label_names=tuple(meta["label_names"]),
            fps=meta["fps"],
            skipped=tuple(Skipped(name, reason) for name, reason in meta["skipped"]),
            lost=meta["lost"],
            notes=tuple(meta["notes"]),
            digest=digest,
        )
    except FileNotFoundError as error:
        raise Refusal(f"clips in {folder} are incomplete: {Path(error.filename).name} is missing") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise Refusal(f"{folder / META} is not what save_clips writes: {error!r}") from error


def _read_split(folder: Path, split: str, meta: dict[str, Any], num_labels: int) -> ClipSet:
    """One split, checked against the byte counts and names in `meta`."""
    for name, num_bytes in meta["bytes"].items():
        if (actual := (folder / name).stat().st_size) != num_bytes:
            raise Refusal(f"{folder / name} has {actual} bytes, {num_bytes} were written")
    num, frames = len(meta["clip_ids"]), np.load(folder / f"{split}.npy", mmap_mode="r")
    if f"{split}.shapes.npy" in meta["bytes"]:
        shapes = np.load(folder / f"{split}.shapes.npy").tolist()
        with told_of(f"{split} frames in {folder} do not have the shapes beside them"):
            items = Ragged(frames, [(*shape, 3) for shape in shapes])
        frames = frames.reshape(len(items), *items.shapes[0]) if len(set(items.shapes)) == 1 else items
    labels = np.load(folder / f"{split}.labels.npy")
    check_shape(f"{split} labels in {folder}", labels, (num,))
    if frames.dtype != np.uint8:
        raise Refusal(f"{split} frames in {folder} are {frames.dtype}, expected uint8")
    if len(frames) != num:
        raise Refusal(f"{split} frames in {folder} are of {len(frames)} clips, expected {num}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < max(num_labels, 1):
        raise Refusal(f"{split} labels in {folder} run from {labels.min()} to {labels.max()}, there are {num_labels} label names")
    truth = None
    if f"{split}.truth.npz" in meta["bytes"]:
        with np.load(folder / f"{split}.truth.npz") as stored:
            truth = dict(stored)
        expected = (num, max((shape[0] for shape in clip_shapes(frames)), default=0))
        for name, values in truth.items():
            if values.ndim < 3 or values.shape[:2] != expected:
                raise Refusal(f"{split} truth {name!r} in {folder} has shape {values.shape}, expected {expected} + (objects, ...)")
    captions = tuple(meta["captions"]) if "captions" in meta else None
    if captions is not None and (len(captions) != num or not all(isinstance(caption, str) for caption in captions)):
        raise Refusal(f"{split} captions in {folder} are {len(captions)}, expected {num} texts")
    return ClipSet(frames=frames, labels=labels, clip_ids=tuple(meta["clip_ids"]), truth=truth, captions=captions)


def labels_in_turn(labels: np.ndarray, num: int) -> list[int]:
    """Indices of `num` clips of labels (N,) in turn, so that no class fills a sheet of a few; within a label in order.

    >>> labels_in_turn(np.array([0, 0, 0, 1, 2, 1]), 4)
    [0, 3, 4, 1]
    """
    queues = {label: [i for i, other in enumerate(labels) if other == label] for label in sorted(set(labels.tolist()))}
    chosen: list[int] = []
    while len(chosen) < num and any(queues.values()):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen[:num]
