"""Videos and images: small generated files of every kind with their bytes changed, as `score` and as the source `folder` read them."""

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import av
import numpy as np
from PIL import Image

from bench.commands.score.collection import find_collection
from bench.commands.score.windows import SeededCut, cached_set
from bench.data.progress import silent
from bench.data.source import load_clips, load_config, survey_clips
from bench.shapes import Refusal
from tests.fuzz.case import SPECIAL, Case, Domain, Finding, packed, place
from tests.fuzz.damage import damaged_bytes

CODECS = {
    ".mp4": "mpeg4",
    ".mov": "mpeg4",
    ".avi": "mpeg4",
    ".mkv": "mpeg4",
    ".m4v": "mpeg4",
    ".mpg": "mpeg1video",
    ".gif": "gif",
    ".webm": "libvpx",
}
IMAGES = (".bmp", ".jpg", ".png", ".ppm", ".tif", ".webp")
FRAMES, SIDE = 12, 16
NAMES = ("bad", "bad", "bad", "[red]x[/]", "a\nb", "\udcff\udcfe", "\x1b[31m", "é", "=1+1", "-x", " ", "a" * 200, "\u202e", "<b>")


def moving(num: int) -> np.ndarray:
    """Frames (T, H, W, 3) that differ."""
    frames = np.zeros((num, SIDE, SIDE, 3), np.uint8)
    for t in range(num):
        frames[t, t % SIDE :, :, t % 3] = 200
    return frames


@functools.cache
def videos() -> dict[str, bytes]:
    """Extension -> a small video."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix, codec in CODECS.items():
            path = Path(folder) / f"x{suffix}"
            try:
                with av.open(str(path), "w") as container:
                    stream = container.add_stream(codec, rate=25 if suffix == ".mpg" else 8)
                    stream.width = stream.height = SIDE
                    stream.pix_fmt = "rgb8" if suffix == ".gif" else "yuv420p"
                    for frame in moving(FRAMES):
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    container.mux(stream.encode())
            except (av.error.FFmpegError, ValueError):  # an FFmpeg without that codec
                continue
            found[suffix] = path.read_bytes()
    return found


@functools.cache
def images() -> dict[str, bytes]:
    """Extension -> a small image."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in IMAGES:
            path = Path(folder) / f"x{suffix}"
            Image.fromarray(moving(4)[3]).save(path, **({"exif": Image.Exif()} if suffix == ".jpg" else {}))
            found[suffix] = path.read_bytes()
    return found


def draw_video(rng: Random) -> Case:
    """A good video and a damaged one."""
    return _drawn(rng, videos(), "{name}{suffix}")


def draw_image(rng: Random) -> Case:
    """A good video, and a clip of images, one of them damaged."""
    return _drawn(rng, images(), "clip/{name}{suffix}")


def _drawn(rng: Random, known: dict[str, bytes], template: str) -> Case:
    suffix = rng.choice(list(known))
    content = damaged_bytes(rng, known[suffix], [*videos().values(), *images().values()])
    if not rng.randrange(20):  # what it is not
        suffix = rng.choice(list(known))
    name = template.format(name=rng.choice(NAMES), suffix=suffix)
    files = {name: packed(content) if rng.randrange(40) else rng.choice(SPECIAL)}
    return {"files": files, "by": rng.choice(("score", "folder", "native", "survey"))}


def attempt(case: Case, folder: Path) -> None:
    """The good file gives its clip whatever the other is; of the other there is a clip or its name with a reason."""
    root = folder / "clips"
    root.mkdir()
    if case["by"] == "score":
        (root / "good.mp4").write_bytes(videos()[".mp4"])
        as_clip = any("/" in name for name in case["files"])
        place(root, case["files"])
        if as_clip:
            (root / "clip/good.png").write_bytes(images()[".png"])
        scored(root, folder / "cache")
        return
    for k in range(4):
        (root / f"good{k}.mp4").write_bytes(videos()[".mp4"] + bytes(k))
    place(root, {name.rpartition("/")[2]: content for name, content in case["files"].items()})
    fields = {"source": "folder", "path": str(root), "num_frames": 2, "height": SIDE, "width": SIDE, "num_val": 2, "num_test": 2}
    config = load_config({**fields, "native": case["by"] != "folder"})
    with named(root):
        if case["by"] == "survey":
            survey_clips(config, folder / "cache")
            return
        clips = load_clips(config, folder / "cache")
    shown = {name.rpartition("#")[0] for split in clips.splits.values() for name in split.clip_ids}
    twins = {entry.name for entry in clips.skipped if "has the same content" in entry.reason}
    if not {f"good{k}.mp4" for k in range(4)} <= shown | twins:
        raise Finding("a damaged file takes a good one away", shown)
    told = shown | {entry.name for entry in clips.skipped}
    for name in (name.rpartition("/")[2] for name in case["files"]):
        untried = any("extension" in reason for reason in clips.lost)
        if config.native and not untried and name.isprintable() and (root / name).is_file() and name not in told:
            raise Finding("a file is left out in silence", name, told, clips.lost)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Inside, a refusal must name `path` or what lies there."""
    try:
        yield
    except (Refusal, OSError) as error:
        if str(path) not in str(error):
            raise Finding(f"a {type(error).__name__} names no file", error) from error
        raise


def scored(root: Path, cache: Path) -> None:
    """As `score` reads it, twice: the second time what was remembered says the same."""
    rule = SeededCut(num_frames=2)
    with named(root):
        first, second = (cached_set(find_collection(root), rule, None, silent, cache) for _ in range(2))
    if first.digest != second.digest or first.names != second.names or first.skipped != second.skipped:
        raise Finding("a set that was remembered differs", first, second)
    if not any(name.startswith("good") for name in first.names):
        raise Finding("a damaged file takes a good one away", first.names)
    told = {entry.name for entry in first.skipped} | {name.rpartition("#")[0].partition("[")[0] for name in first.names}
    plain = [path.name for path in root.iterdir() if path.name.isascii() and path.name.isprintable() and "[" not in path.name]
    for name in plain:
        if not any(each.startswith(name[:100]) for each in told):
            raise Finding("a file is left out in silence", name, told)


DOMAINS = (
    Domain(name="videos", share=6, draw=draw_video, attempt=attempt),
    Domain(name="images", share=5, draw=draw_image, attempt=attempt),
)
