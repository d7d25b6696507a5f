"""The stream of a training set's batches: which clips make up which. Knows integers, not tensors, and no policy.

What the k-th batch holds is a function of seed and k alone, so all backbones draw the same clips in the same order, and a
resumed run goes on where it stopped, in the middle of an epoch too. A clip's draw index, its place among all clips ever
drawn, seeds its noise and its timestep.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bench.data.policy.config import Batching
from bench.data.policy.table import POLICIES
from bench.data.seeds import stream_seed
from bench.shapes import Refusal, Shape, num_voxels, shape_text

KEPT_EPOCHS = 2  # plans held in memory: the one that is trained on, and the next


@dataclass(frozen=True)
class Batch:
    """One optimiser step's clips."""

    items: tuple[int, ...]  # of the training set
    first_draw: int  # draw index of the first; the others follow
    epoch: int = 0  # of the first


class BatchStream:
    """Batches of a training set without end: `batch(k)` is the k-th. Made new at every start, it says the same again."""

    def __init__(self, shapes: Sequence[Shape], batching: Batching, seed: int, kept_voxels: Callable[[int, int], int] | None = None):
        """Latent shapes of the items. `kept_voxels(item, epoch)`: what an item costs where tokens are dropped; else all its voxels."""
        self.shapes, self.batching, self.seed = tuple(shapes), batching, seed
        self.kept_voxels = kept_voxels or (lambda item, epoch: num_voxels(self.shapes[item]))
        self._starts = [(0, 0)]  # of each epoch known so far: its first batch and its first draw
        self.epoch = lru_cache(KEPT_EPOCHS)(self._plan)

    def batch(self, index: int) -> Batch:
        """The batch of optimiser step `index`, from 0."""
        if self.batching.batch_size is not None:  # one shape: batches go on over the ends of epochs, and nothing waits
            first, num = index * self.batching.batch_size, self.batching.batch_size
            return Batch(tuple(drawn_clips(self.seed, len(self.shapes), first, num)), first, first // len(self.shapes))
        while self._starts[-1][0] <= index:
            batches = self.epoch(len(self._starts) - 1)
            first_batch, first_draw = self._starts[-1]
            self._starts.append((first_batch + len(batches), first_draw + sum(map(len, batches))))
        epoch = next(epoch for epoch in range(len(self._starts) - 2, -1, -1) if self._starts[epoch][0] <= index)
        first_batch, first_draw = self._starts[epoch]
        batches = self.epoch(epoch)
        before = sum(len(items) for items in batches[: index - first_batch])
        return Batch(batches[index - first_batch], first_draw + before, epoch)

    def _plan(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """All batches of an epoch. Refusal where there is none."""
        order = [int(item) for item in _epoch_order(self.seed, len(self.shapes), epoch)]
        budget = self.batching.voxel_budget
        assert budget is not None  # else batches are counted in clips, and nothing is planned
        batches = POLICIES.find(self.batching.policy).plan(order, self.shapes, lambda item: self.kept_voxels(item, epoch), budget)
        if not batches:
            counts = ", ".join(f"{num} of {shape_text(shape)}" for shape, num in Counter(self.shapes).most_common(3))
            raise Refusal(
                f"no batch can be filled: batching.voxel_budget {budget} holds more clips of each shape than there are "
                f"(latents: {counts}); lower it"
            )
        return tuple(map(tuple, batches))


@lru_cache(maxsize=4)
def _epoch_order(seed: int, num_clips: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(stream_seed(seed, "order", epoch)).permutation(num_clips)


def drawn_clips(seed: int, num_clips: int, first_draw: int, num_draws: int) -> list[int]:
    """Clip indices of draws first_draw ... first_draw + num_draws - 1; each epoch is a fresh permutation of all clips.

    >>> sorted(drawn_clips(0, 5, 5, 5))
    [0, 1, 2, 3, 4]
    """
    draws = range(first_draw, first_draw + num_draws)
    return [int(_epoch_order(seed, num_clips, draw // num_clips)[draw % num_clips]) for draw in draws]


def clips_per_batch(shape: Shape, batching: Batching) -> int:
    """Clips of latent shape (T, H, W) in a full batch of that shape."""
    if batching.batch_size is not None:
        return batching.batch_size
    assert batching.voxel_budget is not None
    return batching.voxel_budget // num_voxels(shape)
