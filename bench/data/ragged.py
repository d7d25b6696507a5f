"""Arrays of many shapes in one flat array: clips, or latents, of any size, aspect and duration. Knows no torch.

Three clips of (2, 4, 6, 3), (1, 8, 8, 3) and (2, 4, 6, 3) values lie one behind the other; a memory map of the file is enough to read
any of them. Only what a sequence offers is offered, so that code for one stacked array of equal clips mostly works on these too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast, overload

import numpy as np

from bench.data.repeated import Repeated
from bench.data.shards import Sharded
from bench.shapes import Refusal, Shape


class Ragged(Sequence[np.ndarray]):
    """Item i is a view of `flat` with shape `shapes[i]`."""

    def __init__(self, flat: np.ndarray | Sharded, shapes: Sequence[Sequence[int]]):
        """`flat` (values,); `shapes` one a item. Refusal where they do not account for every value."""
        self.flat = cast(np.ndarray, flat)  # all that is asked of it is a slice
        self.shapes: tuple[tuple[int, ...], ...] = tuple(tuple(int(size) for size in shape) for shape in shapes)
        ends = np.cumsum([math.prod(shape) for shape in self.shapes], dtype=np.int64)
        self._bounds = [0, *ends.tolist()]
        if flat.ndim != 1 or len(flat) != self._bounds[-1]:
            raise Refusal(f"{len(self.shapes)} items hold {self._bounds[-1]} values, got an array of shape {flat.shape}")

    @property
    def dtype(self) -> np.dtype:
        """Of every item."""
        return self.flat.dtype

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Ragged: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Ragged:
        if isinstance(index, slice):
            first, stop, step = index.indices(len(self))
            if step != 1:
                raise Refusal(f"a slice of ragged items has step 1, got {step}; take them one by one")
            stop = max(first, stop)
            return Ragged(self.flat[self._bounds[first] : self._bounds[stop]], self.shapes[first:stop])
        place = range(len(self))[index]
        return self.flat[self._bounds[place] : self._bounds[place + 1]].reshape(self.shapes[place])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


Frames = np.ndarray | Ragged  # clips: (N, T, H, W, 3) uint8 where all have one shape, else N of (T, H, W, 3)


def clip_shapes(frames: Frames) -> Sequence[Shape]:
    """(T, H, W) of each clip."""
    if isinstance(frames, Ragged):
        return tuple((shape[0], shape[1], shape[2]) for shape in frames.shapes)
    return Repeated((frames.shape[1], frames.shape[2], frames.shape[3]), len(frames))


def stacked(clips: Iterable[np.ndarray], num: int) -> Frames:
    """`num` clips (T, H, W, 3), one at a time, as one array where all have one shape, else one behind the other.

    >>> stacked([np.zeros((1, 2, 2, 3), np.uint8)] * 2, 2).shape
    (2, 1, 2, 2, 3)
    """
    parts: list[np.ndarray] = []
    whole: np.ndarray | None = None  # filled as clips come, while they are of one shape: never all of them twice
    for index, clip in enumerate(clips):
        if whole is None and not parts:
            whole = np.empty((num, *clip.shape), clip.dtype)
        if whole is not None and clip.shape == whole.shape[1:]:
            whole[index] = clip
            continue
        if whole is not None:
            parts, whole = list(whole[:index]), None
        parts.append(clip)
    if whole is not None:
        return whole
    return Ragged(np.concatenate([part.ravel() for part in parts]), [part.shape for part in parts])


def in_batches(shapes: Sequence[Shape], most: Callable[[Shape], int]) -> Iterator[list[int]]:
    """Items that go through a network together: of one shape, up to `most` of it at once and at least one."""
    for shape, members in by_shape(shapes).items():
        size = max(1, most(shape))
        yield from (members[start : start + size] for start in range(0, len(members), size))


def by_shape(shapes: Sequence[Shape]) -> dict[Shape, list[int]]:
    """Shape -> the items that have it, in order; shapes in the order of their first item.

    >>> by_shape([(1, 8, 8), (2, 8, 8), (1, 8, 8)])
    {(1, 8, 8): [0, 2], (2, 8, 8): [1]}
    """
    members: dict[Shape, list[int]] = {}
    for index, shape in enumerate(shapes):
        members.setdefault(shape, []).append(index)
    return members
