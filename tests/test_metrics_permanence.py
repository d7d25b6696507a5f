"""Object permanence: true worlds pass, also through an autoencoder's blur; every way to break an object is caught."""

import numpy as np
import pytest
from scipy import ndimage

from bench.data.sources.worlds import Config, simulate
from bench.data.worlds.drawing import BACKGROUND, STATE, render
from bench.metrics.pixels.permanence import THRESHOLDS, hue_deviation, measure, objects, verdicts

NUM = 100  # clips: a rate of 0.99 is one miss


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    made = Config(num_frames=10, height=24, width=24, num_train=1, num_val=1, num_test=NUM)
    return np.stack([simulate(made, "test", index) for index in range(NUM)])  # (N, T, 1, 10)


@pytest.fixture(scope="module")
def frames(states: np.ndarray) -> np.ndarray:
    return render(states, 24, 24)


def changed(states: np.ndarray, name: str, factor: np.ndarray | float = 1.0, plus: np.ndarray | float = 0.0) -> np.ndarray:
    """Frames of the worlds with one quantity changed; factor and plus broadcast over (T, objects)."""
    other = states.copy()
    column = STATE.index(name)
    other[..., column] = other[..., column] * factor + plus
    other[..., STATE.index("hue")] %= 1
    return render(other, 24, 24)


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / ((one.astype(float) - other) ** 2).mean())


def test_true_worlds_pass(frames: np.ndarray) -> None:
    result = measure(frames)
    assert result["one_object_rate"] >= 0.99 and result["steady_rate"] >= 0.99
    num_objects, _, _ = objects(frames)
    assert (num_objects == 1).all() and num_objects.shape == (NUM, 10)


@pytest.mark.parametrize(("num_frames", "height", "width"), [(5, 32, 32), (8, 64, 48), (3, 24, 40)])
def test_true_worlds_of_other_shapes_pass(num_frames: int, height: int, width: int) -> None:
    made = Config(num_frames=num_frames, height=height, width=width, num_train=1, num_val=1, num_test=1, radius=(0.2, 0.28))
    result = measure(render(np.stack([simulate(made, "val", index) for index in range(48)]), height, width))
    assert result["one_object_rate"] >= 0.97 and result["steady_rate"] >= 0.97


@pytest.mark.parametrize("cell", [1, 4])  # noise of pixels, and of the 4x4 cells of an autoencoder's latents
@pytest.mark.parametrize("blur", [0.0, 0.45])
def test_worlds_at_30_db_pass(frames: np.ndarray, blur: float, cell: int) -> None:
    noise = np.random.default_rng(0).normal(0, 8, (NUM, 10, 24 // cell, 24 // cell, 3)).repeat(cell, axis=2).repeat(cell, axis=3)
    soft = ndimage.gaussian_filter(frames.astype(float), (0, 0, blur, blur, 0)) + noise
    soft = np.clip(soft, 0, 255).round().astype(np.uint8)
    assert 28 < psnr_db(frames, soft) < 31
    result = measure(soft)
    assert result["one_object_rate"] >= 0.97 and result["steady_rate"] >= 0.97


def test_specks_are_ignored(frames: np.ndarray) -> None:
    specked = frames.copy()
    specked[:, :, 0, 0] = 255
    specked[:, :, 23, 22:] = 255
    assert measure(specked)["one_object_rate"] >= 0.95  # a shape may touch a corner's speck


def test_an_object_that_vanishes_is_caught(frames: np.ndarray) -> None:
    for gone in (slice(5, None), slice(7, 8)):
        without = frames.copy()
        without[:, gone] = BACKGROUND
        result = measure(without)
        assert result["one_object_rate"] == result["steady_rate"] == 0.0
        assert (objects(without)[0][:, gone] == 0).all()
    dimmed = frames.copy()
    dimmed[:, 5:] = BACKGROUND + (dimmed[:, 5:].astype(int) - BACKGROUND) * 0.25
    assert measure(dimmed)["one_object_rate"] == 0.0


def test_two_objects_are_caught() -> None:
    made = Config(num_frames=6, height=24, width=40, num_train=1, num_val=1, num_test=1, num_objects=2, radius=(0.18, 0.25))
    both = np.stack([simulate(made, "test", index) for index in range(40)])
    assert measure(render(both, 24, 40))["one_object_rate"] <= 0.03 and objects(render(both, 24, 40))[0].max() == 2
    late = both.copy()
    late[:, :5, 1, STATE.index("radius")] = 0.0  # the second appears in the last frame
    assert measure(render(late, 24, 40))["steady_rate"] <= 0.03


@pytest.mark.parametrize("degrees", [20, 30, 90, 360])
def test_a_hue_that_drifts_is_caught(states: np.ndarray, degrees: float) -> None:
    result = measure(changed(states, "hue", plus=np.linspace(0, degrees / 360, 10)[:, None]))
    assert result["one_object_rate"] >= 0.99 and result["steady_rate"] <= 0.02


def test_a_hue_that_jumps_once_is_caught(states: np.ndarray) -> None:
    jump = np.zeros((10, 1))
    jump[4] = 20 / 360
    assert measure(changed(states, "hue", plus=jump))["steady_rate"] <= 0.02


def test_a_small_hue_wobble_passes(states: np.ndarray) -> None:
    wobble = 4 / 360 * np.sin(np.arange(10))[:, None]
    frames = changed(states, "hue", plus=wobble)
    assert measure(frames)["steady_rate"] >= 0.99 and 3 < np.median(hue_deviation(objects(frames)[2])) < 5  # degrees are those of the truth


@pytest.mark.parametrize("slow", [False, True])
def test_a_size_that_halves_is_caught(states: np.ndarray, slow: bool) -> None:
    area = np.linspace(1, 0.5, 10) if slow else np.where(np.arange(10) < 5, 1, 0.5)
    result = measure(changed(states, "radius", factor=np.sqrt(area)[:, None]))
    assert result["one_object_rate"] >= 0.95 and result["steady_rate"] <= 0.02


def test_noise_grey_and_flat_frames_are_caught(frames: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    shape = (40, *frames.shape[1:])
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), (0, 0, 1.5, 1.5, 0))
    fakes = {
        "uniform": rng.integers(0, 256, shape),
        "normal": rng.normal(BACKGROUND, 60, shape),
        "smooth": BACKGROUND + 70 * smooth / smooth.std(),
        "black": np.zeros(shape),
        "white": np.full(shape, 255),
    }
    for name, fake in fakes.items():
        assert measure(np.clip(fake, 0, 255).astype(np.uint8))["one_object_rate"] == 0.0, name
    grey = frames.max(axis=-1, keepdims=True).repeat(3, axis=-1)
    result = measure(grey)
    assert result["one_object_rate"] >= 0.99 and result["steady_rate"] == 0.0


def test_a_ring_is_one_object(states: np.ndarray) -> None:
    rings = states.copy()
    rings[..., STATE.index("shape")] = 3
    assert measure(render(rings, 24, 24))["steady_rate"] >= 0.99


def test_verdict_is_one_per_clip(frames: np.ndarray) -> None:
    mixed = frames[:6].copy()
    mixed[2, 5:] = BACKGROUND
    one_object, steady = verdicts(mixed)
    assert one_object.tolist() == steady.tolist() == [True, True, False, True, True, True]
    assert measure(mixed)["one_object_rate"] == pytest.approx(5 / 6)


def test_thresholds_leave_room_for_the_smallest_true_shape() -> None:
    triangle = 0.75 * 3**0.5 * 0.22**2  # of a square frame's area, at the default's smallest radius
    assert THRESHOLDS.object_share < triangle / 2 and THRESHOLDS.speck_share < THRESHOLDS.object_share
