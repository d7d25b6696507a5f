"""A sample of a tar shard to a clip and its class: which of its parts hold frames, and how they are read.

Every part is read by the reader of files of its kind, from a file of our own naming: what these refuse on disk they refuse here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data.media import images, video
from bench.data.media.arrays import read_npy, read_npz
from bench.data.media.captions import caption_text
from bench.data.media.inventory import STILL_FPS
from bench.data.media.tar import Sample
from bench.data.media.video import middle, middle_clip, window
from bench.shapes import Refusal, Shape, told_of

ARRAYS = (".npy", ".npz")


@dataclass(frozen=True, kw_only=True)
class Medium:
    """What holds the frames of a sample."""

    kind: str  # "video", "array" or "images"
    names: tuple[str, ...]  # of the parts; of several images in their order
    contents: tuple[bytes, ...]

    def clip(self, scratch: Path, shape: Shape, stride: int) -> tuple[np.ndarray, float]:
        """The clip (T, H, W, 3) uint8 of (T, H, W) in its middle, every `stride`-th frame, and frames per second. Refusal(reason)."""
        return READERS[self.kind](self, scratch, shape, stride)

    def file(self, scratch: Path, index: int = 0) -> Path:
        """One part as a file in the folder `scratch`."""
        path = scratch / f"part.{self.names[index].rpartition('.')[2]}"
        path.write_bytes(self.contents[index])
        return path


def medium_of(sample: Sample) -> Medium:
    """The video of a sample, or else its array, its numbered frames, or its image. Refusal(reason) for none, or several of one kind."""
    suffixes = {name: Path(f"x.{name}").suffix for name in sample.parts}
    numbered = {name for name, suffix in suffixes.items() if suffix in images.EXTENSIONS and name.partition(".")[0].isdecimal()}
    kinds = {
        "video": [name for name, suffix in suffixes.items() if suffix in video.EXTENSIONS],
        "array": [name for name, suffix in suffixes.items() if suffix in ARRAYS],
        "frames": sorted(numbered, key=lambda name: (int(name.partition(".")[0]), name)),
        "image": [name for name, suffix in suffixes.items() if suffix in images.EXTENSIONS and name not in numbered],
    }
    for kind, names in kinds.items():
        if len(names) > 1 and kind != "frames":
            raise Refusal(f"has more than one {kind}: .{names[0]} and .{names[1]}")
        if names:
            contents = tuple(sample.parts[name] for name in names)
            return Medium(kind="images" if kind in ("frames", "image") else kind, names=tuple(names), contents=contents)
    raise Refusal(f"has no video, array or image: .{', .'.join(sorted(sample.parts)[:5])}")


def label_of(sample: Sample, num_classes: int) -> int:
    """The class of a sample; 0 where none are read. Refusal(reason) for one that is missing or is none."""
    if num_classes == 0:
        return 0
    if not {"cls", "json"} & sample.parts.keys():
        raise Refusal("has neither .cls nor .json, which say its class")
    found: Any
    try:
        if "cls" in sample.parts:
            found = int(sample.parts["cls"].decode().strip()[:20])
        else:
            found = json.loads(sample.parts["json"])
            found = found.get("label") if isinstance(found, Mapping) else None
    except (ValueError, RecursionError) as error:  # no text, no number, no JSON
        raise Refusal("has a .cls or .json that cannot be read") from error
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < num_classes:
        raise Refusal(f"has the class {found!r:.50}; classes are 0 to {num_classes - 1} (data.num_classes)")
    return found


def caption_of(sample: Sample, part: str, key: str) -> str:
    """The text of a sample's .txt, or the `key` of its .json; "" where it has none. Refusal(reason) for what cannot be read."""
    if part not in sample.parts:
        return ""
    try:
        text = sample.parts[part].decode("utf-8-sig")
        found: Any = text if part == "txt" else json.loads(text)
    except (ValueError, RecursionError) as error:  # no text, no JSON
        raise Refusal(f"has a .{part} that cannot be read") from error
    return caption_text(found.get(key) if isinstance(found, Mapping) else found if part == "txt" else "")


def _from_video(medium: Medium, scratch: Path, shape: Shape, stride: int) -> tuple[np.ndarray, float]:
    return middle_clip(medium.file(scratch), shape, stride)


def _from_array(medium: Medium, scratch: Path, shape: Shape, stride: int) -> tuple[np.ndarray, float]:
    path = medium.file(scratch)
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if "frames" not in arrays and len(arrays) != 1:
            raise Refusal(f"holds the arrays {', '.join(sorted(arrays)[:5])}; name one of them frames")
        values = arrays.get("frames", next(iter(arrays.values())))
    else:
        values = read_npy(path)
    frames = values[None] if values.ndim == 3 else values
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise Refusal(f"holds {values.dtype} {values.shape}, expected uint8 (frames, height, width, 3)")
    start = middle(len(frames), shape[0], stride)
    box = window(frames.shape[1], frames.shape[2], shape[1], shape[2], "cover")
    chosen = frames[start : start + (shape[0] - 1) * stride + 1 : stride]
    if frames.shape[1:3] == shape[1:]:
        return np.array(chosen), STILL_FPS
    size = (shape[2], shape[1])
    scaled = [Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BICUBIC, box=box) for frame in chosen]
    return np.stack([np.asarray(frame) for frame in scaled]), STILL_FPS


def _from_images(medium: Medium, scratch: Path, shape: Shape, stride: int) -> tuple[np.ndarray, float]:
    start = middle(len(medium.names), shape[0], stride)
    clip = np.empty((*shape, 3), np.uint8)
    for row, index in enumerate(range(start, start + shape[0] * stride, stride)):
        with told_of(f".{medium.names[index]}"):
            clip[row] = images.read_image(medium.file(scratch, index), *shape[1:])
    return clip, STILL_FPS


READERS = {"video": _from_video, "array": _from_array, "images": _from_images}
