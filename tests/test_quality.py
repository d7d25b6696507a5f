"""What a cell's clips are worth: every distance has its floor, ceiling and start beside it, under one protocol."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_cell

from bench.data.clips import ClipSet
from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.extractors.features import extract
from bench.metrics.extractors.table import load_extractor
from bench.records.record import Measurement
from bench.run.measure.quality import Quality
from bench.study.cell import Cell

NUM, SHAPE = 20, (4, 16, 16, 3)
CPU = torch.device("cpu")


def clips(seed: int, brightness: int = 0) -> np.ndarray:
    frames = np.random.default_rng(seed).integers(0, 100, (NUM, *SHAPE)) + brightness
    return frames.astype(np.uint8)


def quality(folder: Path, num_objects: int = 2) -> Quality:
    """Of a cell whose shared clips are noise, under the random control."""
    sizes = {"num_train": 8, "num_val": NUM, "num_test": NUM, "num_frames": 4, "height": 16, "width": 16, "radius": (0.1, 0.2)}
    evaluation = {"extractors": ["random3d"], "num_samples": NUM}
    cell: Cell = tiny_cell(data={"source": "worlds", "num_objects": num_objects, **sizes}, evaluation=evaluation)
    splits = {
        split: ClipSet(clips(seed), np.zeros(NUM, np.int64), tuple(f"{split}-{k}" for k in range(NUM)))
        for seed, split in enumerate(("test", "val"))
    }
    seen = np.concatenate([clips(seed, brightness) for seed, brightness in ((3, 60), (5, 0), (6, 0))])
    splits["train"] = ClipSet(seen, np.zeros(len(seen), np.int64), tuple(f"train-{k}" for k in range(len(seen))))
    extractor, reconstructed = load_extractor("random3d"), (clips(1) // 8 * 8).astype(np.uint8)
    shared = {"test": splits["test"].frames, "real": splits["val"].frames, "reconstruction": reconstructed}
    stages: Any = SimpleNamespace(
        training=SimpleNamespace(clips=SimpleNamespace(splits=splits, digest="d" * 32, fps=8.0), told=None),
        extractors=(extractor,),
        features={"random3d": {subject: extract(extractor, frames) for subject, frames in shared.items()}},
        reconstructed=reconstructed,
        held_out={split: clips.frames for split, clips in splits.items()},
        boxes=None,
    )
    return Quality(cell, stages, CPU, lambda done, total, what: None, folder)


def by_name(measurements: list[Measurement]) -> dict[tuple[str, str], Measurement]:
    found = {(m.name, m.subject): m for m in measurements}
    assert len(found) == len(measurements), "a measurement was made twice"
    return found


def test_every_distance_has_floor_ceiling_and_start(tmp_path: Path) -> None:
    measured = quality(tmp_path)
    found = by_name(measured.measure(clips(3, 60), clips(4, 150)))
    for name in ("fd_random3d@20", "kd_random3d@20", "fd_frame@20", "precision_random3d@20", "coverage_random3d@20"):
        subjects = {subject for known, subject in found if known == name}
        assert subjects == {"real", "reconstruction", "untrained", "trained"}, name
        assert len({found[name, subject].protocol_fingerprint for subject in subjects}) == 1
    features = measured.features["random3d"]
    for subject in ("real", "trained"):
        assert found["fd_random3d@20", subject].value == frechet_distance(features["test"], features[subject])
    for name in ("fd_random3d@20", "fd_frame@20"):
        values = [found[name, subject].value for subject in ("real", "trained", "untrained")]
        assert values == sorted(values)
        assert found[name, "trained"].low is not None
    assert {subject: found["copy_rate", subject].value for subject in ("real", "trained")} == {"real": 0, "trained": 1}
    excess = found["fd_random3d_excess_ratio@20", "trained"].value
    real, trained, untrained = (found["fd_random3d@20", subject].value for subject in ("real", "trained", "untrained"))
    assert excess == pytest.approx((untrained - real) / (trained - real))


def test_perfect_clips_are_at_zero_and_precise(tmp_path: Path) -> None:
    found = by_name(quality(tmp_path).measure(clips(0), None))
    assert found["fd_random3d@20", "trained"].value == pytest.approx(0, abs=1e-9)
    assert found["precision_random3d@20", "trained"].value == found["recall_random3d@20", "trained"].value == 1.0
    assert not any(subject == "untrained" for _, subject in found)
    assert not any("excess_ratio" in name for name, _ in found)


def test_the_autoencoder_is_measured_on_its_own_clips(tmp_path: Path) -> None:
    found = by_name(quality(tmp_path).measure(clips(3), None))
    error = np.square(clips(1).astype(float) - clips(1) // 8 * 8).mean()
    assert found["psnr_db", "reconstruction"].value == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert 0.5 < found["ssim", "reconstruction"].value < 1


def test_what_n_or_the_data_does_not_allow_is_not_measured(tmp_path: Path) -> None:
    names = {name for name, _ in by_name(quality(tmp_path).measure(clips(3), None))}
    assert not any("infinite" in name for name in names)  # 20 clips of 128 features
    assert "one_object_rate" not in names  # a world of two
    assert "one_object_rate" in {name for name, _ in by_name(quality(tmp_path, num_objects=1).measure(clips(3), None))}
