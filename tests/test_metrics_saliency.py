"""Saliency: small clips by hand, what it must not see, and crops told from whole clips by far more than its floor."""

import numpy as np
import pytest
from scipy import ndimage

from bench.data.sources.worlds import Config, simulate
from bench.data.worlds.drawing import render
from bench.metrics.distances.interval import jackknife
from bench.metrics.distances.wasserstein import mean_wasserstein
from bench.metrics.pixels.saliency import FEATURES, SETTINGS, energy, measure

HEIGHT, WIDTH = 24, 40
NUM = 256  # clips: two halves of 128


def edges(num: int = NUM) -> np.ndarray:
    """Worlds whose object starts in an outer third of a wide frame: (N, T, H, W, 3)."""
    made = Config(
        num_frames=6, height=HEIGHT, width=WIDTH, num_train=1, num_val=1, num_test=1, radius=(0.18, 0.25), margin=0.05, placement="edges"
    )
    return render(np.stack([simulate(made, "test", index) for index in range(num)]), HEIGHT, WIDTH)


def textures(num: int = NUM) -> np.ndarray:
    """A disc of fine texture drifts over a coarser, dimmer one at rest: (N, T, H, W, 3)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    clips = np.empty((num, 6, HEIGHT, WIDTH, 3), np.uint8)
    for clip in clips:
        still, fine = (ndimage.gaussian_filter(rng.normal(size=(HEIGHT, WIDTH, 3)), (s, s, 0), mode="wrap") for s in (2, 1))
        still, fine = 100 + 25 * still / still.std(), 110 + 45 * fine / fine.std()
        x, y, (step_x, step_y) = rng.uniform(6, WIDTH - 6), rng.uniform(6, HEIGHT - 6), rng.integers(-1, 2, 2)
        for frame in range(6):
            cover = np.clip(6 - np.hypot(columns - x - step_x * frame, rows - y - step_y * frame), 0, 1)[..., None]
            moved = np.roll(fine, (step_y * frame, step_x * frame), (0, 1))
            clip[frame] = np.clip(still + cover * (moved - still), 0, 255)
    return clips


@pytest.fixture(scope="module", params=[edges, textures])
def clips(request: pytest.FixtureRequest) -> np.ndarray:
    return request.param()


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of half of the clips of `a` and the other half of those of `b`; a set and itself: the floor of NUM / 2 clips."""
    orders = [np.random.default_rng(seed).permutation(len(a)) for seed in range(8)]
    return float(np.mean([mean_wasserstein(a[order[::2]], b[order[1::2]]) for order in orders]))


def squeezed(clips: np.ndarray) -> np.ndarray:
    """Wide clips resized to squares of their height."""
    covers = np.arange(HEIGHT + 1) * WIDTH / HEIGHT  # where each new column begins, in old ones
    shares = np.clip(np.minimum(covers[1:, None], np.arange(WIDTH) + 1) - np.maximum(covers[:-1, None], np.arange(WIDTH)), 0, 1)
    return np.round(np.einsum("vw,nthwc->nthvc", shares * HEIGHT / WIDTH, clips)).astype(np.uint8)


def square(left: int, top: int, size: int, num_frames: int = 1) -> np.ndarray:
    clip = np.full((num_frames, HEIGHT, WIDTH, 3), 40, np.uint8)
    clip[:, top : top + size, left : left + size] = (200, 90, 140)
    return clip


def row(clip: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, measure([clip])[0], strict=True))


def test_one_square_by_hand() -> None:
    got = row(square(26, 8, 6))
    assert got["centre_x"] == pytest.approx(29 / WIDTH) and got["centre_y"] == pytest.approx(11 / HEIGHT)
    assert 3 / WIDTH / np.sqrt(3) < got["spread_x"] < 4 / WIDTH  # energy is on the outline, of half a side of 3 pixels
    assert got["spread_y"] / got["spread_x"] == pytest.approx(WIDTH / HEIGHT)
    assert got["border"] == 0


def test_the_border_is_an_eighth_of_each_side() -> None:
    for left, top in ((0, 10), (WIDTH - 2, 10), (20, 0), (20, HEIGHT - 2)):
        assert row(square(left, top, 2))["border"] > 0.95, (left, top)  # its outline, softened, is no wider than the border
    for left, top in ((7, 10), (WIDTH - 13, 10), (20, 5), (20, HEIGHT - 11)):
        assert row(square(left, top, 6))["border"] == 0, (left, top)


def test_motion_adds_to_contrast() -> None:
    clip = square(6, 8, 6, num_frames=4)
    still = energy(clip)
    assert still.shape == (HEIGHT, WIDTH) and still[:, :20].sum() == still.sum() > 0
    np.testing.assert_array_equal(still, energy(clip[:1]))  # nothing moves: as one frame
    clip[::2, 9:13, 30:34] = clip[0, 8, 6]  # blinks in the square's colour
    both = energy(clip)
    blinking = energy(clip[:1])[:, 20:].sum() / 2  # its contrast, shown half of the time
    change = np.linalg.norm(clip[0, 9, 30].astype(float) - clip[1, 9, 30])
    motion = both[:, 20:].sum() - blinking
    assert motion == pytest.approx(SETTINGS.motion * 16 * change, rel=0.15)  # 16 pixels, in every frame; less what the blur takes


def test_size_in_pixels_does_not_count() -> None:
    clip = square(6, 8, 6, num_frames=4)
    clip[::2, 9:13, 28:34] = (0, 255, 0)
    one, other = row(clip), row(clip.repeat(3, axis=1).repeat(3, axis=2))
    assert other == pytest.approx(one, abs=0.01)


def test_grain_in_a_clip_at_rest_is_not_motion() -> None:
    clip = textures(1)[0][:1].repeat(6, axis=0)
    grain = np.clip(clip + np.random.default_rng(0).normal(0, 4, clip.shape), 0, 255).astype(np.uint8)
    assert row(grain) == pytest.approx(row(clip), abs=0.02)


def test_axes_and_ends_are_not_mixed_up(clips: np.ndarray) -> None:
    some = measure(clips[:8])
    mirrored = measure(clips[:8, :, :, ::-1])
    np.testing.assert_allclose(mirrored[:, 0], 1 - some[:, 0], atol=1e-6)
    np.testing.assert_allclose(mirrored[:, 1:], some[:, 1:], atol=1e-6)
    turned = measure(clips[:8].swapaxes(2, 3))
    np.testing.assert_allclose(turned, some[:, [1, 0, 3, 2, 4]], atol=1e-6)
    np.testing.assert_allclose(measure(clips[:8, ::-1]), some, atol=1e-6)  # nor does time's direction matter


def test_crops_are_told_from_whole_clips(clips: np.ndarray) -> None:
    crops = measure(clips[..., (WIDTH - HEIGHT) // 2 : (WIDTH + HEIGHT) // 2, :])
    for whole in (measure(squeezed(clips)), measure(clips)):  # resized to the crops' shape, and as they are
        assert apart(whole, crops) > 3.5 * apart(whole, whole)
        assert crops[:, 4].mean() > whole[:, 4].mean() + 0.15  # what a crop cuts lies at its border


def test_images_are_told_by_contrast_alone() -> None:
    images = edges()[:, :1]
    crops = images[..., (WIDTH - HEIGHT) // 2 : (WIDTH + HEIGHT) // 2, :]
    seen, whole = measure(crops), measure(images)
    assert apart(whole, seen) > 3.5 * apart(whole, whole)


def test_brightness_hue_and_grain_hardly_count(clips: np.ndarray) -> None:
    before = measure(clips)
    floor = apart(before, before)
    grain = np.random.default_rng(0).normal(0, 4, clips.shape)
    changes = {
        "dark": (0.6 * clips).round(),
        "pale": 70 + 0.7 * clips,
        "hue": clips[..., [1, 2, 0]],
        "negative": 255 - clips.astype(float),
        "grain": clips + grain,
    }
    for name, changed in changes.items():
        after = measure(np.clip(changed, 0, 255).astype(np.uint8))
        assert mean_wasserstein(before, after) < 0.2 * floor, name
        assert np.abs(after - before).mean() < 0.005, name


def test_shapes_and_lengths_may_differ(clips: np.ndarray) -> None:
    doubled = clips[0].repeat(2, axis=1).repeat(2, axis=2)
    mixed = measure([clips[0], clips[1][:1], doubled, squeezed(clips[:1])[0]])
    assert mixed.shape == (4, len(FEATURES)) and np.isfinite(mixed).all()
    np.testing.assert_allclose(mixed[[2, 3]], mixed[[0, 0]], atol=0.12)
    np.testing.assert_array_equal(mixed[1], measure(clips[1:2, :1])[0])


def test_flat_clips_are_left_out() -> None:
    flat = np.full((3, 16, 12, 3), 77, np.uint8)
    got = measure([flat, square(6, 8, 6)])
    assert np.isnan(got[0]).all() and np.isfinite(got[1]).all()
    assert mean_wasserstein(got, measure([square(6, 8, 6)])) == 0
    assert np.isnan(mean_wasserstein(measure([flat]), got))


def test_an_interval_is_one_line(clips: np.ndarray) -> None:
    a, b = measure(clips[:64]), measure(clips[64:])
    interval = jackknife(mean_wasserstein, a, b)
    assert 0 < interval.standard_error < interval.estimate


def test_clips_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="7x24 pixels, saliency needs sides of at least 8"):
        measure([np.zeros((1, 7, 24, 3), np.uint8)])
