"""Anybody's .npy and .npz files to arrays, by numpy, nothing pickled. What cannot be read is a Refusal whose text is the reason."""

import functools
import lzma
import math
import stat
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from bench.shapes import Refusal

# What numpy and zipfile raise for a broken file (found by mutating files).
BROKEN = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, OverflowError, MemoryError, RuntimeError),
    *(struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tokenize.TokenError),
)

HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}  # by version; others hold no plain array


@contextmanager
def _refusing() -> Iterator[None]:
    """Inside stands what numpy and zipfile do with a file, and nothing else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers of old versions
            yield
    except (Refusal, FileNotFoundError):
        raise
    except BROKEN as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            raise Refusal("holds pickled objects, which could run code and are not loaded; save one plain uint8 array") from error
        raise Refusal("is not an array that numpy reads; it may be cut short") from error


def _check_regular(path: Path) -> None:
    """Refusal(reason) for a pipe, a device or a folder, which cannot be read or has no end. FileNotFoundError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Refusal("is no regular file")


def read_npy(path: Path) -> np.ndarray:
    """The array, memory-mapped. Refusal(reason)."""
    with _refusing():
        _check_regular(path)
        return np.lib.format.open_memmap(path, mode="r")


@contextmanager
def opened_npz(path: Path) -> Iterator[dict[str, Callable[[], np.ndarray]]]:
    """Name of each array of an archive -> what reads it, while the block runs. Refusal(reason) from either; FileNotFoundError."""
    with _refusing():
        _check_regular(path)
        archive = zipfile.ZipFile(path)
    with archive:
        members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist() if name.endswith(".npy")}
        yield {name: functools.partial(_read_member, archive, member) for name, member in members.items()}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive. Refusal(reason), FileNotFoundError."""
    with opened_npz(path) as read:
        return {name: read_one() for name, read_one in read.items()}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array. Refusal(reason) for one that no memory holds, before any is taken: a few bytes unpack to any number."""
    free_bytes = psutil.virtual_memory().available
    if member.file_size > free_bytes:
        raise Refusal(f"unpacks to {member.file_size} bytes, {free_bytes} of memory are free; save the array as .npy, which need not fit")
    with _refusing():
        with archive.open(member) as file:
            shape, _, dtype = HEADERS[np.lib.format.read_magic(file)[0]](file)
        if min(shape, default=0) < 0 or (dtype.kind != "O" and math.prod(shape) * dtype.itemsize > member.file_size):
            raise Refusal(f"says that it has {shape} values and holds fewer; it is damaged")
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
