"""The stream of a training set's batches: which clips make up which. Knows integers, not tensors, and no policy.

What the k-th batch holds is a function of seed and k alone, so all backbones draw the same clips in the same order, and a
resumed run goes on where it stopped, in the middle of an epoch too. A clip's draw index, its place among all clips ever
drawn, seeds its noise and its timestep.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from bench.data.policy.config import Batching
from bench.data.policy.order import drawn_clips, num_windows, window_clips
from bench.data.policy.stills import FIRST_STILL_DRAW, drawn_stills, shows_stills, still_steps
from bench.data.policy.table import POLICIES
from bench.shapes import Refusal, Shape, num_voxels, shape_text

KEPT_PLANS = 2  # held in memory: the one that is trained on, and the next


@dataclass(frozen=True)
class Batch:
    """One optimiser step's clips."""

    items: tuple[int, ...]  # of the training set
    first_draw: int  # draw index of the first; the others follow
    epoch: int = 0  # of the first
    frames: tuple[int, ...] | None = None  # latent frame of each item that is shown, as a still; None: all of them are, as clips


class BatchStream:
    """Batches of a training set without end: `batch(k)` is the k-th. Made new at every start, it says the same again.

    Batches are planned an epoch at a time, or a window at a time where there is one: what fills no batch of its window waits for another
    epoch, which puts it among others.
    """

    def __init__(self, shapes: Sequence[Shape], batching: Batching, seed: int, kept_voxels: Callable[[int, int], int] | None = None):
        """Latent shapes of the items. `kept_voxels(item, epoch)`: what an item costs where tokens are dropped; else all its voxels."""
        self.shapes, self.batching, self.seed = shapes, batching, seed
        self.kept_voxels = kept_voxels or (lambda item, epoch: num_voxels(self.shapes[item]))
        self.plans_per_epoch = num_windows(len(shapes), batching.shuffle_window)
        self._starts = [(0, 0)]  # of each plan known so far: its first batch and its first draw
        self._plan = lru_cache(KEPT_PLANS)(self._planned)

    def batch(self, index: int) -> Batch:
        """The batch of optimiser step `index`, from 0."""
        if self.batching.batch_size is not None:  # one shape: batches go on over the ends of epochs, and nothing waits
            stills = still_steps(self.batching.stills, index)
            if shows_stills(self.batching.stills, index):
                return self._of_stills(stills)
            first, num = (index - stills) * self.batching.batch_size, self.batching.batch_size
            items = drawn_clips(self.seed, len(self.shapes), first, num, self.batching.shuffle_window)
            return Batch(tuple(items), first, first // len(self.shapes))
        while self._starts[-1][0] <= index:
            plan = len(self._starts) - 1
            batches = self._plan(plan)
            first_batch, first_draw = self._starts[plan]
            self._starts.append((first_batch + len(batches), first_draw + sum(map(len, batches))))
            epoch, left = divmod(plan + 1, self.plans_per_epoch)
            if left == 0 and self._starts[-1] == self._starts[(epoch - 1) * self.plans_per_epoch]:
                raise self._nothing()
        plan = bisect_right(self._starts, index, key=lambda start: start[0]) - 1  # the last of those that start there: others are empty
        first_batch, first_draw = self._starts[plan]
        batches = self._plan(plan)
        before = sum(len(items) for items in batches[: index - first_batch])
        return Batch(batches[index - first_batch], first_draw + before, plan // self.plans_per_epoch)

    def shapes_of(self, batch: Batch) -> list[Shape]:
        """Latent (T, H, W) of each clip, or still, of a batch."""
        shapes = [self.shapes[item] for item in batch.items]
        return shapes if batch.frames is None else [(1, height, width) for _, height, width in shapes]

    def _of_stills(self, index: int) -> Batch:
        """The `index`-th batch of stills."""
        assert self.batching.batch_size is not None
        frames = self.shapes[0][0]
        num = self.batching.batch_size * frames
        first = index * num
        clips, shown = drawn_stills(self.seed, len(self.shapes), frames, first, num, self.batching.shuffle_window)
        return Batch(tuple(clips), FIRST_STILL_DRAW + first, first // len(self.shapes), tuple(shown))

    def epoch(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """All batches of an epoch. Refusal where there is none."""
        first = epoch * self.plans_per_epoch
        batches = tuple(batch for plan in range(first, first + self.plans_per_epoch) for batch in self._plan(plan))
        if not batches:
            raise self._nothing()
        return batches

    def _planned(self, plan: int) -> tuple[tuple[int, ...], ...]:
        """The batches of a plan, the `plan`-th of all."""
        epoch, index = divmod(plan, self.plans_per_epoch)
        order = window_clips(self.seed, len(self.shapes), epoch, index, self.batching.shuffle_window).tolist()
        budget = self.batching.voxel_budget
        assert budget is not None  # else batches are counted in clips, and nothing is planned
        batches = POLICIES.find(self.batching.policy).plan(order, self.shapes, lambda item: self.kept_voxels(item, epoch), budget)
        return tuple(map(tuple, batches))

    def _nothing(self) -> Refusal:
        counts = ", ".join(f"{num} of {shape_text(shape)}" for shape, num in Counter(self.shapes).most_common(3))
        among = f"among {self.batching.shuffle_window} draws (batching.shuffle_window)" if self.plans_per_epoch > 1 else "there are"
        return Refusal(
            f"no batch can be filled: batching.voxel_budget {self.batching.voxel_budget} holds more clips of each shape than {among} "
            f"(latents: {counts}); lower it"
        )


def clips_per_batch(shape: Shape, batching: Batching) -> int:
    """Clips of latent shape (T, H, W) in a full batch of that shape."""
    if batching.batch_size is not None:
        return batching.batch_size
    assert batching.voxel_budget is not None
    return batching.voxel_budget // num_voxels(shape)
