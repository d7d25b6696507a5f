"""Arrays too large for one file: items of one shape in .npy files of consecutive ones, read in order. Knows no torch.

An item is read from its file when it is asked for, by one call and into its own memory: nothing is mapped, so what a process holds does
not grow with what it has read, and a file that was cut short is a line and not a signal.
"""

import os
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from bench.data.media.arrays import HEADERS
from bench.shapes import Refusal

REMEDY = "remove its folder, and it is made again"
MOST_OPEN = 32  # files at once; a window of draws reads a few places of the set


class Sharded(Sequence[np.ndarray]):
    """Items (N, ...) in several files, as the array that they are parts of, along its first axis."""

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], item_shape: tuple[int, ...], dtype: type[np.generic]):
        """`counts`: items of each file. A file is looked at when it is first read: Refusal by its name where it holds something else."""
        self.paths, self.dtype = tuple(paths), np.dtype(dtype)
        self._firsts = [0, *accumulate(counts)]  # item with which each file begins, and their number
        self.shape = (self._firsts[-1], *item_shape)
        self.ndim = len(self.shape)
        self._open: dict[int, tuple[int, int]] = {}  # file -> descriptor, and where its values begin; the one last read comes last
        weakref.finalize(self, _close, self._open)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> np.ndarray:  # type: ignore[override]
        """An item, or consecutive ones (n, ...), in memory of their own."""
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return self._read(place, place + 1)[0]
        first, stop, step = index.indices(len(self))
        if step != 1:
            raise Refusal(f"a slice of shards has step 1, got {step}; take items one by one")
        return self._read(first, max(first, stop))

    def _read(self, first: int, stop: int) -> np.ndarray:
        """Items first ... stop - 1."""
        values = np.empty((stop - first, *self.shape[1:]), self.dtype)
        done = first
        while done < stop:
            file = bisect_right(self._firsts, done) - 1
            end = min(stop, self._firsts[file + 1])
            self._fill(values[done - first : end - first], file, done - self._firsts[file])
            done = end
        return values

    def _fill(self, values: np.ndarray, file: int, row: int) -> None:
        """Reads consecutive items of a file, the first of them its `row`-th."""
        descriptor, start = self._opened(file)
        wanted = values.reshape(-1).view(np.uint8).data
        place = start + row * (values.nbytes // len(values))
        while wanted:
            if (num_bytes := os.preadv(descriptor, [wanted], place)) == 0:
                raise Refusal(f"{self.paths[file]} ends early; {REMEDY}")
            wanted, place = wanted[num_bytes:], place + num_bytes

    def _opened(self, file: int) -> tuple[int, int]:
        if (found := self._open.pop(file, None)) is None:
            if len(self._open) == MOST_OPEN:
                os.close(self._open.pop(next(iter(self._open)))[0])
            found = self._look_at(file)
        self._open[file] = found
        return found

    def _look_at(self, file: int) -> tuple[int, int]:
        path, shape = self.paths[file], (self._firsts[file + 1] - self._firsts[file], *self.shape[1:])
        try:
            with path.open("rb") as opened:
                found = HEADERS[np.lib.format.read_magic(opened)[0]](opened)
                descriptor, start = os.dup(opened.fileno()), opened.tell()
        except FileNotFoundError as error:
            raise Refusal(f"{path} is missing; {REMEDY}") from error
        except (KeyError, ValueError) as error:
            raise Refusal(f"{path} is no array that numpy reads; {REMEDY}") from error
        if found != (shape, False, self.dtype):
            os.close(descriptor)
            raise Refusal(f"{path} holds {found[2]} {found[0]}, expected {self.dtype} {shape}; {REMEDY}")
        return descriptor, start


def _close(opened: dict[int, tuple[int, int]]) -> None:
    for descriptor, _ in opened.values():
        os.close(descriptor)
    opened.clear()
