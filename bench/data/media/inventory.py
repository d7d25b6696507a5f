"""What the files of a folder hold, before any clip is read: names, length, rate, size and content, or why a file gives nothing.

Two ways to tell how long a file is: by decoding it, which also finds out whether it can be read, or by counting its packets,
which takes a fraction of the time and is wrong for a few codecs.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from bench.data.media import images
from bench.data.media.video import count_frames, probe, upright_size
from bench.shapes import Refusal

MIN_SIDE = 8  # pixels
STILL_FPS = 1.0  # of an image, which has no rate


@dataclass(frozen=True, kw_only=True)
class Media:
    """A readable file."""

    num_frames: int
    fps: float
    height: int  # upright
    width: int
    is_image: bool


def find_files(root: Path) -> dict[str, Path]:
    """Relative name (with /) -> path of every file below `root`, sorted; hidden ones do not count. Refusal where it is no folder."""
    root = root.expanduser()
    if not root.is_dir():
        raise Refusal(f"path = {root} is not a folder; name one that holds videos")
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("[!.]*") if path.is_file()}
    return {name: files[name] for name in sorted(files) if "/." not in f"/{name}"}


def is_image(path: Path) -> bool:
    """By its extension."""
    return path.suffix.lower() in images.EXTENSIONS


def probed(path: Path) -> Media:
    """By headers, packets and one frame. Refusal(reason) where that fails."""
    num_frames, fps = (1, STILL_FPS) if is_image(path) else probe(path)
    height, width = images.image_size(path) if is_image(path) else upright_size(path)
    return Media(num_frames=num_frames, fps=fps, height=height, width=width, is_image=is_image(path))


def decoded(path: Path) -> Media:
    """By decoding all of it. Refusal(reason) where that fails."""
    media = probed(path)
    if not media.is_image:
        return replace(media, num_frames=count_frames(path))
    images.read_whole(path)
    return media


def file_hash(path: Path) -> str:
    """sha256 of the file's content; read once per process while path, size and time of change stay."""
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _hashed(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
