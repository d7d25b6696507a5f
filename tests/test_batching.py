"""Order and make-up of batches: every clip once an epoch, resumable anywhere, different by epoch and seed, full where they can be."""

import random
from collections import Counter

import pytest

from bench.data.policy.batches import BatchStream, clips_per_batch
from bench.data.policy.config import Batching
from bench.data.policy.order import drawn_clips, window_clips
from bench.data.policy.own_shapes import OPEN_PACKS, pack_greedily
from bench.shapes import Shape, bounding_shape, num_voxels

SHAPES: list[Shape] = [(4, 4, 4)] * 9 + [(1, 4, 8)] * 6 + [(2, 6, 4)] * 7 + [(4, 2, 6)] * 5


def stream(policy: str, budget: int = 192, seed: int = 0, shapes: list[Shape] = SHAPES, window: int | None = None) -> BatchStream:
    return BatchStream(shapes, Batching.model_validate({"policy": policy, "voxel_budget": budget, "shuffle_window": window}), seed)


def test_batches_of_one_size_go_on_over_epochs() -> None:
    fixed = BatchStream([(1, 2, 2)] * 5, Batching(batch_size=3), 0)
    batches = [fixed.batch(index) for index in range(4)]
    assert [item for batch in batches for item in batch.items] == drawn_clips(0, 5, 0, 12)
    assert [batch.first_draw for batch in batches] == [0, 3, 6, 9]
    assert [batch.epoch for batch in batches] == [0, 0, 1, 1]


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("policy", ["crop", "bucket", "pack", "pad"])
def test_a_stream_started_again_says_the_same(policy: str, window: int | None) -> None:
    whole = stream(policy, window=window)
    batches = [whole.batch(index) for index in range(60)]
    for index in (59, 0, 23, 22):  # in any order, from a stream that has seen none of them
        assert stream(policy, window=window).batch(index) == batches[index]
    assert [stream(policy, seed=1, window=window).batch(index) for index in range(60)] != batches
    draws = 0
    for batch in batches:
        assert batch.first_draw == draws
        draws += len(batch.items)
    epochs = [batch.epoch for batch in batches]
    assert epochs == sorted(epochs) and all(batch.items in whole.epoch(batch.epoch) for batch in batches)
    assert len(whole.epoch(0)) < 30  # several epochs were seen


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("policy", ["pack", "pad"])
def test_every_clip_is_in_one_batch_of_an_epoch(policy: str, window: int | None) -> None:
    made = stream(policy, window=window)
    for epoch in range(3):
        assert sorted(item for batch in made.epoch(epoch) for item in batch) == list(range(len(SHAPES)))
    assert made.epoch(0) != made.epoch(1)


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("policy", ["crop", "bucket", "pack", "pad"])
def test_no_batch_exceeds_the_budget(policy: str, window: int | None) -> None:
    for batch in stream(policy, window=window).epoch(0):
        shapes = [SHAPES[item] for item in batch]
        room = len(batch) * num_voxels(bounding_shape(shapes)) if policy == "pad" else sum(map(num_voxels, shapes))
        assert room <= 192


def test_buckets_hold_one_shape_and_are_full() -> None:
    batches = stream("bucket").epoch(0)
    for batch in batches:
        (shape,) = {SHAPES[item] for item in batch}
        assert len(batch) == clips_per_batch(shape, Batching(policy="bucket", voxel_budget=192))
    counts = Counter(item for batch in batches for item in batch)
    assert set(counts.values()) == {1}
    left = [SHAPES[item] for item in range(len(SHAPES)) if item not in counts]
    assert Counter(left) == {(2, 6, 4): 3, (4, 2, 6): 1}  # 9 by 3, 6 by 6, 7 by 4, 5 by 4


def test_what_waits_in_one_epoch_is_drawn_in_another() -> None:
    seen = {item for epoch in range(20) for batch in stream("bucket").epoch(epoch) for item in batch}
    assert seen == set(range(len(SHAPES)))


def test_a_budget_that_no_bucket_fills_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"budget 1000 holds more clips of each shape than there are \(latents: 9 of 4x4x4"):
        stream("bucket", budget=1000).batch(0)


def test_batches_of_one_size_are_drawn_within_windows() -> None:
    fixed = BatchStream([(1, 2, 2)] * 50, Batching(batch_size=7, shuffle_window=10), 0)
    assert [item for index in range(20) for item in fixed.batch(index).items] == drawn_clips(0, 50, 0, 140, 10)


@pytest.mark.parametrize("policy", ["crop", "bucket", "pack", "pad"])
def test_a_batch_holds_clips_of_one_window(policy: str) -> None:
    made = stream(policy, window=12)
    windows = [set(window_clips(0, len(SHAPES), 0, index, 12).tolist()) for index in range(3)]
    places = [next(place for place, window in enumerate(windows) if set(batch) <= window) for batch in made.epoch(0)]
    assert places == sorted(places) and {0, 1} <= set(places)


def test_what_waits_in_a_window_is_drawn_in_another_epoch() -> None:
    shapes: list[Shape] = [(4, 4, 4)] * 20 + [(2, 6, 4)] * 20
    made = stream("bucket", shapes=shapes, window=8)
    counts = Counter(item for epoch in range(30) for batch in made.epoch(epoch) for item in batch)
    assert set(counts) == set(range(40)) and max(counts.values()) <= 30 and sum(counts.values()) < 30 * 40
    sparse = stream("bucket", shapes=[(4, 4, 4), *[(1, 4, 8)] * 5] * 5, window=6)  # some windows fill no batch
    plans = [len(sparse._planned(plan)) for plan in range(20)]
    assert 0 in plans and max(plans) > 0
    first = [sum(plans[:plan]) for plan in range(20)]
    for plan, num in enumerate(plans):
        assert tuple(sparse.batch(first[plan] + place).items for place in range(num)) == sparse._planned(plan)


def test_a_window_too_small_to_fill_a_batch_is_an_error() -> None:
    message = r"budget 576 holds more clips of each shape than among 8 draws \(batching.shuffle_window\)"
    with pytest.raises(ValueError, match=message):
        stream("bucket", budget=576, window=8).batch(0)
    with pytest.raises(ValueError, match=message):
        stream("bucket", budget=576, window=8).epoch(1)
    assert stream("bucket", budget=576).batch(0).items


def test_packs_by_hand() -> None:
    assert pack_greedily([3, 4, 2, 1], 5) == [[0, 2], [1, 3]]
    assert pack_greedily([5, 5, 1, 1], 6) == [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match="7 latent voxels is larger than the budget of 6"):
        pack_greedily([1, 7], 6)


def test_many_open_packs_close_the_fullest() -> None:
    costs = [6 + (place % 3) for place in range(3 * OPEN_PACKS)] + [3, 2, 1]
    packs = pack_greedily(costs, 9)
    assert sorted(place for pack in packs for place in pack) == list(range(len(costs)))
    assert all(sum(costs[place] for place in pack) <= 9 for pack in packs)
    assert packs[0] == [2]  # 8 of 9: the fullest of those open when the next clip fitted none


@pytest.mark.parametrize("seed", range(3))
def test_packs_of_a_mix_as_navit_has_it_are_full(seed: int) -> None:
    """Sides of 8 to 32 cells with a bias to small ones, aspects up to 3 to 1, one to 8 frames, in a budget of four of the largest."""
    rng = random.Random(seed)
    shapes: list[Shape] = []
    while len(shapes) < 2000:
        side, aspect = 8 + 24 * rng.random() ** 2, 3 ** rng.uniform(-1, 1)
        height, width = (2 * max(2, round(side * aspect**power / 2)) for power in (-0.5, 0.5))
        shapes.append((rng.choice([1, 1, 2, 4, 8]), height, width))
    budget = 4 * max(map(num_voxels, shapes))
    batches = stream("pack", budget, seed, shapes).epoch(0)
    assert sum(map(num_voxels, shapes)) / (len(batches) * budget) >= 0.98


def test_dropped_tokens_make_room() -> None:
    batching = Batching(policy="pack", voxel_budget=64)
    assert len(BatchStream([(4, 4, 4)] * 8, batching, 0).epoch(0)) == 8
    halved = BatchStream([(4, 4, 4)] * 8, batching, 0, kept_voxels=lambda item, epoch: 32 if epoch else 64)
    assert (len(halved.epoch(0)), len(halved.epoch(1))) == (8, 4)
