"""What a physics world says of itself: one object. Knows no world by name, and no torch.

A clip begins with a start: a value for each of the world's parameters, drawn by region (regions.py), and a seed for what is free, such as
places and colours. The world films what follows from it, by the laws of its physics or, for an invalid twin, against one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.shapes import Shape

Range = tuple[float, float]  # smallest, largest
Ranges = Mapping[str, tuple[Range, ...]]  # parameter -> every range it is drawn from, the trained one first


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number that a clip's start has."""

    name: str
    trained: Range  # clips to train on are drawn from here, uniformly
    beyond: tuple[Range, ...] = ()  # where no such clip lies; () = it never leaves `trained`
    unit: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one clip is to show."""

    start: Mapping[str, float]  # parameter -> value
    seed: int  # of all that is free; the same seed and start give the same clip
    shape: Shape  # (T, H, W) in pixels
    fps: float
    altered: str | None = None  # the law that is broken, one of `World.twins`; None: none is
    known: int = 1  # frames that a twin shares with the valid clip, bit for bit: the law holds until then


@dataclass(frozen=True, kw_only=True)
class Film:
    """A clip with its exact state."""

    frames: np.ndarray  # (T, H, W, 3) uint8
    truth: Mapping[str, np.ndarray]  # each (T, objects, ...) float64; the same names and shapes in all clips of a world


@dataclass(frozen=True, kw_only=True)
class World:
    """One kind of physics."""

    name: str  # `data.world` of a matrix
    version: int  # bump when a clip of the same start changes
    says: str  # what a clip shows, in a line
    unit: str  # of length: what it is in frames, such as "tenth of the frame's shorter side"
    fps: float  # frames per second, unless a matrix says otherwise
    parameters: tuple[Parameter, ...]
    withheld: tuple[str, str]  # two parameters whose upper halves never meet in training: region `combinatorial`
    twins: tuple[str, ...]  # laws that can be broken
    # The clip; None where a law is to be broken that nothing in it obeys, such as a bounce where none comes after the known frames.
    film: Callable[[Scene], Film | None]
    # Refusal where clips of these ranges do not fit (T, H, W) in pixels at so many frames per second.
    check: Callable[[Ranges, Shape, float], None]
    made_with: tuple[str, ...] = ()  # distributions whose versions change a clip's bits
    spread: bool = False  # a clip takes long enough that several processes make them

    def parameter(self, name: str) -> Parameter:
        """The parameter of a name that the world has."""
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def settings(self) -> dict[str, Any]:
        """What determines a clip beside config and libraries."""
        return {"world": self.name, "version": self.version}
