"""Which clips make up which batch. Knows integers, not tensors.

What the k-th batch holds is a function of seed and k alone, so all backbones draw the same clips in the same order, and a
resumed run goes on where it stopped, in the middle of an epoch too. A clip's draw index, its place among all clips ever
drawn, seeds its noise and its timestep.

`crop` and `bucket` fill batches of one shape; what fills none at the end of an epoch waits for another epoch's order. `pack`
fills a budget of latent voxels with clips of any shapes, first fit, after NaViT (2307.06304, section 2.1). `pad` takes clips
as they come, as many as fit when each is filled up to the largest of them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bench.data.policy.config import Batching
from bench.data.seeds import stream_seed
from bench.shapes import Refusal, Shape, bounding_shape, num_voxels

OPEN_PACKS = 16  # packs that a clip is tried in before the fullest is closed
KEPT_EPOCHS = 2  # plans held in memory: the one that is trained on, and the next


@dataclass(frozen=True)
class Batch:
    """One optimiser step's clips."""

    items: tuple[int, ...]  # of the training set
    first_draw: int  # draw index of the first; the others follow


class BatchStream:
    """Batches of a training set without end: `batch(k)` is the k-th. Made new at every start, it says the same again."""

    def __init__(self, shapes: Sequence[Shape], batching: Batching, seed: int, kept_voxels: Callable[[int, int], int] | None = None):
        """Latent shapes of the items. `kept_voxels(item, epoch)`: what an item costs where tokens are dropped; else all its voxels."""
        if not shapes:
            raise Refusal("cannot draw from 0 clips; the training split needs at least 1")
        self.shapes, self.batching, self.seed = tuple(shapes), batching, seed
        self.kept_voxels = kept_voxels or (lambda item, epoch: num_voxels(self.shapes[item]))
        self._starts = [(0, 0)]  # of each epoch known so far: its first batch and its first draw
        self.epoch = lru_cache(KEPT_EPOCHS)(self._plan)

    def batch(self, index: int) -> Batch:
        """The batch of optimiser step `index`, from 0."""
        if self.batching.batch_size is not None:  # one shape: batches go on over the ends of epochs, and nothing waits
            first, num = index * self.batching.batch_size, self.batching.batch_size
            return Batch(tuple(drawn_clips(self.seed, len(self.shapes), first, num)), first)
        while self._starts[-1][0] <= index:
            self._extend()
        epoch = next(epoch for epoch in range(len(self._starts) - 2, -1, -1) if self._starts[epoch][0] <= index)
        first_batch, first_draw = self._starts[epoch]
        batches = self.epoch(epoch)
        before = sum(len(items) for items in batches[: index - first_batch])
        return Batch(batches[index - first_batch], first_draw + before)

    def epoch_of(self, draw: int) -> int:
        """The epoch that a draw of a batch already given belongs to."""
        if self.batching.batch_size is not None:
            return draw // len(self.shapes)
        return next(epoch for epoch in range(len(self._starts) - 1, -1, -1) if self._starts[epoch][1] <= draw)

    def _extend(self) -> None:
        batches = self.epoch(len(self._starts) - 1)
        first_batch, first_draw = self._starts[-1]
        self._starts.append((first_batch + len(batches), first_draw + sum(map(len, batches))))

    def _plan(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """All batches of an epoch. Refusal where there is none."""
        order = [int(item) for item in _epoch_order(self.seed, len(self.shapes), epoch)]
        batches = PLANNERS[self.batching.policy](order, self.shapes, self.batching, lambda item: self.kept_voxels(item, epoch))
        if not batches:
            counts = ", ".join(f"{num} of {'x'.join(map(str, shape))}" for shape, num in Counter(self.shapes).most_common(3))
            raise Refusal(
                f"no batch can be filled: batching.voxel_budget {self.batching.voxel_budget} holds more clips of each shape than there are "
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
    if num_clips < 1:
        raise Refusal(f"cannot draw from {num_clips} clips; the training split needs at least 1")
    draws = range(first_draw, first_draw + num_draws)
    return [int(_epoch_order(seed, num_clips, draw // num_clips)[draw % num_clips]) for draw in draws]


ItemCost = Callable[[int], int]


def clips_per_batch(shape: Shape, batching: Batching) -> int:
    """Clips of latent shape (T, H, W) in a full batch of that shape."""
    if batching.batch_size is not None:
        return batching.batch_size
    assert batching.voxel_budget is not None
    return batching.voxel_budget // num_voxels(shape)


def _by_bucket(order: Sequence[int], shapes: Sequence[Shape], batching: Batching, cost: ItemCost) -> list[list[int]]:
    """Full batches of one shape, in the order in which they fill."""
    waiting: dict[Shape, list[int]] = defaultdict(list)
    batches = []
    for item in order:
        bucket = waiting[shapes[item]]
        bucket.append(item)
        if len(bucket) == clips_per_batch(shapes[item], batching):
            batches.append(waiting.pop(shapes[item]))
    return batches


def _packed(order: Sequence[int], shapes: Sequence[Shape], batching: Batching, cost: ItemCost) -> list[list[int]]:
    assert batching.voxel_budget is not None
    costs = {item: cost(item) for item in order}
    return [[order[place] for place in pack] for pack in pack_greedily([costs[item] for item in order], batching.voxel_budget)]


def pack_greedily(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Places of `costs`, in packs whose costs add up to `budget` or less. Each place is in one pack. Refusal for one that fits none.

    First fit among the open packs, in the order given, so that packs stay random; when a clip fits none of `OPEN_PACKS`, the fullest
    is closed. What is open at the end is packed again, largest first, and comes in a fresh order of its first places.

    >>> pack_greedily([3, 4, 2, 1], 5)
    [[0, 2], [1, 3]]
    """
    closed: list[list[int]] = []
    open_packs: list[tuple[list[int], int]] = []
    for place, cost in enumerate(costs):
        if cost > budget:
            raise Refusal(
                f"a clip of {cost} latent voxels is larger than the budget of {budget}; raise batching.voxel_budget or leave it out"
            )
        for index, (pack, room) in enumerate(open_packs):
            if cost <= room:
                pack.append(place)
                open_packs[index] = (pack, room - cost)
                break
        else:
            if len(open_packs) == OPEN_PACKS:
                fullest = min(range(OPEN_PACKS), key=lambda index: open_packs[index][1])
                closed.append(open_packs.pop(fullest)[0])
            open_packs.append(([place], budget - cost))
    return closed + _largest_first([place for pack, _ in open_packs for place in pack], costs, budget)


def _largest_first(places: Sequence[int], costs: Sequence[int], budget: int) -> list[list[int]]:
    """First fit decreasing: what is left at the end of an epoch, in as few packs as this finds."""
    packs: list[tuple[list[int], int]] = []
    for place in sorted(places, key=lambda place: (-costs[place], place)):
        for index, (pack, room) in enumerate(packs):
            if costs[place] <= room:
                pack.append(place)
                packs[index] = (pack, room - costs[place])
                break
        else:
            packs.append(([place], budget - costs[place]))
    return sorted(sorted(pack) for pack, _ in packs)


def _padded(order: Sequence[int], shapes: Sequence[Shape], batching: Batching, cost: ItemCost) -> list[list[int]]:
    """As many clips as fit the budget when each takes the room of all of them together's largest frames, height and width."""
    assert batching.voxel_budget is not None
    batches: list[list[int]] = []
    for item in order:
        together = [*batches[-1], item] if batches else []
        if together and len(together) * num_voxels(bounding_shape([shapes[member] for member in together])) <= batching.voxel_budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


PLANNERS: dict[str, Callable[[Sequence[int], Sequence[Shape], Batching, ItemCost], list[list[int]]]] = {
    "crop": _by_bucket,
    "bucket": _by_bucket,
    "pack": _packed,
    "pad": _padded,
}
