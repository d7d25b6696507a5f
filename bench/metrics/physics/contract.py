"""What a scorecard of a physics world says of itself: one object. Parts, never one sum; from pixels, by classical measurement. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.data.sources.physics import Config
from bench.metrics.pixels.contract import PixelValue

Readings = Mapping[str, np.ndarray]  # what an instrument reads: each (N, T, ...), NaN where it can read nothing
PerClip = Mapping[str, np.ndarray]  # value -> (N,), NaN for a clip that has none, such as a bounce that the truth does not have


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a scorecard is told beside the clips: all of a subject's clips continue the same true ones."""

    config: Config  # the world and the clips' shape
    fps: float
    known: int  # first frames, which every subject was given
    truth: Mapping[str, np.ndarray]  # exact state of the true clips, each (N, T, objects, ...)


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """The scores of some worlds."""

    name: str  # in its protocol
    version: int  # bump with any change of a value
    worlds: tuple[str, ...]  # that it scores
    values: tuple[PixelValue, ...]  # every name that `score` gives, in order
    primary: str  # the one of them that says most: an error, so lower is better
    read: Callable[[np.ndarray, Stage], Readings]  # clips (N, T, H, W, 3) uint8; may look at the truth of the known frames, no further
    score: Callable[[Readings, Stage], PerClip]  # of frames after the known ones, against the whole truth
    continued: Callable[
        [np.ndarray, Stage], np.ndarray
    ]  # the constant-velocity floor: true clips, going on as they move in the known frames
    # reading (N, T) or (N, T, K) -> what a report draws over time, predicted beside true: name in `read` and the same from the truth
    drawn: Callable[[Readings, Stage], Mapping[str, tuple[np.ndarray, np.ndarray]]]
    settings: Mapping[str, Any] = field(default_factory=dict)  # thresholds and the like, all of them in the protocol
