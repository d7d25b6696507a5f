"""Files that a reader sees whole or not at all, and what they are told apart by.

While it is written, a file or folder has a hidden temporary name and is locked by its writer: of one that nobody locks the writer is dead.
Nothing is written through a symbolic link.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench.shapes import Refusal


class StoreError(Refusal):
    """A results folder that cannot be written or a record that cannot be read; one line for the user."""


class NoRoom(OSError):
    """A full disk, with all that there is to say."""


FULL = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.tmp", re.DOTALL)  # names that `temporary` gives
FREE, FREE_OUT = "free space or choose another folder with --results", "free space or choose another folder with --out"


def temporary(path: Path) -> Path:
    """A name beside `path` that nobody else has: hidden, random, ending in .tmp, so that what a killed process leaves can be told."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def _new(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new temporary file or folder beside `path`, by `make`, locked while the block runs."""
    while True:
        temp = temporary(path)
        make(temp)
        opened = os.open(temp, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then nobody takes away what is left there, either
                fcntl.flock(opened, fcntl.LOCK_EX)
            if not temp.exists():  # `remove_leftovers` was between the two lines above
                continue
            yield temp
            return
        finally:
            os.close(opened)


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))


def refuse_link(path: Path) -> None:
    """StoreError where `path` is a symbolic link: what is written there would go elsewhere."""
    if path.is_symlink():
        raise StoreError(f"cannot write {path}: it is a symbolic link to {path.readlink()}; remove it")


@contextlib.contextmanager
def replacing(path: Path, remedy: str = FREE) -> Iterator[Path]:
    """A temporary file to write, which takes the name `path` once its block is through and it is on disk: all of it, or the old one.

    StoreError, ending in `remedy`, where it cannot be written. Nothing is left of a file whose block raised.
    """
    refuse_link(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _new(path, _make_file) as temp:
            try:
                yield temp
                _sync(temp)
                temp.replace(path)
            finally:
                with contextlib.suppress(OSError):
                    temp.unlink()
    except OSError as error:
        if error.errno is None:  # it is of the block and says itself what is wrong
            raise
        raise StoreError(f"cannot write {path}: {error.strerror}; {remedy}") from error


@contextlib.contextmanager
def rust_errors() -> Iterator[None]:
    """What safetensors says of a full disk, "I/O error: ... (os error 28)", as the OSError that it is; its other errors as they are."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        raise


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the name `folder` once its block is through, so that no half-made cache is ever seen.

    Of two processes that make the same one, the first wins. OSError where it cannot be made; StoreError where a link is in the way, or,
    with the folder, where there is no room for what the block writes.
    """
    refuse_link(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _new(folder, Path.mkdir) as temp:
        try:
            try:
                yield temp
            except OSError as error:
                if error.errno not in FULL or isinstance(error, NoRoom):
                    raise
                raise StoreError(f"cannot write {folder}: {error.strerror}; {FREE}") from error
            for path in temp.rglob("*"):
                if path.is_file():
                    _sync(path)
            try:
                temp.rename(folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        finally:
            shutil.rmtree(temp, ignore_errors=True)  # gone already where it was renamed


def remove_leftovers(folder: Path) -> None:
    """Take away what killed processes left in `folder`; what a living one writes there, or what cannot be removed, stays."""
    for path in folder.glob(".*.tmp"):
        if not TEMPORARY.fullmatch(path.name):  # somebody else's
            continue
        with contextlib.suppress(OSError):
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(opened)


def remove_folder(folder: Path) -> None:
    """Takes `folder` away in one step, so that nobody reads half of it."""
    aside = temporary(folder)
    with contextlib.suppress(FileNotFoundError):  # another process was first
        folder.rename(aside)
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink()


def write_bytes(path: Path, content: bytes, remedy: str = FREE) -> None:
    """As `replacing` does."""
    with replacing(path, remedy) as temp:
        temp.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """As `replacing` does, in UTF-8."""
    write_bytes(path, text.encode(errors="backslashreplace"))  # a name of a file need not be text


def write_files(folder: Path, contents: Mapping[str, str | bytes]) -> list[Path]:
    """Files of a folder by their names, as `replacing` does; their paths. None takes its name before all are on disk, the first last."""
    for place in dict.fromkeys((folder / name).parent for name in contents):
        if place != folder:
            refuse_link(place)
        remove_leftovers(place)
    with contextlib.ExitStack() as written:
        temps = []
        for name, content in contents.items():
            temps.append(written.enter_context(replacing(folder / name, FREE_OUT)))
            temps[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
        for temp in temps:
            _sync(temp)
    return [folder / name for name in contents]


def _sync(path: Path) -> None:
    """Wait until the content of a file is on disk: a rename may otherwise outlive it."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def at_home(path: Path) -> Path:
    """A path whose ~ is a home folder. Refusal for a user that is not known."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise Refusal(f"path = {path}: there is no such user; write the folder out") from error


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def sha256_texts(texts: Iterable[str]) -> str:
    """SHA-256 of a list of strings, each closed by a newline: the identity of a clip list."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()
