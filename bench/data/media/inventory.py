"""What the files of a folder hold, before any clip is read: names, length, rate, size and content, or why a file gives nothing.

Two ways to tell how long a file is: by decoding it, which also finds out whether it can be read, or by counting its packets,
which takes a fraction of the time and is wrong for a few codecs.
"""

import errno
import functools
import hashlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from bench.data.clips import Skipped
from bench.data.files import at_home
from bench.data.media import images
from bench.data.media.video import EXTENSIONS, count_frames, probe, upright_size
from bench.shapes import Refusal, visible

MIN_SIDE = 8  # pixels
STILL_FPS = 1.0  # of an image, which has no rate
KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(frozen=True, kw_only=True)
class Media:
    """A readable file."""

    num_frames: int
    fps: float
    height: int  # upright
    width: int
    is_image: bool


def unusable(path: Path) -> str | None:
    """Why a path is not to be opened, None for a folder or a regular file: opening a pipe or a device waits, or never ends."""
    if not is_text(path.name):
        return "has a name that is not UTF-8; rename it"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        link = error.errno == errno.ENOENT and path.is_symlink()
        return "is a link to nothing" if link else f"cannot be read: {error.strerror}"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else f"is {KINDS.get(stat.S_IFMT(mode), 'special')}, no regular file"


def is_text(name: str) -> bool:
    """Whether it can be written as UTF-8: a name on disk is bytes, and JSON may hold halves of characters."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def look_through(root: Path) -> tuple[dict[str, Path], list[Skipped]]:
    """Relative name (with /) -> path of every file below `root`, sorted; and what is no file, with the reason. Hidden ones do not count.

    Links to files are followed, those to folders are not. Refusal where `root` is no folder.
    """
    root = at_home(root)
    if not root.is_dir():
        raise Refusal(f"path = {root} is not a folder; name one that holds videos")
    if not is_text(str(root)):
        raise Refusal(f"path = {root} has a name that is not UTF-8; rename it")
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}

    def cannot(error: OSError) -> None:
        left_out[Path(error.filename).relative_to(root).as_posix()] = f"cannot be listed: {error.strerror}"

    for folder, folders, names in os.walk(root, onerror=cannot):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if not folders and not names and Path(folder).suffix.lower() in (*EXTENSIONS, *images.EXTENSIONS):
            left_out[Path(folder).relative_to(root).as_posix()] = "is an empty folder"
        for path in (Path(folder, name) for name in (*folders, *names) if not name.startswith(".")):
            name = path.relative_to(root).as_posix()
            if reason := unusable(path):
                left_out[name] = reason
            elif path.is_file():
                files[name] = path
            elif path.is_symlink():
                left_out[name] = "is a link to a folder, which is not followed"
        folders[:] = [name for name in folders if is_text(name)]
    return {name: files[name] for name in sorted(files)}, [Skipped(visible(name), left_out[name]) for name in sorted(left_out)]


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
    """sha256 of the file's content; read once per process while path, size and time of change stay. OSError where it cannot be read."""
    found = path.stat()
    return _hashed(path, found.st_size, found.st_mtime_ns)


def content_of(path: Path) -> str:
    """The file's hash, or why it cannot be read: a part of a digest, which a file must not end that gives nothing."""
    try:
        return file_hash(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


@functools.lru_cache(maxsize=65536)
def _hashed(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
