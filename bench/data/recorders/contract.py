"""What a recorder is: an engine that draws video, and what must be known of it to use its clips. Knows no engine."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A clip as it was drawn."""

    frames: np.ndarray  # (T, H, W, 3) uint8, of the recorder's own height and width
    state: Mapping[str, np.ndarray] = field(default_factory=dict)  # exact state by name, (T, ...) of what moves; {} where none is told


ClipMaker = Callable[[int, int], Recorded]
"""camera(seed, num_frames): a clip that depends on these two alone, not on the clips before it. Refusal where there is none so long."""


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """An engine by its name. Processes of their own import it; each opens one camera at a time."""

    name: str  # of `record`
    version: int  # bump when the same seed gives other clips
    records: str  # what is seen, in one line
    licence: str  # of what is seen
    notice: str  # whom to name where clips are passed on
    package: str  # the distribution that draws, whose version is told; its module has the same name
    extra: str | None = None  # of this project, which installs it; None: it came with the recorder
    classes: tuple[str, ...]  # names of folders; clip k is of class k modulo their number
    height: int  # pixels of a frame as it is drawn
    width: int
    num_frames: int  # of a clip, by default
    fps: float  # frames per second
    has_state: bool  # whether exact state comes with every clip
    open: Callable[[str], AbstractContextManager[ClipMaker]]  # the camera of a class; a function that can be pickled
