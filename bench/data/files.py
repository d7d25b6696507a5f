"""Files that a reader sees whole or not at all, and what they are told apart by."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench.shapes import Refusal


class StoreError(Refusal):
    """A results folder that cannot be written or a record that cannot be read; one line for the user."""


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or the old one: temporary name, fsync, rename."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temp.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise StoreError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder with --results") from error


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def sha256_texts(texts: Iterable[str]) -> str:
    """SHA-256 of a list of strings, each closed by a newline: the identity of a clip list."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the name `folder` once its block is through, so that no half-made cache is ever seen."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temp
        with contextlib.suppress(OSError):  # another process was first with the same content
            temp.rename(folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
