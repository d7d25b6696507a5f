"""Anybody's clips in a folder or a file: what there is, under which name and class, and how to get its frames.

    videos in a folder                       clips/a.mp4, clips/b.gif
    a folder of frames for each clip         clips/a/000.png, clips/a/001.png
    an array for each clip                   clips/a.npy, (T, H, W, 3) uint8; (N, T, H, W, 3) is N clips
    one array                                clips.npy, or clips.npz with `frames` and, if there are classes, `labels`

A folder may hold them directly, or in one level of subfolders, which are then the classes. What cannot be read is a
`Skipped` with its reason. Knows neither how many frames a clip should have nor where it starts.
"""

import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from bench.data.clips import Skipped
from bench.data.files import at_home
from bench.data.media import images
from bench.data.media.arrays import opened_npz, read_npy
from bench.data.media.inventory import content_of, decoded, is_image, is_text, probed, unusable
from bench.data.media.video import EXTENSIONS, FPS_RANGE, iter_frames
from bench.shapes import Refusal, visible

ARRAYS = (".npy", ".npz")
READER_VERSION = 2  # bump when the same files give other frames
COUNTED_EXACTLY = (".avi", ".mpg", ".webm")  # their packets are not always frames, so they are decoded to be counted

FrameT = TypeVar("FrameT")
FrameReader = Callable[[Sequence[int]], np.ndarray]  # increasing frame indices (T) -> frames (T, H, W, 3) uint8, as stored


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What an item says of itself, and its frames."""

    num_frames: int
    height: int  # upright
    width: int
    fps: float | None  # None where nothing says it
    read: FrameReader  # Refusal(reason) where the frames cannot be decoded


@dataclass(frozen=True, kw_only=True)
class CollectionItem:
    """One source of clips. Making it opens nothing but arrays."""

    name: str  # relative to the collection, with /; unique in it
    kind: Literal["video", "frames", "array"]
    label: str | None  # class; None where there are no classes
    files: tuple[Path, ...]  # whose content is the item's
    open: Callable[[], Opened]  # Refusal(reason) where it cannot be read

    def content(self) -> str:
        """Hashes of what the item is made of, or why it cannot be read."""
        return ":".join(map(content_of, self.files))


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All that a path holds, in order of name, numbers as numbers."""

    path: Path
    items: tuple[CollectionItem, ...]
    skipped: tuple[Skipped, ...]  # what is no clip, and why

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; () = none."""
        return tuple(sorted({item.label for item in self.items if item.label is not None}, key=natural))


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key: a2 before a10. Digits of any number, of which the longer run is the larger."""
    parts = [(part, part.lstrip("0")) for part in re.split(r"([0-9]+)", name) if part]
    return [(0, len(digits), digits) if part[0] in "0123456789" else (1, 0, part) for part, digits in parts]


def find_collection(path: Path) -> Collection:
    """What `path` holds. Refusal where that is nothing that can be a clip."""
    path = at_home(path)
    if os.path.lexists(path) and (reason := unusable(path) or (None if is_text(str(path)) else "lies in a folder whose name is not UTF-8")):
        raise Refusal(f"{path} {reason}; name a folder of clips, or an array of them as {' or '.join(ARRAYS)}")
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() in ARRAYS and path.is_file():
        try:
            return Collection(path=path, items=tuple(_array_items(path, path.name, None, ndims=(5,))), skipped=())
        except Refusal as error:
            raise Refusal(f"{path} {error}") from error
    if path.is_file():
        raise Refusal(f"{path} is one file; name a folder of clips, or an array of them as {' or '.join(ARRAYS)}")
    raise Refusal(f"{path} does not exist; name a folder of videos, of folders of frames, or of arrays, or one {' or '.join(ARRAYS)}")


def _folder(root: Path) -> Collection:
    """Clips directly in `root`, or in its subfolders as classes, never both."""
    loose, skipped, folders = _clips_in(root, root, None)
    classed: list[CollectionItem] = []
    for folder in folders:
        found, bad, deeper = _clips_in(folder, root, folder.name)
        classed += found
        skipped += bad
        skipped += [Skipped(_name(path, root), "lies below a class folder; classes are one level of folders") for path in deeper]
        if not found and not bad and not deeper:
            skipped.append(Skipped(folder.name, "is an empty folder"))
    if loose and classed:
        where = f"in it ({loose[0].name}) and in subfolders ({classed[0].name})"
        raise Refusal(f"{root} has clips {where}, which are classes; move all of them into subfolders, or none")
    items = sorted(loose or classed, key=lambda item: natural(item.name))
    if not items and (loose_images := [path for path in _listed(root) if is_image(path)]):
        raise Refusal(f"{root} holds images ({loose_images[0].name}); frames of a clip belong into a folder of their own inside it")
    if not items:
        why = f"; {len(skipped)} looked at, the first: {skipped[0].name} {skipped[0].reason}" if skipped else ""
        raise Refusal(f"nothing to read in {root}: looked for {', '.join((*EXTENSIONS, *ARRAYS))} and folders of images{why}")
    return Collection(path=root, items=tuple(items), skipped=tuple(skipped))


def _clips_in(folder: Path, root: Path, label: str | None) -> tuple[list[CollectionItem], list[Skipped], list[Path]]:
    """Clips of one folder, what in it is none, and subfolders that are no clips."""
    items: list[CollectionItem] = []
    skipped: list[Skipped] = []
    folders: list[Path] = []
    try:
        paths = _listed(folder)
    except OSError as error:
        return [], [Skipped(_name(folder, root), f"cannot be listed: {error.strerror}")], []
    for path in paths:
        name, suffix = _name(path, root), path.suffix.lower()
        if reason := unusable(path):
            skipped.append(Skipped(name, reason))
        elif path.is_dir():
            found = _frames_of(path, root, label)
            items += found[0]
            skipped += found[1]
            folders += [] if any(found) else [path]
        elif suffix in EXTENSIONS:
            items.append(CollectionItem(name=name, kind="video", label=label, files=(path,), open=functools.partial(_open_video, path)))
        elif suffix in ARRAYS:
            try:
                items += _array_items(path, name, label, ndims=(4, 5))
            except Refusal as error:
                skipped.append(Skipped(name, str(error)))
        else:
            skipped.append(Skipped(name, "is a single image" if is_image(path) else "is no clip by its extension"))
    return items, skipped, folders


def _frames_of(folder: Path, root: Path, label: str | None) -> tuple[list[CollectionItem], list[Skipped]]:
    """The clip whose frames a folder holds, and what else is in it; nothing at all where it holds no image."""
    try:
        inside = _listed(folder)
    except OSError as error:
        return [], [Skipped(_name(folder, root), f"cannot be listed: {error.strerror}")]
    frames = tuple(path for path in inside if is_image(path) and not unusable(path) and path.is_file())
    if not frames:
        return [], []
    others = [Skipped(_name(path, root), unusable(path) or "is no image") for path in inside if path not in frames]
    opener = functools.partial(_open_images, frames)
    return [CollectionItem(name=_name(folder, root), kind="frames", label=label, files=frames, open=opener)], others


def _listed(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, numbers in order. OSError where it cannot be listed."""
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: natural(path.name))


def _name(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    return name if is_text(name) else visible(name)  # only of what is left out


def _open_video(path: Path) -> Opened:
    media = decoded(path) if path.suffix.lower() in COUNTED_EXACTLY else probed(path)

    def read(indices: Sequence[int]) -> np.ndarray:
        return np.stack([frame for _, frame in iter_frames(path, indices, media.height, media.width)])

    return Opened(num_frames=media.num_frames, height=media.height, width=media.width, fps=media.fps, read=read)


def _open_images(paths: tuple[Path, ...]) -> Opened:
    height, width = _of_frame(paths[0], images.image_size)

    def read(indices: Sequence[int]) -> np.ndarray:
        frames = []
        for path in (paths[index] for index in indices):
            frame = _of_frame(path, images.read_whole)
            if frame.shape != (height, width, 3):
                size = f"{frame.shape[0]}x{frame.shape[1]}"
                raise Refusal(f"has frames of two sizes: {path.name} is {size}, the first {height}x{width}")
            frames.append(frame)
        return np.stack(frames)

    return Opened(num_frames=len(paths), height=height, width=width, fps=None, read=read)


def _of_frame(path: Path, look: Callable[[Path], FrameT]) -> FrameT:
    """What `look` finds in one of a clip's images. Refusal(reason) with the image's name."""
    try:
        return look(path)
    except Refusal as error:
        raise Refusal(f"has a frame, {path.name}, that {error}") from error


def _array_items(path: Path, name: str, label: str | None, ndims: tuple[int, ...]) -> list[CollectionItem]:
    """Clips of an array file: one for (T, H, W, 3), N for (N, T, H, W, 3). Refusal(reason)."""
    frames, labels, fps = load_array(path)
    check_clips(frames, ndims)
    names = [name] if frames.ndim == 4 else [f"{name}[{row}]" for row in range(len(frames))]
    clips = frames[None] if frames.ndim == 4 else frames
    of_row: Sequence[str | None] = [label] * len(clips) if label is not None or labels is None else labels
    if len(of_row) != len(clips):
        raise Refusal(f"has {len(of_row)} labels for {len(clips)} clips")
    openers = [functools.partial(_open_array, clip, fps) for clip in clips]
    rows = zip(names, of_row, openers, strict=True)
    return [CollectionItem(name=own, kind="array", label=of, files=(path,), open=opener) for own, of, opener in rows]


def _open_array(clip: np.ndarray, fps: float | None) -> Opened:
    num_frames, height, width, _ = clip.shape
    return Opened(num_frames=num_frames, height=height, width=width, fps=fps, read=lambda indices: np.array(clip[list(indices)]))


def load_array(path: Path) -> tuple[np.ndarray, list[str] | None, float | None]:
    """Frames (memory-mapped from .npy), and the labels and frame rate that an .npz may hold. Nothing pickled is loaded. Refusal(reason)."""
    if path.suffix.lower() == ".npy":
        return read_npy(path), None, None
    with opened_npz(path) as read:
        name = "frames" if "frames" in read or len(read) != 1 else next(iter(read))
        arrays = {key: read[key]() for key in (name, "labels", "fps") if key in read}
        names = ", ".join(read) or "(none)"
    if name not in arrays:
        raise Refusal(f"has the arrays {names}; call the clips `frames`")
    return arrays[name], _labels(arrays["labels"]) if "labels" in arrays else None, _rate(arrays["fps"]) if "fps" in arrays else None


def _labels(found: np.ndarray) -> list[str]:
    """A class name for each clip. Refusal(reason)."""
    if found.ndim != 1 or found.dtype.kind not in "iubSUf":
        raise Refusal(f"has labels of shape {found.shape} and type {found.dtype}, expected one number or word for each clip")
    labels = [str(label) for label in found.tolist()]
    if odd := [label for label in labels if not is_text(label)]:
        raise Refusal(f"has the label {odd[0]}, which is not text; rename it")
    return labels


def _rate(found: np.ndarray) -> float:
    """Frames per second. Refusal(reason)."""
    if found.size != 1 or found.dtype.kind not in "iuf" or not FPS_RANGE[0] <= (rate := float(found.reshape(()))) <= FPS_RANGE[1]:
        raise Refusal(f"has fps = {' '.join(str(found).split())[:40]}, expected one number of frames per second")
    return rate


def check_clips(frames: np.ndarray, ndims: tuple[int, ...]) -> None:
    """Refusal(reason with what would be right) unless `frames` are uint8, ... x T x H x W x 3, of one of `ndims` axes."""
    wanted = " or ".join({4: "(T, H, W, 3)", 5: "(N, T, H, W, 3)"}[ndim] for ndim in ndims)
    shape = frames.shape
    if frames.dtype.kind not in "uifb":
        raise Refusal(f"holds {frames.dtype}, expected uint8 frames {wanted}")
    if 0 in shape or not shape:
        raise Refusal(f"is empty: shape {shape}, expected {wanted}")
    if frames.ndim not in ndims or shape[-1] != 3:
        raise Refusal(f"has shape {shape}, expected {wanted}{_shape_hint(shape, ndims)}")
    if frames.dtype != np.uint8:
        found = f" from {np.nanmin(frames):.3g} to {np.nanmax(frames):.3g}" if np.isfinite(frames).any() else ""
        raise Refusal(f"has {frames.dtype} frames{found}, expected uint8 in 0..255; {_remedy(frames)}")


def _shape_hint(shape: tuple[int, ...], ndims: tuple[int, ...]) -> str:
    """What the axes probably are, and how they would be right."""
    ndim = len(shape)
    if ndim in ndims and shape[-1] == 4:
        return "; four channels: drop the last, frames[..., :3]"
    if ndim in ndims and shape[-1] == 1:
        return "; grey: repeat the channel, np.repeat(frames, 3, axis=-1)"
    if ndim in ndims and shape[-3] == 3:
        return "; channels before height: np.moveaxis(frames, -3, -1)"
    if ndim in ndims and shape[-4] == 3:
        return "; channels before time: np.moveaxis(frames, -4, -1)"
    if ndim == 4 and shape[-1] == 3:
        return "; one clip: put it into an array of many, or into a folder"
    if ndim + 1 in ndims:
        return "; grey: np.repeat(frames[..., None], 3, axis=-1)"
    return ""


def _remedy(frames: np.ndarray) -> str:
    if not np.isfinite(frames).all():
        return "some are NaN or infinite: find out why"
    if not np.issubdtype(frames.dtype, np.floating) or frames.max() > 2:
        return "round and clip them, np.clip(np.rint(frames), 0, 255).astype(np.uint8)"
    if frames.min() < 0:
        return "np.rint((frames.clip(-1, 1) + 1) * 127.5).astype(np.uint8), if they are in [-1, 1]"
    return "np.rint(frames * 255).astype(np.uint8), if they are in [0, 1]"
