"""The policy `pad`: every clip at its own shape, a batch filled up with zeros to its largest clip, for backbones of one shape a batch."""

from collections.abc import Callable, Sequence

from bench.data.policy.contract import BatchingPolicy
from bench.data.policy.own_shapes import at_own_shapes
from bench.shapes import Shape, bounding_shape, num_voxels


def as_they_come(order: Sequence[int], shapes: Sequence[Shape], cost: Callable[[int], int], voxel_budget: int) -> list[list[int]]:
    """As many items as fit the budget when each takes the room of all of them together's largest frames, height and width."""
    batches: list[list[int]] = []
    for item in order:
        together = [*batches[-1], item] if batches else []
        if together and len(together) * num_voxels(bounding_shape([shapes[member] for member in together])) <= voxel_budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


PAD = BatchingPolicy(name="pad", word="padded batches", family="own shapes", fit=at_own_shapes, plan=as_they_come, pads=True)
