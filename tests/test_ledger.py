"""The ledger's arithmetic: shares add up to one, and are those found by hand on a tiny case."""

from collections.abc import Sequence

import numpy as np
import pytest

from bench.data.policy.config import Batching
from bench.data.policy.contract import Rules
from bench.data.policy.fitting import fit
from bench.data.policy.ledger import Ledger, ledger
from bench.data.policy.table import POLICIES
from bench.data.repeated import Repeated
from bench.shapes import LatentSpec, Refusal, Shape

SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=0)


def account(shapes: Sequence[Shape], boxes: np.ndarray | None = None, one_shape: Shape = (4, 16, 16), **batching: object) -> Ledger:
    options = Batching.model_validate(batching)
    pixels = 10**9 if options.voxel_budget is None else options.voxel_budget * 16
    rules = Rules(
        fit=POLICIES.find(options.policy).fit, nothing="", one_shape=one_shape, multiple=8, max_pixels=pixels, buckets=options.buckets
    )
    return ledger(shapes, fit(shapes, rules), options, SPEC, seed=0, boxes=boxes)


def test_crop_by_hand() -> None:
    # 9 frames of 32x64: two windows of 4 frames, each 32x32 of it, scaled to 16x16. 3 frames of 16x16 are too short.
    found = account([(9, 32, 64), (3, 16, 16)], policy="crop", batch_size=1)
    total = 9 * 32 * 64 + 3 * 16 * 16
    assert found.pixels.used == pytest.approx(8 * 16 * 16 / total)
    assert found.pixels.cropped == pytest.approx(8 * 32 * 32 / total)
    assert found.pixels.scaled == pytest.approx(8 * (32 * 32 - 16 * 16) / total)
    assert found.pixels.frames == pytest.approx(32 * 64 / total)
    assert found.pixels.short == pytest.approx(3 * 16 * 16 / total)
    assert found.pixels.remainder == found.pixels.small == found.pixels.large == 0
    assert (found.frames_used, found.clips_used) == (pytest.approx(8 / 12), 0.5)
    assert (found.num_clips, found.num_items, found.num_shapes, found.steps_per_epoch) == (2, 2, 1, 2)
    assert "clip 1 has 3 frames, crop needs 4" in found.losses[0]


def test_pack_by_hand() -> None:
    # Latents of 2x4x4 = 32, 1x2x2 = 4 and 4x4x2 = 32 cells under a budget of 40: two packs, {32, 4} and {32}.
    found = account([(2, 16, 16), (1, 9, 8), (4, 16, 15), (1, 7, 99), (9, 16, 16)], policy="pack", voxel_budget=40)
    total = 512 + 72 + 960 + 693 + 2304
    assert found.pixels.used == pytest.approx((512 + 64 + 512) / total)
    assert found.pixels.cropped == pytest.approx((8 + 4 * 16 * 7) / total)
    assert found.pixels.small == pytest.approx(693 / total) and found.pixels.large == pytest.approx(2304 / total)
    assert found.room.clips == pytest.approx(68 / 80) and found.room.unfilled == pytest.approx(12 / 80) and found.room.padding == 0
    assert (found.steps_per_epoch, found.voxels_per_item) == (2, (4, 32, 32))
    assert len(found.losses) == 2


def test_pad_by_hand() -> None:
    found = account([(2, 16, 16), (1, 16, 8)], policy="pad", voxel_budget=64)  # 32 and 8 cells, each in a room of 32
    assert (found.room.clips, found.room.padding, found.room.unfilled) == (40 / 64, 24 / 64, 0)


def test_the_remainder_by_hand() -> None:
    # Five clips of 16 cells, two a batch: each epoch one waits. A shape that fills no batch is named.
    found = account([(1, 16, 16)] * 5 + [(1, 8, 32)], policy="bucket", voxel_budget=32, buckets=((1, 16, 16), (1, 8, 32)))
    total = 6 * 256
    assert found.pixels.remainder == pytest.approx(2 * 256 / total)
    assert found.pixels.used == pytest.approx(4 * 256 / total)
    assert found.clips_used == pytest.approx(4 / 6)
    assert found.losses == (
        "bucket 1x8x32 has 1 items and a batch takes 2, so it is never trained on; lower batching.voxel_budget or list other buckets",
    )


def test_the_subject_by_hand() -> None:
    boxes = np.full((2, 4, 4), np.nan)
    boxes[0] = (20, 4, 28, 12)  # inside the window of 16 to 48
    boxes[1] = [(12, 4, 20, 12), (20, 4, 28, 12), (0, 4, 8, 12), (16, 4, 24, 12)]  # half, all, none, all
    found = account([(4, 32, 64), (4, 32, 64)], boxes, policy="crop", batch_size=1)
    assert found.subject_kept == pytest.approx((1 + (0.5 + 1 + 0 + 1) / 4) / 2)
    assert found.subject_whole == 0.5
    assert account([(4, 32, 64)], policy="crop", batch_size=1).subject_kept is None


@pytest.mark.parametrize("policy", ["crop", "bucket", "pack", "pad"])
def test_shares_add_up_to_one(policy: str) -> None:
    rng = np.random.default_rng(0)
    shapes: list[Shape] = [(int(rng.integers(1, 10)), int(rng.integers(5, 40)), int(rng.integers(5, 60))) for _ in range(300)]
    found = account(shapes, policy=policy, voxel_budget=256)
    assert sum(vars(found.pixels).values()) == pytest.approx(1, abs=1e-12)
    assert sum(vars(found.room).values()) == pytest.approx(1, abs=1e-12)
    assert min(*vars(found.pixels).values(), *vars(found.room).values()) >= 0
    assert 0 < found.clips_used <= 1 and 0 < found.frames_used <= 1


@pytest.mark.parametrize(
    ("shape", "batching"),
    [
        ((9, 32, 64), {"policy": "crop", "batch_size": 3}),  # two windows a clip
        ((4, 16, 16), {"policy": "crop", "batch_size": 3}),
        ((4, 30, 33), {"policy": "crop", "voxel_budget": 200}),
        ((4, 30, 33), {"policy": "bucket", "voxel_budget": 200}),
        ((4, 30, 33), {"policy": "pack", "voxel_budget": 200}),
        ((4, 16, 16), {"policy": "crop", "voxel_budget": 10_000}),
        ((3, 16, 16), {"policy": "crop", "batch_size": 3}),
    ],
)
def test_clips_of_one_shape_are_accounted_as_if_each_were_looked_at(shape: Shape, batching: dict[str, object]) -> None:
    def found(shapes: Sequence[Shape]) -> object:
        try:
            return account(shapes, **batching)  # type: ignore[arg-type]
        except Refusal as error:
            return str(error)

    assert found(Repeated(shape, 7)) == found([shape] * 7)


def test_a_huge_set_of_one_shape_is_accounted_at_once() -> None:
    found = account(Repeated((4, 16, 16), 10**12), policy="crop", batch_size=4, shuffle_window=1024)
    assert (found.num_clips, found.num_items, found.steps_per_epoch, found.pixels.used, found.clips_used) == (10**12, 10**12, 2.5e11, 1, 1)


def test_the_ledger_counts_what_waits_in_a_window() -> None:
    # Ten clips, three a batch: of all ten one waits, of windows of five two wait in each.
    found = {
        window: account([(1, 16, 16)] * 10, policy="crop", one_shape=(1, 16, 16), voxel_budget=48, shuffle_window=window)
        for window in (None, 5)
    }
    assert found[None].pixels.remainder == pytest.approx(0.1) and found[5].pixels.remainder == pytest.approx(0.4)
    assert (found[None].steps_per_epoch, found[5].steps_per_epoch) == (3, 2)
