"""Every damage does what it says, in nested steps, and depends on nothing but clip, level, seed and place."""

import itertools

import numpy as np
import pytest

from bench.metrics.battery.corruptions import AXES, Axis

NUM, T, H, W = 6, 9, 18, 23
EVERY = pytest.mark.parametrize("axis", AXES.values(), ids=list(AXES))
SEEDLESS = ("blur", "freeze")  # every clip, and nothing is drawn


def source(axis: Axis, num: int = NUM, num_frames: int = T) -> np.ndarray:
    """Bright discs on dark that move: (N, S, H, W, 3)."""
    rng = np.random.default_rng(1)
    t, y, x = np.meshgrid(np.arange(axis.source_frames(num_frames)), np.arange(H), np.arange(W), indexing="ij")
    clips = []
    for _ in range(num):
        (y0, x0), (vy, vx), colour = rng.uniform(5, 12, 2), rng.uniform(0.3, 0.9, 2), rng.uniform(100, 250, 3)
        inside = np.clip(4 - np.hypot(y - y0 - vy * t, x - x0 - vx * t), 0, 1)
        clips.append(16 + inside[..., None] * (colour - 16))
    return np.array(clips).astype(np.uint8)


def damaged(name: str, level: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    clips = source(AXES[name])
    return clips, AXES[name].apply(clips, level, seed)


def test_the_table() -> None:
    assert [axis.name for axis in AXES.values()] == list(AXES)
    assert {kind: sum(axis.kind == kind for axis in AXES.values()) for kind in ("spatial", "temporal")} == {"spatial": 5, "temporal": 10}
    assert all(tuple(sorted(set(axis.levels))) == axis.levels and axis.levels[0] > 0 for axis in AXES.values())
    assert 0.05 in AXES["noise"].levels and AXES["elastic_clip"].levels == AXES["elastic_frame"].levels


@EVERY
def test_shape_repeatable_and_the_source_is_left_alone(axis: Axis) -> None:
    clips = source(axis)
    before = clips.copy()
    result = axis.apply(clips, axis.levels[1], 3)
    assert result.shape == (NUM, T, H, W, 3) and result.dtype == np.uint8 and (clips == before).all()
    assert (result == axis.apply(clips, axis.levels[1], 3)).all()
    assert axis.name in SEEDLESS or (result != axis.apply(clips, axis.levels[1], 4)).any()
    assert (axis.apply(clips, 0, 3) == clips[:, :T]).all()


@EVERY
def test_stronger_is_further_away(axis: Axis) -> None:
    clips = source(axis, num=8)
    away = [np.abs(axis.apply(clips, level, 0).astype(int) - clips[:, :T]).mean() for level in axis.levels]
    assert all(weak < strong for weak, strong in itertools.pairwise(away))


@EVERY
def test_smallest_clips(axis: Axis) -> None:
    clips = source(axis, num=2, num_frames=4)[:, :, :16, :17]
    for level in axis.levels:
        assert axis.apply(clips, level, 0).shape == (2, 4, 16, 17, 3)
    assert (axis.apply(clips, axis.levels[-1], 0) != clips[:, :4]).any()


@EVERY
def test_a_clip_does_not_depend_on_the_others(axis: Axis) -> None:
    """But for the next one, and for which share of the clips is chosen."""
    clips = source(axis)
    level = axis.levels[-1]
    assert (axis.apply(clips[:4], level, 0)[:3] == axis.apply(clips, level, 0)[:3]).all()


@pytest.mark.parametrize("axis", [axis for axis in AXES.values() if axis.of_clips], ids=lambda axis: axis.name)
def test_shares_are_nested_mixes(axis: Axis) -> None:
    """What lets the battery extract such an axis once."""
    clips = source(axis, num=16)
    full, before = axis.apply(clips, 1.0, 0), np.zeros(16, bool)
    for level in axis.levels:
        chosen = axis.chosen(16, level, 0)
        assert chosen.sum() == round(16 * level) and (chosen | ~before).all()
        assert (axis.apply(clips, level, 0) == np.where(chosen[:, None, None, None, None], full, clips[:, :T])).all()
        before = chosen
    assert before.all()


def test_noise_has_its_strength_and_one_pattern() -> None:
    clips = np.full((2, 4, 40, 40, 3), 128, np.uint8)
    weak, strong = (AXES["noise"].apply(clips, level, 0).astype(float) - 128 for level in (0.05, 0.1))
    assert weak.std() / 255 == pytest.approx(0.05, rel=0.02)
    assert np.abs(strong - 2 * weak).max() <= 1.5  # rounding
    assert np.corrcoef(weak[0].ravel(), weak[1].ravel())[0, 1] < 0.05 and np.corrcoef(weak[0, 0].ravel(), weak[0, 1].ravel())[0, 1] < 0.05


@pytest.mark.parametrize("name", ["occluder", "salt_and_pepper", "global_swaps", "local_swaps"])
def test_a_stronger_level_contains_the_weaker(name: str) -> None:
    weaker = np.zeros((NUM, T, H, W, 3), bool)
    before = np.zeros((NUM, T, H, W, 3), np.uint8)
    for level in AXES[name].levels:
        clips, result = damaged(name, level)
        changed = result != clips
        if "swaps" in name:
            changed = np.broadcast_to(changed.any(axis=(2, 3, 4), keepdims=True), changed.shape)
        assert (changed | ~weaker).all() and changed.sum() > weaker.sum()
        assert (result == np.where(weaker, before, result)).all()  # the weaker level's pixels are as they were
        weaker, before = changed, result


def test_occluder_and_salt_cover_what_they_say() -> None:
    clips = np.full((3, 4, 50, 60, 3), 16, np.uint8)
    hidden = AXES["occluder"].apply(clips, 0.4, 0) == 128
    assert (hidden.any(axis=(1, 3, 4)).sum(axis=1) == 20).all() and (hidden.any(axis=(1, 2, 4)).sum(axis=1) == 24).all()
    assert (hidden[:, :1] == hidden).all()
    specks = AXES["salt_and_pepper"].apply(clips, 0.1, 0)
    assert (specks != 16).all(axis=-1).mean() == pytest.approx(0.1, rel=0.1)
    assert (specks == 0).sum() == pytest.approx((specks == 255).sum(), rel=0.15)


@pytest.mark.parametrize("name", ["local_swaps", "global_swaps", "shuffle", "reverse"])
def test_order_is_all_that_changes(name: str) -> None:
    clips, result = damaged(name, 1.0)
    for clip, other in zip(clips, result, strict=True):
        assert sorted(frame.tobytes() for frame in clip) == sorted(frame.tobytes() for frame in other)
        assert (clip != other).any()


def test_sequences_by_hand() -> None:
    clips, result = damaged("local_swaps", 1.0)
    assert (result == clips[:, [1, 0, 3, 2, 5, 4, 7, 6, 8]]).all()
    clips, result = damaged("reverse", 1.0)
    assert (result == clips[:, ::-1]).all()
    clips, result = damaged("freeze", 1.0)
    assert (result == clips[:, :1]).all()
    clips, result = damaged("freeze", 0.5)
    assert (result == clips[:, [0, 1, 2, 3, 4, 4, 4, 4, 4]]).all()
    clips, result = damaged("interleave", 1.0)
    after = np.roll(clips, -1, axis=0)
    assert (result[:, ::2] == clips[:, ::2]).all() and (result[:, 1::2] == after[:, 1::2]).all()
    clips, result = damaged("switch", 1.0)
    assert (result[:, :4] == clips[:, :4]).all() and (result[:, 4:] == after[:, 4:]).all()
    clips, result = damaged("double_speed", 1.0)
    assert clips.shape[1] == 17 and (result == clips[:, ::2]).all()


def test_elastic_stands_still_or_jumps() -> None:
    """At one strength: the mean displacement is the same, only its change in time differs."""
    still = np.repeat(source(AXES["blur"])[:, :1], T, axis=1)
    per_clip, per_frame = (AXES[name].apply(still, 0.04, 0) for name in ("elastic_clip", "elastic_frame"))
    assert (per_clip == per_clip[:, :1]).all() and (per_clip[:, 0] != still[:, 0]).any()
    assert all((per_frame[:, t] != per_frame[:, t - 1]).any() for t in range(1, T))
    away = [np.abs(result.astype(int) - still).mean() for result in (per_clip, per_frame)]
    assert away[0] == pytest.approx(away[1], rel=0.35)


def test_flicker_is_a_factor_a_frame() -> None:
    clips = np.full((2, 5, 16, 16, 3), 100, np.uint8)
    result = AXES["flicker"].apply(clips, 0.4, 0)
    assert (result == result[:, :, :1, :1, :1]).all() and len(np.unique(result[0])) > 2 and result.min() >= 60 and result.max() <= 140
