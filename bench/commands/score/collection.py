"""Anybody's clips in a folder or a file: what there is, under which name and class, and how to get its frames.

    videos in a folder                       clips/a.mp4, clips/b.gif
    a folder of frames for each clip         clips/a/000.png, clips/a/001.png
    an array for each clip                   clips/a.npy, (T, H, W, 3) uint8; (N, T, H, W, 3) is N clips
    one array                                clips.npy, or clips.npz with `frames` and, if there are classes, `labels`

A folder may hold them directly, or in one level of subfolders, which are then the classes. What cannot be read is a
`Skipped` with its reason. Knows neither how many frames a clip should have nor where it starts.
"""

import functools
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from bench.data.clips import Skipped
from bench.data.media import images
from bench.data.media.inventory import decoded, file_hash, is_image, probed
from bench.data.media.video import EXTENSIONS, iter_frames
from bench.shapes import Refusal

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
        """Hash of what the item is made of."""
        return ":".join(file_hash(path) for path in self.files)


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
    """Sort key: a2 before a10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def find_collection(path: Path) -> Collection:
    """What `path` holds. Refusal where that is nothing that can be a clip."""
    path = path.expanduser()
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
    if not items and (loose_images := _images(root)):
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
    for path in _visible(folder):
        name, suffix = _name(path, root), path.suffix.lower()
        if path.is_dir():
            if frames := tuple(_images(path)):
                opener = functools.partial(_open_images, frames)
                items.append(CollectionItem(name=name, kind="frames", label=label, files=frames, open=opener))
                skipped += [Skipped(_name(other, root), "is no image") for other in _visible(path) if other not in frames]
            else:
                folders.append(path)
        elif not path.is_file():
            skipped.append(Skipped(name, "is no regular file"))
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


def _visible(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: natural(path.name))


def _images(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if is_image(path) and path.is_file()]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


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
    """Frames (memory-mapped from .npy), and the labels and frame rate that an .npz may hold. Nothing pickled is loaded."""
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False), None, None
        with np.load(path, allow_pickle=False) as stored:
            name = "frames" if "frames" in stored.files or len(stored.files) != 1 else stored.files[0]
            arrays = {key: stored[key] for key in (name, "labels", "fps") if key in stored.files}
            names = ", ".join(stored.files) or "(none)"
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            raise Refusal("holds pickled objects, which could run code and are not loaded; save one plain uint8 array") from error
        raise Refusal("is not an array that numpy reads; it may be cut short") from error
    if name not in arrays:
        raise Refusal(f"has the arrays {names}; call the clips `frames`")
    labels = [str(label) for label in arrays["labels"].tolist()] if "labels" in arrays else None
    return arrays[name], labels, float(arrays["fps"]) if "fps" in arrays else None


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
