"""Clips of any shape -> what a policy trains on: by hand, and what is lost is named."""

import math

import numpy as np
import pytest

from bench.data.policy.contract import Item, Rules
from bench.data.policy.covering import MAX_BUCKETS, kept_share
from bench.data.policy.fitting import Alike, Fitted, fit
from bench.data.policy.own_shapes import native_shape
from bench.data.policy.table import POLICIES
from bench.data.repeated import Repeated
from bench.shapes import Shape


def rules(policy: str, **changes: object) -> Rules:
    given = {"fit": POLICIES.find(policy).fit, "nothing": f"{policy} leaves no clip to train on"}
    return Rules(**{**given, "one_shape": (4, 16, 16), "multiple": 8, "max_pixels": 4 * 32 * 32, **changes})  # type: ignore[arg-type]


def test_crop_covers_centres_and_windows() -> None:
    fitted = fit([(9, 32, 64), (1, 8, 24), (4, 16, 16)], rules("crop"))
    wide = (16.0, 0.0, 48.0, 32.0)
    assert fitted.items[:2] == (Item(0, 0, wide, (4, 16, 16)), Item(0, 4, wide, (4, 16, 16)))  # the ninth frame fills no window
    assert fitted.items[2] == Item(1, 0, (8.0, 0.0, 16.0, 8.0), (1, 16, 16))  # an image stays one frame, and is enlarged
    assert fitted.items[3] == Item(2, 0, (0.0, 0.0, 16.0, 16.0), (4, 16, 16))
    assert fitted.lost == () and fitted.shapes == ((4, 16, 16), (1, 16, 16))


def test_crop_loses_short_clips_by_name() -> None:
    fitted = fit([(3, 16, 16), (4, 16, 16)], rules("crop"))
    assert [item.clip for item in fitted.items] == [1]
    assert fitted.lost[0].kind == "short" and "has 3 frames, crop needs 4" in fitted.lost[0].reason


def test_native_clips_are_only_cut_to_multiples() -> None:
    fitted = fit([(5, 21, 30), (1, 8, 8)], rules("pack"))
    assert fitted.items == (Item(0, 0, (3, 2, 27, 18), (5, 16, 24)), Item(1, 0, (0, 0, 8, 8), (1, 8, 8)))
    assert fit([(5, 21, 30)], rules("pad")).items == fitted.items[:1]


def test_native_clips_too_small_and_too_large_are_lost_by_name() -> None:
    fitted = fit([(4, 7, 20), (9, 32, 32), (1, 8, 8)], rules("pack"))
    assert [(lost.clip, lost.kind) for lost in fitted.lost] == [(0, "small"), (1, "large")]
    assert "7x20 pixels, smaller than one patch of 8x8" in fitted.lost[0].reason
    assert "9x32x32, 2.2 times what batching.voxel_budget holds" in fitted.lost[1].reason


def test_buckets_are_the_shapes_that_fill_batches_and_keep_most() -> None:
    common, wide = (4, 16, 16), (4, 16, 32)
    shapes: list[Shape] = [common] * 8 + [wide] * 4 + [(4, 17, 30), (4, 24, 16)]
    fitted = fit(shapes, rules("bucket", max_pixels=4 * 16 * 32))
    assert set(fitted.shapes) == {common, wide}
    assert fitted.items[12].shape == wide  # 17x30 keeps more as 16x32 than as 16x16
    assert fitted.items[13].shape == common
    assert not fitted.lost


def test_rare_shapes_join_the_nearest_of_the_most_frequent() -> None:
    shapes: list[Shape] = [(4, 8 * side, 8 * side) for side in range(1, MAX_BUCKETS + 10) for _ in range(2)]
    fitted = fit(shapes, rules("bucket", max_pixels=10**9))
    assert len(fitted.shapes) == MAX_BUCKETS and len(fitted.items) == len(shapes)


def test_images_and_videos_never_share_a_bucket() -> None:
    fitted = fit([(4, 16, 16)] * 4 + [(1, 16, 16)], rules("bucket", buckets=((4, 16, 16),)))
    assert [lost.clip for lost in fitted.lost] == [4] and "is an image" in fitted.lost[0].reason


@pytest.mark.parametrize(
    ("policy", "changes", "message"),
    [
        ("bucket", {"buckets": ((4, 16, 16), (8, 16, 16))}, "bucket 8x16x16 stays empty"),
        ("bucket", {"buckets": ((4, 12, 16),)}, "multiples of 8 pixels"),
        ("crop", {"max_pixels": 512}, "4x16x16 of crop is 2 times what batching.voxel_budget holds"),
        ("bucket", {"max_pixels": 512}, "no clip fits batching.voxel_budget"),
        ("pack", {"max_pixels": 512}, r"leaves no clip to train on: 3 are lost, clip 0 is 4x16x16"),
    ],
)
def test_what_cannot_be_is_an_error(policy: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit([(4, 16, 16)] * 3, rules(policy, **changes))


def test_kept_share_by_hand() -> None:
    assert kept_share((4, 16, 32), (4, 16, 16)) == 0.5  # half is cropped
    assert kept_share((4, 32, 32), (4, 16, 16)) == 0.25  # three quarters are scaled away
    assert kept_share((6, 16, 16), (4, 16, 16)) == pytest.approx(4 / 6)  # two frames fill no window
    assert kept_share((4, 8, 8), (4, 16, 16)) == 1.0  # enlarged: nothing is lost


def test_every_clip_is_used_or_lost_once() -> None:
    shapes: list[Shape] = [(t, h, w) for t in (1, 3, 4, 9) for h in (6, 8, 15, 40) for w in (8, 23, 64)]
    for policy in ("crop", "bucket", "pack", "pad"):
        fitted: Fitted = fit(shapes, rules(policy))
        assert sorted({item.clip for item in fitted.items} | {lost.clip for lost in fitted.lost}) == list(range(len(shapes)))
        assert not {item.clip for item in fitted.items} & {lost.clip for lost in fitted.lost}
        assert all(math.prod(item.shape) <= 4 * 32 * 32 for item in fitted.items)


def test_native_shape() -> None:
    assert native_shape((3, 20, 7), 8) == (3, 16, 0)


@pytest.mark.parametrize("policy", ["crop", "bucket", "pack", "pad"])
@pytest.mark.parametrize("shape", [(4, 16, 16), (9, 32, 64), (4, 30, 33)])
def test_clips_of_one_shape_give_the_items_of_each_without_a_list(policy: str, shape: Shape) -> None:
    given = rules(policy, max_pixels=9 * 32 * 64)
    each, alike = fit([shape] * 5, given), fit(Repeated(shape, 5), given)
    assert isinstance(alike.items, Alike) and tuple(alike.items) == each.items == alike.items[:]
    assert alike.items[1:4] == each.items[1:4] and alike.items[-1] == each.items[-1] and len(alike.items) == len(each.items)
    with pytest.raises(IndexError):
        alike.items[len(each.items)]
    assert alike.num_of() == each.num_of() and (alike.lost, alike.shapes) == (each.lost, each.shapes)
    values = np.arange(10).reshape(5, 2)
    assert np.array_equal(alike.of_items(values), each.of_items(values))
    assert len(fit(Repeated(shape, 10**12), given).items) == 10**12 * len(each.items) // 5


def test_a_value_that_is_repeated_is_a_sequence_like_any_other() -> None:
    five = Repeated((1, 2, 3), 5)
    assert five == ((1, 2, 3),) * 5 and five == ((1, 2, 3),) * 5 and five != ((1, 2, 3),) * 4 and five != ((1, 2, 4),) * 5
    assert (five[-1], len(five[1:3]), five[3:9]) == ((1, 2, 3), 2, Repeated((1, 2, 3), 2))
    with pytest.raises(IndexError):
        five[5]
