"""The policy `bucket`: every clip is brought to the one of several shapes that keeps most of it; a batch has one shape."""

import math
from collections import Counter
from collections.abc import Sequence

from bench.data.policy.contract import BatchingPolicy, Item, Lost, Rules
from bench.data.policy.covering import covered, full_batches
from bench.data.policy.own_shapes import native_shape
from bench.shapes import Refusal, Shape

MAX_BUCKETS = 16  # derived ones; rarer shapes join the bucket that keeps most of them


def bucketed(shapes: Sequence[Shape], rules: Rules) -> list[list[Item] | Lost]:
    """Windows of the shapes that the user lists, or of those that clips have most often."""
    return covered("bucket", rules.buckets or _frequent(shapes, rules), shapes, rules)


def _frequent(shapes: Sequence[Shape], rules: Rules) -> tuple[Shape, ...]:
    counts = Counter(native_shape(shape, rules.multiple) for shape in shapes)
    possible = [(shape, num) for shape, num in counts.most_common() if 0 < math.prod(shape) <= rules.max_pixels]
    # A bucket that cannot fill one batch would never be trained on.
    filling = [shape for shape, num in possible if num * math.prod(shape) >= rules.max_pixels]
    found = tuple((filling or [shape for shape, _ in possible])[:MAX_BUCKETS])
    if not found:
        raise Refusal(f"no clip fits batching.voxel_budget ({rules.max_pixels:,} pixels of a clip); raise it or use smaller clips")
    return found


BUCKET = BatchingPolicy(
    name="bucket", word="buckets", family="buckets", fit=bucketed, plan=full_batches, full_batches=True, takes_buckets=True
)
