"""The extractor `motion`: its files, what its features may depend on, that they notice time; and the script that trains it."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from bench.data.sources import worlds
from bench.data.worlds.drawing import render
from bench.metrics.battery.corruptions import AXES
from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.extractors import golden, motion_training
from bench.metrics.extractors.features import check_frames, extract
from bench.metrics.extractors.manifest import MOTION
from bench.metrics.extractors.motion import DIM, FRAME_DIM, WEIGHTS, Motion, load_motion
from bench.metrics.extractors.table import load_extractor

LARGEST_BYTES = 4_000_000


@pytest.fixture(scope="module")
def network() -> Motion:
    return load_motion(torch.device("cpu"))


def world_clips(split: str, num: int, num_frames: int = 16, size: int = 32) -> np.ndarray:
    """Undamaged clips (num, T, size, size, 3) of two objects that slow down, of a seed that is neither the training's nor the battery's."""
    config = worlds.Config(
        num_frames=num_frames, height=size, width=size, num_train=num, num_val=1, num_test=1, seed=5, num_objects=2, radius=(0.12, 0.24),
        speed=(0.4, 1.2), damping=0.5,
    )  # fmt: skip
    return render(np.stack([worlds.simulate(config, split, index) for index in range(num)]), size, size)


@pytest.fixture(scope="module")
def clips() -> tuple[np.ndarray, np.ndarray]:
    return world_clips("train", 128), world_clips("test", 128)


def test_the_weights_are_small_half_precision_and_the_ones_named() -> None:
    assert WEIGHTS.stat().st_size < LARGEST_BYTES
    tensors = safetensors.torch.load_file(WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert set(tensors) == set(Motion().state_dict())
    facts = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    assert MOTION.weights_sha256 == facts["weights_sha256"] and MOTION.dim == DIM
    assert "never saw" in MOTION.training and facts["command"].startswith(
        "python -m bench.metrics.motion_training --out bench/metrics/"  # as it was called when it was trained
    )
    assert not re.search("fvd", json.dumps(facts), re.IGNORECASE)


@pytest.mark.parametrize("damage", ["changed", "cut", "emptied", "pickle"])
def test_a_file_that_is_not_the_one_named_is_refused(tmp_path: Path, damage: str) -> None:
    content = WEIGHTS.read_bytes()
    changed = bytes([*content[:-1], content[-1] ^ 1])
    file = tmp_path / "motion.safetensors"
    file.write_bytes({"changed": changed, "cut": content[:-100], "emptied": b"", "pickle": b"\x80\x04N."}[damage])
    with pytest.raises(ValueError, match=r"motion\.safetensors is damaged or another version.*expected"):
        load_motion(torch.device("cpu"), file)


def test_golden_values(network: Motion) -> None:
    assert set(MOTION.golden) == set(motion_training.GOLDEN)
    golden.check("motion", MOTION.golden, network, torch.device("cpu"))


def test_features_do_not_depend_on_the_batch(network: Motion) -> None:
    extractor = load_extractor("motion")
    frames = np.random.default_rng(0).integers(0, 256, (7, 9, 24, 40, 3), dtype=np.uint8)
    together = extract(extractor, frames)
    assert together.shape == (7, DIM) and together.dtype == np.float32
    for batch_size in (1, 3):
        np.testing.assert_allclose(extract(dataclasses.replace(extractor, batch_size=batch_size), frames), together, rtol=1e-4, atol=1e-4)
    alone = torch.cat([network.frame_features(torch.from_numpy(clip[None])) for clip in frames])
    assert alone.shape == (7 * 9, FRAME_DIM)
    torch.testing.assert_close(network.frame_features(torch.from_numpy(frames)), alone, rtol=1e-4, atol=1e-4)


def test_no_feature_is_dead_on_undamaged_worlds(network: Motion, clips: tuple[np.ndarray, np.ndarray]) -> None:
    assert network(torch.from_numpy(clips[0])).std(0).min() > 0.05  # 1 over all training worlds
    assert network.frame_features(torch.from_numpy(clips[0])).std(0).min() > 0.05


@pytest.mark.parametrize(("num_frames", "height", "width"), [(4, 16, 16), (5, 64, 64), (16, 16, 40), (31, 24, 24)])
def test_any_clip_from_four_frames_of_sixteen_pixels_on(network: Motion, num_frames: int, height: int, width: int) -> None:
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, num_frames, height, width, 3), dtype=np.uint8))
    assert torch.isfinite(network(frames)).all()
    assert torch.isfinite(network(torch.zeros_like(frames))).all()  # black, and still


def test_what_is_no_clip_is_refused() -> None:
    frames = np.zeros((1, 3, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 4 frames"):
        check_frames(load_extractor("motion"), frames)


def test_one_frame_does_not_depend_on_the_others(network: Motion) -> None:
    frames = torch.from_numpy(world_clips("train", 1, num_frames=6))
    backwards = network.frame_features(frames.flip(1)).flip(0)
    # A product may be summed in another order at another place of a batch.
    torch.testing.assert_close(backwards, network.frame_features(frames), rtol=1e-4, atol=1e-4)


def test_time_is_seen(network: Motion, clips: tuple[np.ndarray, np.ndarray]) -> None:
    """So that a retraining that went wrong cannot be committed; the whole battery is in reports/cards."""
    reference, source = clips
    real = network(torch.from_numpy(reference)).numpy()
    floor = frechet_distance(real, network(torch.from_numpy(source)).numpy())

    def distance(axis: str, level: float) -> float:
        return frechet_distance(real, network(torch.from_numpy(AXES[axis].apply(source, level, 0))).numpy())

    for axis in ("shuffle", "freeze", "interleave", "reverse"):
        assert distance(axis, 1.0) > 3 * floor, axis
    assert distance("noise", 0.05) < distance("freeze", 1.0)
    assert distance("elastic_frame", 0.04) > 1.2 * distance("elastic_clip", 0.04)


def test_training_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name / "motion.safetensors" for name in ("first", "again")]
    for file in files:
        file.parent.mkdir()
        motion_training.main(["--out", str(file), "--worlds", "8", "--val", "4", "--steps", "3", "--seed", "1"])
    assert files[0].read_bytes() == files[1].read_bytes()
    facts = json.loads(files[0].with_suffix(".json").read_text(encoding="utf-8"))
    trained = load_motion(torch.device("cpu"), files[0], facts["weights_sha256"])
    golden.check("motion", facts["golden"], trained, torch.device("cpu"))
    printed = capsys.readouterr().out
    for task in motion_training.LOSS_WEIGHTS:
        assert f"{task}: " in printed and np.isfinite(facts["validation"][task])
    assert "--steps 3 --seed 1" in facts["command"] and facts["num_steps"] == 3


def test_training_worlds_are_of_a_split_that_no_study_has(tmp_path: Path) -> None:
    from bench.data.clips import SPLITS

    assert motion_training.SPLIT not in SPLITS


def test_training_clips_are_manipulated_as_they_are_labelled() -> None:
    def silent(done: int, total: int, what: str) -> None: ...

    made = motion_training.make_worlds(12, 0, 0, silent)
    batch = motion_training.draw_batch(made, 200, np.random.default_rng(3), num_frames=9)
    assert batch.images.shape == (200, 9, 3, 32, 32) and batch.clean.shape == (200, 9, 3, 16, 16)
    steps = batch.clean.diff(dim=1).abs().amax((2, 3, 4))  # (B, T-1): 0 where nothing moves
    still = (steps == 0).float().flip(1).cumprod(1).sum(1) / 8  # share of steps at the end
    assert (still[batch.frozen > 0] >= batch.frozen[batch.frozen > 0] - 1e-6).all()
    assert {"plain", "backwards", "shuffled", "swapped"} == set(motion_training.ORDERS)
    assert set(batch.order.tolist()) == {0, 1, 2, 3} and (batch.frozen > 0).any() and (batch.switched > 0).any()
    assert not batch.moving[(batch.frozen > 0) | (batch.switched > 0) | (batch.order > 1)].any()
    assert not batch.ordered[(batch.frozen > 0) | (batch.switched > 0)].any()
