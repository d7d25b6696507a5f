"""What a measure of clips by their pixels, without a network, says of itself: one object. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bench.data.ragged import Frames
from bench.shapes import Refusal

SHARE = "share of clips"  # a unit, shown in per cent


@dataclass(frozen=True, kw_only=True)
class PixelSets:
    """The clips of one comparison, and what is known of them. All sets have the shapes of the test clips about equally often."""

    clips: Mapping[str, Frames]  # subject -> its clips (N, T, H, W, 3) uint8
    test: Frames  # the real clips they are compared with
    source: str  # identity of the real clips
    mixed: bool = False  # clips of several shapes, or of another shape than most that were trained on
    num_objects: int | None = None  # in every clip, where the source makes them so
    boxes: Sequence[np.ndarray] | None = None  # (T, 4) of the one object of each test clip, in pixels, where it is known


@dataclass(frozen=True, kw_only=True)
class PixelValue:
    """One number of a measure, as a record and a report name it."""

    name: str
    title: str  # in reports
    better: Literal["lower", "higher", "none"]
    unit: str = "1"
    axis: bool = False  # gets a verdict
    plain: str = ""  # what clips that are better by it do, in a sentence: "show their subject whole"


@dataclass(frozen=True, kw_only=True)
class PixelMeasure:
    """What clips' pixels say: `measure(frames)` -> value by name, or quantities (N, D) of each clip.

    The value of quantities is their mean Wasserstein distance to those of the real clips, with its interval; NaN in a clip without any.
    """

    name: str  # in its protocol
    version: int  # bump with any change of a value
    values: tuple[PixelValue, ...]  # every name that `measure` gives, in order; it may leave some out
    measure: Callable[..., Mapping[str, float | np.ndarray]]  # frames (N, T, H, W, 3) uint8; of clips of many shapes, N of (T, H, W, 3)
    settings: Mapping[str, Any] = field(default_factory=dict)  # thresholds and the like, all of them in the protocol
    applies: Callable[[PixelSets], bool] = lambda sets: True  # the data that it means something for
    truth: Callable[[PixelSets], Mapping[str, np.ndarray]] | None = None  # quantities of the real clips, where they need not be seen
    versions_of: str | None = None  # subject whose same clips are handed over too, `measure(those, frames)`: only `reconstruction` has them

    def protocol(self, source: str, num_clips: int, **more: Any) -> dict[str, Any]:
        """All that moves its values beside the clips that are measured."""
        return {"measure": self.name, "version": self.version, "clips": source, "num_clips": num_clips, **self.settings, **more}

    def value(self, name: str) -> PixelValue:
        """What is known of one of its values. Refusal for a name that it never announced."""
        for known in self.values:
            if known.name == name:
                return known
        names = ", ".join(known.name for known in self.values)
        raise Refusal(f"pixel measure {self.name!r} gave a value {name!r} that it does not list; it lists {names}")
