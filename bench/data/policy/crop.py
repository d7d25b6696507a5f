"""The policy `crop`: every clip is brought to the one shape of the data, images to one frame of it."""

from collections.abc import Sequence

from bench.data.policy.contract import BatchingPolicy, Item, Lost, Rules
from bench.data.policy.covering import covered, full_batches
from bench.shapes import Shape


def cropped(shapes: Sequence[Shape], rules: Rules) -> list[list[Item] | Lost]:
    """Windows of the one shape."""
    return covered("crop", (rules.one_shape, (1, *rules.one_shape[1:])), shapes, rules)


CROP = BatchingPolicy(
    name="crop", word="crops", family="crops", fit=cropped, plan=full_batches, one_shape=True, full_batches=True, baseline=True
)
