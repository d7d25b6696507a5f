"""The difference of two contenders' distances: the same real clips, refused where they are not the same."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_factory import record, write_run
from safetensors.numpy import save_file

from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.distances.table import FRECHET, KERNEL
from bench.metrics.protocol import ProtocolBlock
from bench.records.record import Measurement
from bench.report.load import load_run
from bench.report.page import tables
from bench.report.verdicts import compare, paired

UNET, DIT = "baselines:UNet-XS", "dit:DiT-XS/2"
NUM, DIM = 64, 8


def block(**changes: Any) -> ProtocolBlock:
    fields: dict[str, Any] = {
        "extractor": "invented",
        "weights_sha256": "a" * 64,
        "dim": DIM,
        "n_real": NUM,
        "n_fake": NUM,
        "num_frames": 10,
        "frame_stride": 1,
        "fps": 8.0,
        "height": 24,
        "width": 24,
        "resize": "none/1",
        "split": "test",
        "clip_list_sha256": "b" * 64,
        "device": "cpu",
        "dtype": "float32",
        "versions": {"torch": "2.13.0"},
    }
    return ProtocolBlock.model_validate(fields | changes)


def features(shift: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((NUM, DIM)) + shift).astype(np.float32)


def run_of(folder: Path, shifts: dict[str, float], blocks: dict[str, ProtocolBlock], real_seed: dict[str, int]) -> Path:
    """A run of two contenders whose features lie `shifts` away from the real ones."""
    records = []
    for backbone, shift in shifts.items():
        real, trained = features(0, real_seed[backbone]), features(shift, 2 if backbone == UNET else 3)
        value = frechet_distance(real, trained)
        measurement = Measurement(name="fd_invented@64", value=value, unit="1", better="lower", protocol=blocks[backbone].describe())
        made = record(backbone, 0, measurements=[measurement], artefacts={"features": "features.safetensors"})
        records.append(made)
        cell = folder / "invented" / f"{made.name}-{made.fingerprint[:8]}"
        cell.mkdir(parents=True)
        save_file({"invented/test": real, "invented/trained": trained}, cell / "features.safetensors")
    return write_run(folder, records, sheets=False)


def pair_of(folder: Path) -> paired.SeedPair:
    run = load_run(folder)
    (found,) = paired.pairs(run, compare.compare(run))
    return found


SAME = {UNET: block(), DIT: block()}
SHARED = {UNET: 1, DIT: 1}


def test_a_clear_difference_is_different_and_has_its_sign(tmp_path: Path) -> None:
    pair = pair_of(run_of(tmp_path, {UNET: 2.0, DIT: 0.0}, SAME, SHARED))
    assert (pair.first, pair.second, pair.seed) == ("UNet-XS", "DiT-XS/2", 0)
    assert pair.difference is not None
    distances = [frechet_distance(features(0, 1), features(shift, seed)) for shift, seed in ((2.0, 2), (0.0, 3))]
    assert pair.difference.estimate == pytest.approx(distances[0] - distances[1], rel=1e-9)
    assert pair.different
    assert pair.difference.low > 0
    run = load_run(tmp_path / "invented")
    (line,) = pd.read_csv(io.StringIO(tables.paired_table(run, compare.compare(run)).to_csv())).to_dict("records")
    assert line["difference"] == float(f"{pair.difference.estimate:.6g}") != pair.difference.estimate  # the same on every processor


def test_equal_models_are_not_told_apart(tmp_path: Path) -> None:
    pair = pair_of(run_of(tmp_path, {UNET: 0.5, DIT: 0.5}, SAME, SHARED))
    assert pair.difference is not None
    assert not pair.different


def test_other_protocols_are_refused_with_what_differs(tmp_path: Path) -> None:
    pair = pair_of(run_of(tmp_path, {UNET: 2.0, DIT: 0.0}, SAME | {DIT: block(fps=4.0)}, SHARED))
    assert pair.difference is None
    assert "fps: 8.0 and 4.0" in pair.reason


def test_other_real_clips_are_refused(tmp_path: Path) -> None:
    pair = pair_of(run_of(tmp_path, {UNET: 2.0, DIT: 0.0}, SAME, SHARED | {DIT: 9}))
    assert (pair.difference, pair.reason) == (None, "the features of the real clips are not the same")


def test_lost_features_are_said(tmp_path: Path) -> None:
    folder = run_of(tmp_path, {UNET: 2.0, DIT: 0.0}, SAME, SHARED)
    next(folder.glob("DiT*/features.safetensors")).write_bytes(b"x")
    pair = pair_of(folder)
    assert pair.difference is None
    assert pair.reason
    run = load_run(folder)
    table = tables.paired_table(run, compare.compare(run))
    assert table.rows[0][-1] == pair.reason


def test_a_row_is_paired_by_the_distance_of_its_name(tmp_path: Path) -> None:
    (row,) = compare.compare(load_run(run_of(tmp_path, {UNET: 2.0, DIT: 0.0}, SAME, SHARED)))
    names = {"fvd@64": FRECHET, "fd_motion@64": FRECHET, "kvd": KERNEL, "kd_random3d@64": KERNEL, "fd_frame@64": None, "val_loss": None}
    assert {name: paired.kind_of(replace(row, name=name)) for name in names} == names
