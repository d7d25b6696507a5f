"""Samples of a tar archive as webdataset lays them out: consecutive members whose names are the same up to the first dot of the file.

    a/clip7.mp4  a/clip7.cls  a/clip8.mp4  a/clip8.cls        two samples, a/clip7 and a/clip8, of two parts each

An archive is read from end to end, one sample in memory. Nothing is unpacked under the name that a member has, no link is followed, and
what is said to be larger than `MOST_BYTES` is passed over unread. What cannot be read is named with its reason.
"""

import re
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bench.data.clips import Skipped
from bench.data.media.inventory import is_text
from bench.shapes import Refusal, visible

MOST_BYTES = 2**30  # of a sample, which is held in memory
MOST_HEADER_BYTES = 2**20  # of what stands before a member beyond the 512 bytes that all have
# What tarfile raises for a broken archive, in headers that it parses itself.
BROKEN = (
    *(tarfile.TarError, OSError, EOFError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError),
    *(RecursionError, struct.error),
)


@dataclass(frozen=True)
class Sample:
    """Consecutive members of one key."""

    key: str  # their name up to the first dot of the file, folders included
    parts: dict[str, bytes] = field(default_factory=dict)  # what stands behind that dot, in small letters -> content


class _Headers:
    """The file as tarfile may see it: headers, which are small. A size that is a lie would otherwise be read into memory."""

    def __init__(self, file: BinaryIO):
        self.file, self.tell, self.seek = file, file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def read_samples(path: Path) -> Iterator[Sample | Skipped]:
    """The samples of an archive in their order, and what of it is none or is damaged, by name and with the reason."""
    keys: set[str] = set()
    sample: Sample | None = None
    for name, content in _members(path):
        if isinstance(content, Refusal):
            yield Skipped(visible(name), str(content))
            continue
        key, part = _split(name)
        if sample is not None and sample.key != key:
            yield sample
            sample = None
        if sample is None:
            if key in keys:
                yield Skipped(visible(name), f"comes when {key} was over; members of a sample lie one behind the other")
                continue
            keys.add(key)
            sample = Sample(key)
        if part in sample.parts:
            yield Skipped(visible(name), "is there twice; the first is taken")
        elif sum(map(len, sample.parts.values())) + len(content) > MOST_BYTES:
            yield Skipped(visible(name), f"makes its sample larger than {MOST_BYTES} bytes")
        else:
            sample.parts[part] = content
    if sample is not None:
        yield sample


def _split(name: str) -> tuple[str, str]:
    """'a.b/c.d.E' -> ('a.b/c', 'd.e')."""
    folder, slash, base = name.rpartition("/")
    stem, _, part = base.partition(".")
    return folder + slash + stem, part.lower()


def _members(path: Path) -> Iterator[tuple[str, bytes | Refusal]]:
    """Name and content of every regular file; of what is none, or of a damaged archive from its damage on, the reason."""
    name = path.name
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_as_file(file), mode="r:") as archive:
            before = -1
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would remember all of them
                if archive.offset <= before:
                    raise tarfile.ReadError("a size that leads back")
                before, name = archive.offset, re.sub(r"^(\./)+", "", member.name)
                if member.isdir() or name.rpartition("/")[2].startswith("."):
                    continue
                if reason := _unusable(member, name):
                    yield name, Refusal(reason)
                    continue
                file.seek(member.offset_data)
                if len(content := file.read(member.size)) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield name, content
            file.seek(archive.offset)
            end = file.read(tarfile.BLOCKSIZE)
    except BROKEN as error:
        yield path.name, Refusal(f"is damaged at {visible(name)}, and not read from there on: {getattr(error, 'strerror', None) or error}")
        return
    if end.strip(b"\0"):  # tarfile takes a header that it cannot read for the end
        yield path.name, Refusal(f"is damaged behind {visible(name)}, and not read from there on")
    elif not end:
        yield path.name, Refusal(f"has no end mark behind {visible(name)}: it may be cut short")


def _as_file(file: BinaryIO) -> Any:
    return _Headers(file)


def _unusable(member: tarfile.TarInfo, name: str) -> str | None:
    """Why a member is not read."""
    if member.issym() or member.islnk():
        return "is a link, which is not followed"
    if not member.isreg() or member.issparse():
        return "is no regular file"
    if not is_text(name):
        return "has a name that is not UTF-8; rename it"
    if name.startswith("/") or ".." in name.split("/"):
        return "has a path that leads out of its archive; make it relative"
    if "." not in name.rpartition("/")[2]:
        return "has no extension, which says what it is"
    if member.size > MOST_BYTES:
        return f"says that it has {member.size} bytes; at most {MOST_BYTES} are read"
    return None
