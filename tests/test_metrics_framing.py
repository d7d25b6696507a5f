"""Framing: boxes against the truth, whole and cut subjects, also through blur, and how far crops are from the truth."""

import numpy as np
import pytest
from scipy import ndimage

from bench.data.sources.worlds import Config, boxes, clip_shape, simulate
from bench.data.worlds.drawing import BACKGROUND, render
from bench.metrics.distances.interval import jackknife
from bench.metrics.distances.wasserstein import mean_wasserstein
from bench.metrics.pixels.framing import Framing, measure, truth
from bench.shapes import Shape

SHAPES = ((10, 24, 24), (6, 24, 40), (5, 48, 24), (1, 32, 32))
NUM = 96
Worlds = tuple[list[np.ndarray], list[np.ndarray]]  # clips, their true boxes (T, 4)


def worlds(shapes: tuple[Shape, ...], split: str = "test", num: int = NUM) -> Worlds:
    """Clips that keep 0.06 shorter sides from the edge: 1.4 pixels of 24."""
    made = Config(num_frames=1, height=24, width=24, num_train=1, num_val=1, num_test=1, shapes=shapes, margin=0.06)
    clips, true = [], []
    for index in range(num):
        states, shape = simulate(made, split, index), clip_shape(made, index)
        clips.append(render(states[None], *shape[1:])[0])
        true.append(boxes([states], [shape])[0, :, 0])
    return clips, true


@pytest.fixture(scope="module")
def real() -> Worlds:
    return worlds(SHAPES)


def soft(clip: np.ndarray, blur: float, noise: float) -> np.ndarray:
    """As an autoencoder gives it back: blurred, and with noise in cells of 4x4."""
    num_frames, height, width, _ = clip.shape
    cells = np.random.default_rng(0).normal(0, noise, (num_frames, height // 4, width // 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(ndimage.gaussian_filter(clip.astype(float), (0, blur, blur, 0)) + cells, 0, 255).round().astype(np.uint8)


def distance(a: Framing, b: Framing) -> float:
    return mean_wasserstein(a.features, b.features)


def box_error(seen: Framing, true: Framing) -> float:
    """Mean absolute error of a side of a box, in pixels, over the frames with a subject. Whole pixels alone: 0.25."""
    errors = np.abs(np.concatenate(seen.boxes) - np.concatenate(true.boxes))  # (frames, 4)
    present = ~np.isnan(errors).any(axis=1)
    return float(errors[present].mean()) if present.any() else np.nan


def absent_rate(seen: Framing) -> float:
    """Share of clips without a subject in any frame."""
    return float(np.isnan(seen.features[:, 0]).mean())


def shape_of(clip: np.ndarray) -> Shape:
    return clip.shape[0], clip.shape[1], clip.shape[2]


def of_truth(clips: list[np.ndarray], true: list[np.ndarray]) -> Framing:
    return truth(true, [shape_of(clip) for clip in clips])


def painted(box: tuple[int, int, int, int], num_frames: int = 2, height: int = 20, width: int = 40) -> np.ndarray:
    """One yellow rectangle x0, y0, x1, y1."""
    clip = np.full((num_frames, height, width, 3), BACKGROUND, dtype=np.uint8)
    clip[:, box[1] : box[3], box[0] : box[2]] = (255, 255, 0)
    return clip


def test_a_rectangle_by_hand() -> None:
    got = measure([painted((6, 4, 14, 16))])
    np.testing.assert_array_equal(got.boxes[0], [[6, 4, 14, 16]] * 2)
    np.testing.assert_allclose(got.features, [[10 / 40, 10 / 20, 8 / 40, 12 / 20]])
    assert got.whole.mean() == 1 and absent_rate(got) == 0
    same = truth([np.array([[6, 4, 14, 16]] * 2)], [(2, 20, 40)])
    np.testing.assert_array_equal(same.features, got.features)
    assert distance(got, same) == box_error(got, same) == 0 and same.whole.tolist() == [True]


def test_the_mean_is_over_frames() -> None:
    clip = np.concatenate([painted((6, 4, 14, 16), 1), painted((20, 2, 24, 8), 3)])
    np.testing.assert_allclose(measure([clip]).features, [[(10 + 3 * 22) / 160, (10 + 3 * 5) / 80, (8 + 3 * 4) / 160, (12 + 3 * 6) / 80]])


def test_distance_by_hand() -> None:
    one, other = measure([painted((6, 4, 14, 16))]), measure([painted((10, 4, 22, 16))])
    assert distance(one, other) == pytest.approx((6 / 40 + 0 + 4 / 40 + 0) / 4)


def test_real_worlds_are_whole_and_where_they_are(real: Worlds) -> None:
    seen, true = measure(real[0]), of_truth(*real)
    assert seen.whole.mean() == true.whole.mean() == 1 and absent_rate(seen) == 0
    assert box_error(seen, true) < 0.32  # pixels; 0.25 if each side went to the nearest one
    errors = np.concatenate(seen.boxes) - np.concatenate(true.boxes)
    assert np.abs(errors).max() < 1.6 and np.abs(errors.mean(axis=0)).max() < 0.06  # neither too wide nor too narrow
    assert distance(seen, true) < 0.006


@pytest.mark.parametrize(("blur", "noise", "error"), [(0.0, 8, 0.32), (0.45, 8, 0.32), (0.8, 12, 0.42)])
def test_real_worlds_stay_whole_through_blur_and_noise(real: Worlds, blur: float, noise: float, error: float) -> None:
    seen, true = measure([soft(clip, blur, noise) for clip in real[0]]), of_truth(*real)
    assert seen.whole.mean() >= 0.99 and absent_rate(seen) == 0
    assert box_error(seen, true) < error and distance(seen, true) < 0.01


@pytest.mark.parametrize("blur", [0.0, 0.45])
@pytest.mark.parametrize(("axis", "end"), [(2, 0), (2, 1), (1, 0), (1, 1)])
def test_a_subject_cut_by_a_pixel_is_not_whole(real: Worlds, axis: int, end: int, blur: float) -> None:
    cut = []
    for clip, true in zip(*real, strict=True):
        side = round(true[0, 2 - axis + 2 * end])  # of the box in the first frame
        frame = clip[:1].take(range(side - 1) if end else range(side + 1, clip.shape[axis]), axis=axis)
        cut.append(soft(np.pad(frame, ((0, 0), (0, -frame.shape[1] % 4), (0, -frame.shape[2] % 4), (0, 0)), "edge"), blur, 8))
    seen = measure(cut)
    assert seen.whole.mean() <= 0.02 and absent_rate(seen) == 0


def test_one_cut_frame_cuts_the_clip() -> None:
    assert not measure([np.concatenate([painted((6, 4, 14, 16), 9), painted((6, 8, 14, 20), 1)])]).whole[0]
    assert truth([np.array([[6, 4, 14, 16], [6, 4, 14, 20.5]])], [(2, 20, 40)]).whole.tolist() == [False]
    assert truth([np.array([[-0.5, 4, 14, 16]])], [(1, 20, 40)]).whole.tolist() == [False]


def test_a_second_object_is_not_whole_and_the_larger_is_the_subject() -> None:
    clip = painted((6, 4, 14, 16))
    clip[1, 3:8, 30:36] = (0, 0, 255)
    got = measure([clip])
    assert not got.whole[0] and got.boxes[0].tolist() == [[6, 4, 14, 16]] * 2
    clip[1] = painted((6, 4, 14, 16))[0]
    clip[:, 0, 38:] = 255  # a speck, and at the edge
    assert measure([clip]).whole[0]
    clip[:, 1, 38:] = 255  # four pixels are one no more, whatever the frame's width
    assert not measure([clip]).whole[0]


def test_clips_without_a_subject_are_counted_and_left_out(real: Worlds) -> None:
    empty = np.full((3, 20, 40, 3), BACKGROUND, dtype=np.uint8)
    noise = np.clip(np.random.default_rng(0).normal(BACKGROUND, 60, (3, 20, 40, 3)), 0, 255).astype(np.uint8)
    seen = measure([painted((6, 4, 14, 16)), empty, noise])
    assert seen.whole.tolist() == [True, False, False] and absent_rate(seen) == pytest.approx(2 / 3)
    assert np.isnan(seen.features[1:]).all() and np.isnan(seen.boxes[1]).all()
    one = truth([np.array([[6, 4, 14, 16]])], [(1, 20, 40)])
    assert distance(seen, one) == 0
    assert np.isnan(distance(measure([empty]), one)) and np.isnan(box_error(measure([empty]), truth([np.zeros((3, 4))], [(3, 20, 40)])))


def test_a_frame_without_a_subject_is_left_out_of_the_mean() -> None:
    clip = np.concatenate([painted((6, 4, 14, 16), 4), painted((0, 0, 40, 20), 1)])  # flooded
    got = measure([clip])
    assert not got.whole[0] and np.isnan(got.boxes[0][4]).all()
    np.testing.assert_allclose(got.features, measure([painted((6, 4, 14, 16))]).features)
    clip[4] = BACKGROUND
    assert not measure([clip]).whole[0]


def test_crops_are_cut_and_far_from_the_truth() -> None:
    clips, true = worlds(((6, 24, 24),))
    other = measure(worlds(((6, 24, 24),), "val")[0])
    wide, wide_true = worlds(((6, 24, 40),))
    crops = measure([clip[:, :, 8:32] for clip in wide])
    crops_true = of_truth(clips, [box - (8, 0, 8, 0) for box in wide_true])
    gap = np.array([min(box[:, 0].min(), 24 - box[:, 2].max()) for box in crops_true.boxes])  # pixels to the nearer side of the crop
    clear = (gap < -0.5) | (gap > 1)
    assert (crops.whole == crops_true.whole)[clear].all() and clear.mean() > 0.8
    assert crops.whole.mean() < 0.3
    floor, far = distance(other, of_truth(clips, true)), distance(crops, of_truth(clips, true))
    assert floor < 0.02 and far > 3 * floor
    assert far > 2.5 * distance(measure([soft(clip, 0.8, 12) for clip in clips]), of_truth(clips, true))


def test_an_interval_is_one_line() -> None:
    clips, true = worlds(((1, 24, 40),))
    seen, expected = measure([clip[:, :, 8:32] for clip in clips]), of_truth(clips, true)
    interval = jackknife(mean_wasserstein, seen.features, expected.features)
    assert interval.low < distance(seen, expected) == interval.estimate < interval.high


def test_an_array_of_clips_is_a_sequence_of_them() -> None:
    clips = np.stack([painted((6, 4, 14, 16)), painted((20, 2, 24, 8))])
    np.testing.assert_array_equal(measure(clips).features, measure(list(clips)).features)
