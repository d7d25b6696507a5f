"""A case: one input as JSON, so that it can be stored and tried again; and the domains that make and try them."""

import base64
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

Case = dict[str, Any]
SPECIAL = ("fifo", "folder", "link", "device", "nobody")  # what stands in a case in place of a file's content


class Finding(AssertionError):
    """A broken promise that raises nothing by itself. Its first argument is the cause, by which findings are counted."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A kind of input."""

    name: str
    share: int  # of all inputs, in parts of what the domains ask for together
    draw: Callable[[Random], Case]
    attempt: Callable[[Case, Path], None]  # in an empty folder of its own; returns for success, raises a Refusal or an OSError


def packed(content: bytes) -> str:
    """Bytes as JSON holds them."""
    return base64.b85encode(zlib.compress(content, 9)).decode()


def unpacked(text: str) -> bytes:
    """And back."""
    return zlib.decompress(base64.b85decode(text))


def place(folder: Path, files: dict[str, str]) -> None:
    """Files of a case on disk: relative name -> packed content, or one of SPECIAL. Names may be bytes that are no text (surrogates)."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink()
        if content == "fifo":
            os.mkfifo(path)
        elif content == "folder":
            path.mkdir(exist_ok=True)
        elif content == "link":  # to a file outside, which nobody may write
            path.symlink_to(outside(folder))
        elif content == "device":
            path.symlink_to("/dev/zero")
        elif content == "nobody":
            path.symlink_to("not-there")
        else:
            path.write_bytes(unpacked(content))


def outside(folder: Path) -> Path:
    """A file beside a case's folder."""
    path = folder.parent / f"{folder.name}.outside"
    if not path.exists():
        path.write_text("not to be touched")
    return path
