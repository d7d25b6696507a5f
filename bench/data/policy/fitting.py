"""The items of a split: what of each clip is trained on under a batching policy, or judged by, and what is lost, and why.

Knows integers and boxes, not pixels, and no policy.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.data.policy.config import Batching
from bench.data.policy.contract import Item, Lost, Rules
from bench.data.policy.own_shapes import at_own_shapes
from bench.data.policy.table import POLICIES
from bench.data.source import SourceConfig
from bench.shapes import LatentSpec, Refusal, Shape, shape_text


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """All clips of a split, fitted."""

    items: tuple[Item, ...]
    lost: tuple[Lost, ...]
    shapes: tuple[Shape, ...]  # distinct shapes of the items, most frequent first


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
    found = rules.fit(shapes, rules)
    items = tuple(item for each in found if not isinstance(each, Lost) for item in each)
    lost = tuple(each for each in found if isinstance(each, Lost))
    if not items:
        raise Refusal(f"{rules.nothing}: {len(lost)} are lost, clip {lost[0].clip} {lost[0].reason}")
    if empty := set(rules.buckets) - {item.shape for item in items}:
        name = shape_text(sorted(empty)[0])
        raise Refusal(f"bucket {name} stays empty: no clip is best kept by it; remove it from batching.buckets or add clips of its shape")
    counts = Counter(item.shape for item in items)
    return Fitted(items=items, lost=lost, shapes=tuple(shape for shape, _ in counts.most_common()))
