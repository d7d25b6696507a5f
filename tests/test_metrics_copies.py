"""Copies of training clips are found, blurred and unseen clips are none, and it costs next to nothing."""

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.data.ragged import Ragged
from bench.metrics.copies import GRID, MOST_TRAIN, NUM_NEXT, RATE, RATIO, copy_measurements, nearness, pooled


def squares(num: int, seed: int, shape: tuple[int, int, int] = (4, 16, 16)) -> np.ndarray:
    """Clips (N, T, H, W, 3) of one bright square that moves."""
    rng, (frames, height, width) = np.random.default_rng(seed), shape
    clips = np.full((num, frames, height, width, 3), 16, np.uint8)
    for clip in clips:
        (y, x), hue = rng.uniform(0, [height - 6, width - 6]), rng.integers(60, 255, 3)
        dy, dx = rng.uniform(-1, 1, 2)
        for t in range(frames):
            top, left = int(np.clip(y + t * dy, 0, height - 6)), int(np.clip(x + t * dx, 0, width - 6))
            clip[t, top : top + 6, left : left + 6] = hue
    return clips


TRAIN, TEST, OTHERS = squares(400, 0), squares(64, 1), squares(64, 2)


def found(clips: np.ndarray | Ragged, train: np.ndarray | Ragged = TRAIN) -> dict[str, float]:
    measured = copy_measurements({"trained": clips}, TEST, train, "ab12")
    return {m.name: m.value for m in measured}


def test_copies_are_found_and_real_clips_are_none() -> None:
    assert found(TRAIN[:64]) == {RATE: 1.0, RATIO: pytest.approx(0, abs=1e-3)}
    real = found(OTHERS)
    assert real[RATE] < 0.1 and real[RATIO] == pytest.approx(1, abs=0.15)


def test_noise_and_blur_hide_no_copy() -> None:
    noisy = np.clip(TRAIN[:64] + np.random.default_rng(3).normal(0, 12, TRAIN[:64].shape), 0, 255).astype(np.uint8)
    assert found(noisy)[RATE] > 0.9


def test_a_blurred_clip_is_no_copy() -> None:
    """It is nearer to every clip than real ones are to each other: what tells is that it is nearest to none."""
    volume = torch.from_numpy(OTHERS).permute(0, 4, 1, 2, 3).float()
    blurred = F.avg_pool3d(volume, (1, 9, 9), 1, (0, 4, 4)).permute(0, 2, 3, 4, 1).numpy().astype(np.uint8)
    assert found(blurred)[RATE] < 0.1 and found(blurred)[RATIO] > 1
    mean = np.repeat(TRAIN.mean(0, keepdims=True).astype(np.uint8), 16, 0)
    assert found(mean)[RATE] == 0


def test_a_third_of_copies_is_a_third() -> None:
    mixed = np.concatenate([TRAIN[:21], OTHERS[:43]])
    assert found(mixed)[RATE] == pytest.approx(21 / 64, abs=0.08)


def test_clips_of_many_shapes_are_compared() -> None:
    """One clip of another shape among them changes nothing for the others."""
    clips = [*TRAIN[:8], squares(1, 5, (2, 16, 32))[0]]
    ragged = Ragged(np.concatenate([clip.ravel() for clip in clips]), [clip.shape for clip in clips])
    assert found(ragged)[RATE] == pytest.approx(8 / 9)
    assert pooled(ragged).shape == (9, 3 * np.prod(GRID))


def test_nearness_by_hand() -> None:
    train = np.arange(1.0, NUM_NEXT + 3)[:, None]  # 1, 2, ... on a line
    (near,) = nearness(np.array([[0.0]]), train)
    assert near == pytest.approx(1 / np.mean(np.arange(2, NUM_NEXT + 2)))
    assert nearness(np.zeros((1, 1)), np.zeros((NUM_NEXT + 1, 1))) == 0  # of one that training has often


def test_a_copy_of_a_clip_that_training_has_often_is_a_copy() -> None:
    often = np.concatenate([TRAIN, np.repeat(TRAIN[:1], NUM_NEXT + 9, 0)])
    assert found(np.repeat(TRAIN[:1], 4, 0), often)[RATE] == 1


def test_rounding_is_no_distance() -> None:
    """Of a clip and itself, whose squares no double holds exactly."""
    clips = np.random.default_rng(0).normal(100, 50, (32, 3 * np.prod(GRID)))
    assert not nearness(clips, np.repeat(clips, NUM_NEXT + 1, 0)).any()


def test_clips_that_are_all_alike_are_no_copies() -> None:
    """Real ones are as near."""
    same = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 5, 9, 11, 3), dtype=np.uint8), 60, 0)
    measured = {m.name: m.value for m in copy_measurements({"trained": same[:9]}, same[:9], same, "x")}
    assert measured == {RATE: 0.0, RATIO: 1.0}


def test_protocol_and_bounds() -> None:
    assert copy_measurements({"trained": TEST}, TEST, TRAIN[:NUM_NEXT], "ab12") == []
    rate, ratio = copy_measurements({"trained": TEST}, TEST, TRAIN, "ab12")
    assert (rate.unit, ratio.unit, rate.better) == ("share of clips", "1", "none")
    assert rate.protocol == ratio.protocol and rate.protocol
    assert {"clips": "ab12", "num_clips": 64, "num_train": 400}.items() <= rate.protocol.items()
    many = np.broadcast_to(np.zeros((1, 1, 1, 1, 3), np.uint8), (MOST_TRAIN + 1, 1, 1, 1, 3))
    (first, *_) = copy_measurements({"trained": many[:2]}, many[:2], many, "x")
    assert first.protocol and first.protocol["num_train"] == MOST_TRAIN


def test_it_costs_less_than_three_seconds_a_cell() -> None:
    train, test = squares(2000, 0, (10, 24, 24)), squares(128, 1, (10, 24, 24))
    start_s = time.process_time()
    copy_measurements({"real": test, "trained": test}, test, train, "x")
    assert time.process_time() - start_s < 3
