"""Caches that vouch for themselves: what is in them is what was written, or it is named in a line and made again.

A small one is a JSON file with the hash of its content and of what it was made for. A large one is a folder whose `seal.json`, written
last, holds the SHA-256 of every file. A file of it is hashed when it is first read, and whenever its size, its times or its inode are no
longer those it was last found good with, which `checked.json` remembers: any write is noticed, and gigabytes are not hashed by every
process.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bench.data.files import (
    FREE,
    StoreError,
    fresh_folder,
    refuse_link,
    remove_folder,
    remove_leftovers,
    replacing,
    sha256_texts,
    temporary,
    write_bytes,
    write_text,
)
from bench.shapes import Refusal

SEAL, CHECKED = "seal.json", "checked.json"
Model = TypeVar("Model", bound=BaseModel)
SETTLED_S = 2.0  # after which a write cannot bear the time of the one before it, however coarse the clock of the file system


class DamagedCache(UserWarning):
    """What was cached is not what was written; its line says all there is to say."""


def warn_damaged(line: str) -> None:
    """Name what is made again."""
    warnings.warn(line, DamagedCache, stacklevel=3)


def show_in_one_line() -> None:
    """From now on a damaged cache is shown as its line alone, without the place in the code."""
    warnings.formatwarning = _formatted


_formatted_others = warnings.formatwarning


def _formatted(message: Any, category: type[Warning], *place: Any, **more: Any) -> str:
    return f"warning: {message}\n" if issubclass(category, DamagedCache) else _formatted_others(message, category, *place, **more)


def kept_or_made(folder: Path, what: str, make: Callable[[Path], None]) -> None:
    """Leaves `folder` whole: as it was made before, or filled now by `make`, and on disk. StoreError where the disk is full.

    One that is damaged or was edited is named, as `what`, and made again.
    """
    if os.path.lexists(folder):
        try:
            check_seal(folder)
        except (Refusal, OSError) as error:
            warn_damaged(f"cached {what} are damaged and are made again: {error}")
            remove_folder(folder)
        else:
            return
    with fresh_folder(folder) as temp:
        make(temp)
        seal(temp)


def seal(folder: Path) -> None:
    """Vouch for what is in a folder now."""
    (folder / SEAL).write_text(json.dumps({name: _sha256(path) for name, path in _files(folder).items()}, indent=1))


def kept_or_made_in_parts(folder: Path, what: str, parts: Sequence[str], make: Callable[[int, Path], None]) -> None:
    """As `kept_or_made`, where `make(index, path)` writes one file, of name `parts[index]`: what is whole is never made twice.

    Files lie in a hidden folder until all are there. A killed process leaves those that it finished, and of a damaged folder the good ones
    are kept. Of two processes that make the same one, the second waits.
    """
    work = folder.with_name(f".{folder.name}.parts")
    while True:
        if os.path.lexists(folder):
            try:
                return check_seal(folder)
            except (Refusal, OSError) as error:
                warn_damaged(f"cached {what} are damaged and are made again: {error}")
                _take_apart(folder, work, parts)
        refuse_link(work)
        work.mkdir(parents=True, exist_ok=True)
        opened = os.open(work, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then each makes them all, and the last one's stay
                fcntl.flock(opened, fcntl.LOCK_EX)
            if os.path.lexists(folder) or not _is_still(work, opened):  # another process was first
                continue
            remove_leftovers(work)
            for index, name in enumerate(parts):
                if not (work / name).is_file():
                    with replacing(work / name) as temp:
                        make(index, temp)
            write_text(work / SEAL, json.dumps({name: _sha256(work / name) for name in parts}, indent=1))
            try:
                work.rename(folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                remove_folder(work)
                continue
            return
        finally:
            os.close(opened)
            with contextlib.suppress(OSError):  # it has files, or another name
                work.rmdir()


def _is_still(path: Path, opened: int) -> bool:
    """Whether a path is what was opened under its name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(opened))
    return False


def _take_apart(folder: Path, work: Path, parts: Sequence[str]) -> None:
    """Makes of a damaged folder one that is not finished, in which the files are those that are as they were written."""
    if folder.is_symlink() or not folder.is_dir():
        return remove_folder(folder)
    known = _mapping(folder / SEAL) or {}
    aside = temporary(folder)
    folder.rename(aside)
    for path in aside.iterdir():
        if not (path.is_file() and path.name in parts and _sha256(path) == known.get(path.name)):
            remove_folder(path)
    try:
        aside.rename(work)
    except OSError:  # another process has begun
        remove_folder(aside)


def write_sealed(file: Path, key: str, content: BaseModel, remedy: str = FREE) -> None:
    """`content` in a file, made for `key`. StoreError, ending in `remedy`, where it cannot be written."""
    fields = json.loads(content.model_dump_json())
    text = json.dumps({"sha256": _digest(key, fields), "content": fields}, indent=1)
    write_bytes(file, text.encode() + b"\n", remedy)


def read_sealed(file: Path, key: str, model: type[Model], what: str) -> Model | None:
    """What was written for `key`; None where there is nothing, or, which is told of `what`, something else than was written."""
    if not os.path.lexists(file):
        return None
    found = _mapping(file) or {}
    with contextlib.suppress(ValidationError):  # whole, and written by another version
        if _digest(key, content := found.get("content")) == found.get("sha256"):
            return model.model_validate_json(json.dumps(content))
    warn_damaged(f"cached {what} {file} is not what was written and is made again")
    return None


def check_seal(folder: Path) -> None:
    """Refusal naming the first file that is missing, changed or added."""
    known = _mapping(folder / SEAL)
    if known is None:
        raise Refusal(f"{folder / SEAL} is missing or cannot be read")
    found = _files(folder)
    for name in sorted(known.keys() | found.keys()):
        if name not in found:
            raise Refusal(f"{folder / name} is missing")
        if name not in known:
            raise Refusal(f"{folder / name} was not there when it was made")
    good = _mapping(folder / CHECKED) or {}
    now = {name: [known[name], *_stamp(path)] for name, path in found.items()}
    changed = [name for name, stamp in now.items() if good.get(name) != stamp]
    for name in changed:
        if (digest := _sha256(found[name])) != known[name]:
            raise Refusal(f"{folder / name} is not what was written: sha256 {digest[:12]}, expected {str(known[name])[:12]}")
    settled_ns = time.time_ns() - SETTLED_S * 1e9
    if changed and all(max(stamp[2:4]) < settled_ns for stamp in now.values()):
        with contextlib.suppress(StoreError):  # a cache that cannot be written is hashed each time
            write_text(folder / CHECKED, json.dumps(now, indent=1))


def _files(folder: Path) -> dict[str, Path]:
    """What a seal is of: relative name -> file, links resolved by whoever opens them."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if name not in (SEAL, CHECKED) and not path.name.endswith(".tmp")}


def _stamp(path: Path) -> list[int]:
    """What a write to a file changes."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _mapping(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):  # no text, no JSON, numbers of thousands of digits, deep nests
        return None
    return found if isinstance(found, dict) else None


def _digest(key: str, fields: Any) -> str:
    """Of a JSON value that was made for `key`."""
    return sha256_texts([key, json.dumps(fields, sort_keys=True)])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
