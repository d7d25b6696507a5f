"""Single frames: what the autoencoder loses, and a distance that no order of frames changes."""

import numpy as np
import pytest
import torch

from bench.metrics.distances.table import FRECHET
from bench.metrics.extractors.manifest import FRAME
from bench.metrics.extractors.motion import load_motion
from bench.metrics.pixels.frame_quality import measure


def clips(seed: int, num: int = 12) -> np.ndarray:
    """Clips (N, 6, 20, 16, 3) of a square that moves."""
    generator = np.random.default_rng(seed)
    frames = np.full((num, 6, 20, 16, 3), 16, np.uint8)
    for clip in frames:
        (y, x), colour = generator.integers(0, 8, 2), generator.integers(60, 255, 3)
        for t, frame in enumerate(clip):
            frame[y + t : y + t + 7, x : x + 7] = colour
    return frames


def psnr_db(first: np.ndarray, second: np.ndarray) -> float:
    """Of frames too small for a window of 11 pixels, so each is laid out in large pixels."""
    return measure(*(frames.repeat(16, axis=2).repeat(16, axis=3) for frames in (first, second)))["psnr_db"]


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    return measure(first, second)["ssim"]


def test_psnr_by_hand() -> None:
    black = np.zeros((1, 1, 2, 2, 3), np.uint8)
    assert psnr_db(black, black + 255) == pytest.approx(0.0)
    assert psnr_db(black, black + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr_db(black, black) == float("inf")


def test_psnr_is_over_all_pixels_of_all_clips() -> None:
    one = np.zeros((2, 1, 2, 2, 3), np.uint8)
    other = one.copy()
    other[1] += 2  # mean squared error 0 and 4, so 2 over both: 20 log10(255) - 10 log10(2)
    assert psnr_db(one, other) == pytest.approx(48.1308 - 3.0103, abs=1e-4)


def test_ssim_is_one_for_equal_frames_and_falls() -> None:
    frames = clips(0)
    noise = np.random.default_rng(0).integers(-40, 40, frames.shape)
    assert ssim(frames, frames) == pytest.approx(1.0, abs=1e-6)
    light, heavy = (np.clip(frames + noise // divisor, 0, 255).astype(np.uint8) for divisor in (4, 1))
    assert 0 < ssim(frames, heavy) < ssim(frames, light) < 1
    constant, brighter = np.full((1, 1, 16, 16, 3), 100, np.uint8), np.full((1, 1, 16, 16, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2  # without structure only the luminance term is left: (2 a b + c1) / (a^2 + b^2 + c1)
    assert ssim(constant, brighter) == pytest.approx(
        (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), abs=3e-4
    )  # its variances are float32 differences


def test_frame_distance_is_blind_to_order_and_sees_content() -> None:
    encoder, frame_distance = load_motion(torch.device("cpu")), FRECHET.of_clips_of_frames
    first, second = (encoder.features_by_frame(clips(seed)) for seed in (0, 1))
    assert first.shape == (12, 6, FRAME.dim)
    shuffled = second[:, np.random.default_rng(0).permutation(6)]
    assert frame_distance(first, shuffled) == pytest.approx(frame_distance(first, second), rel=1e-6)
    inverted = encoder.features_by_frame(255 - clips(1))
    assert frame_distance(first, inverted) > 2 * frame_distance(first, second)
