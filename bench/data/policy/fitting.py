"""The items of a split: what of each clip is trained on under a batching policy, or judged by, and what is lost, and why.

Knows integers and boxes, not pixels, and no policy.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from bench.data.policy.config import Batching
from bench.data.policy.contract import Item, Lost, Rules
from bench.data.policy.own_shapes import at_own_shapes
from bench.data.policy.table import POLICIES
from bench.data.repeated import Repeated
from bench.data.source import SourceConfig
from bench.shapes import LatentSpec, Refusal, Shape, shape_text


class Alike(Sequence[Item]):
    """The items of clips of one shape: those of the first, of every clip. However many there are, they take no memory."""

    def __init__(self, first: tuple[Item, ...], num_clips: int):
        self.first, self.num_clips = first, num_clips

    def __len__(self) -> int:
        return len(self.first) * self.num_clips

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(len(self))[index])
        clip, place = divmod(range(len(self))[index], len(self.first))
        return replace(self.first[place], clip=clip)

    def __iter__(self) -> Iterator[Item]:
        return (replace(item, clip=clip) for clip in range(self.num_clips) for item in self.first)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """All clips of a split, fitted."""

    items: Sequence[Item]
    lost: tuple[Lost, ...]
    shapes: tuple[Shape, ...]  # distinct shapes of the items, most frequent first

    def num_of(self) -> Mapping[Shape, int]:
        """How many items have each shape."""
        if isinstance(self.items, Alike):
            return {shape: num * self.items.num_clips for shape, num in Counter(item.shape for item in self.items.first).items()}
        return Counter(item.shape for item in self.items)

    def of_items(self, values: np.ndarray) -> np.ndarray:
        """What clips have, (clips, ...), as what items have, (items, ...)."""
        if isinstance(self.items, Alike):
            return values if len(self.items.first) == 1 else np.repeat(values, len(self.items.first), axis=0)
        return values[[item.clip for item in self.items]]


def training_rules(data: SourceConfig, batching: Batching, spec: LatentSpec) -> Rules:
    """Rules of the training split: the policy's."""
    return Rules(
        fit=POLICIES.find(batching.policy).fit,
        nothing=f"batching.policy {batching.policy!r} leaves no clip to train on",
        one_shape=(data.num_frames, data.height, data.width),
        multiple=batching.side_multiple if data.mixed else 1,  # of data of one shape the backbone says itself what it takes
        max_pixels=sys.maxsize if batching.voxel_budget is None else batching.voxel_budget * spec.temporal_stride * spec.spatial_stride**2,
        buckets=batching.buckets,
    )


def held_out_rules(data: SourceConfig, batching: Batching) -> Rules:
    """Rules of validation and test: own shapes, whatever the policy, so that all policies are judged alike."""
    return Rules(
        fit=at_own_shapes,
        nothing="no held-out clip is large enough to be judged by",
        one_shape=(data.num_frames, data.height, data.width),
        multiple=batching.side_multiple if data.mixed else 1,
    )


def fit(shapes: Sequence[Shape], rules: Rules) -> Fitted:
    """Clips (T, H, W) in pixels -> items. Refusal where a shape that was asked for cannot be, or no item is left."""
    alike = isinstance(shapes, Repeated)
    found = rules.fit(shapes[:1] if alike else shapes, rules)
    items = tuple(item for each in found if not isinstance(each, Lost) for item in each)
    lost = tuple(each for each in found if isinstance(each, Lost))
    if not items:
        raise Refusal(f"{rules.nothing}: {len(shapes)} are lost, clip {lost[0].clip} {lost[0].reason}")
    if empty := set(rules.buckets) - {item.shape for item in items}:
        name = shape_text(sorted(empty)[0])
        raise Refusal(f"bucket {name} stays empty: no clip is best kept by it; remove it from batching.buckets or add clips of its shape")
    counts = Counter(item.shape for item in items)
    every = Alike(items, len(shapes)) if alike else items
    return Fitted(items=every, lost=lost, shapes=tuple(shape for shape, _ in counts.most_common()))
