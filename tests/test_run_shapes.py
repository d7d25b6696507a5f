"""A tiny study over batching policies, end to end: mixed shapes train, sample, are judged at a grid of shapes, and resume."""

from pathlib import Path

import numpy as np
import pytest

from bench.data.ragged import Ragged
from bench.records.artefacts import framed, load_frames
from bench.records.record import Record
from bench.report.load import load_run
from bench.report.sheet import Sheet, load_sheet
from tests.commands import cell_folder, here, record_of, write_matrix
from tests.tiny import cell_fields

SHAPES = [[4, 16, 16], [4, 16, 32], [1, 32, 16], [2, 16, 16]]
GRID = [[4, 16, 32], [4, 16, 24], [4, 24, 48], [1, 16, 16], [4, 12, 16]]
POLICIES = {"UNet-XXS": ("tests.small:UNet-XXS", ("pad",)), "DiT-XXS_2": ("tests.small:DiT-XXS/2", ("crop", "pack"))}


def matrix(folder: Path, **batching: object) -> Path:
    defaults = cell_fields()
    del defaults["backbone"]
    defaults["data"] |= {"shapes": SHAPES, "num_train": 24, "num_val": 8, "num_test": 8, "margin": 0.06, "radius": [0.2, 0.25]}
    defaults |= {"batching": {"voxel_budget": 160, **batching}, "budget": {"steps": 4}}
    defaults["evaluation"] = {"extractors": ["random3d", "motion"], "num_samples": 8, "grid": GRID, "grid_samples": 3}
    include = [{"backbone": name, "batching.policy": policy} for name, policies in POLICIES.values() for policy in policies]
    return write_matrix(folder, axes={}, include=include, defaults=defaults, primary="fd_motion")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    done = here("run", matrix(folder), "--results", folder / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results"


def records(finished: Path) -> dict[str, Record]:
    names = {policy: f"{label}-policy={policy}-seed0" for label, (_, policies) in POLICIES.items() for policy in policies}
    return {policy: record_of(finished, name) for policy, name in names.items()}


def test_every_policy_trains_and_is_judged_alike(finished: Path) -> None:
    found = records(finished)
    protocols = {}
    for policy, record in found.items():
        assert record.status == "ok" and record.training is not None, record.reason
        assert all(canary.passed for canary in record.canaries), record.canaries
        assert all(0 < work[2] <= 160 for work in record.training.step_work)
        names = {(m.name, m.subject) for m in record.measurements}
        assert {("fd_random3d@6", "trained"), ("fd_frame@8", "real"), ("subject_whole_rate", "trained")} <= names
        assert {("framing_distance", "real"), ("saliency_distance", "trained"), ("val_loss", "trained")} <= names
        control = {subject: record.measurement("crop_control_whole_rate", subject) for subject in ("real", "reconstruction")}
        assert control["real"] is not None and control["real"].value < 1 and control["reconstruction"] is not None
        assert not any("one_object" in name for name, _ in names)
        for name in ("fd_random3d@6", "subject_whole_rate", "saliency_distance", "val_loss"):
            measurement = record.measurement(name, "trained")
            assert measurement is not None
            protocols.setdefault(name, set()).add(measurement.protocol_fingerprint)
        whole = record.measurement("subject_whole_rate", "real")
        assert whole is not None and whole.value == 1.0
        assert policy in record.name
    assert all(len(fingerprints) == 1 for fingerprints in protocols.values())  # so that policies compare


def test_the_ledger_says_what_each_policy_uses(finished: Path) -> None:
    found = {policy: record.ledger for policy, record in records(finished).items() if record.ledger}
    assert found["pack"].pixels.used == found["pad"].pixels.used == 1.0
    assert found["crop"].pixels.short > 0 and found["crop"].pixels.cropped > 0
    assert found["pad"].room.padding > 0 and found["pack"].room.padding == 0
    assert (found["crop"].subject_whole or 1) < 1 == found["pack"].subject_whole
    assert "has 2 frames, crop needs 4" in found["crop"].losses[0]


def test_the_grid_has_every_shape_or_a_reason(finished: Path) -> None:
    for policy, record in records(finished).items():
        cells = {cell.shape: cell for cell in record.grid}
        assert list(cells) == [tuple(shape) for shape in GRID]
        assert cells[4, 24, 48].place == "out of range"
        assert cells[4, 16, 32].place == ("out of range" if policy == "crop" else "trained")
        assert cells[4, 16, 24].place == ("out of range" if policy == "crop" else "in range")
        hole = cells[4, 12, 16]
        assert hole.reason is not None and "height divisible by 2, got 3" in hole.reason and not hole.measurements
        names = {(m.name, m.subject) for m in cells[4, 16, 24].measurements}
        assert {("fd_motion@3", "trained"), ("fd_motion@3", "real"), ("subject_whole_rate", "real"), ("val_loss", "trained")} <= names
        assert {("fd_frame@3", "trained"), ("fd_frame@3", "real")} <= {(m.name, m.subject) for m in cells[1, 16, 16].measurements}
        assert all(cell.reason is None for shape, cell in cells.items() if shape != (4, 12, 16))


def test_samples_have_the_shapes_of_the_test_clips(finished: Path) -> None:
    folder = cell_folder(finished, "DiT-XXS_2-policy=pack-seed0")
    samples = load_frames(folder / "samples.npz")
    assert isinstance(samples, Ragged) and len(samples) == 8
    assert sorted(set(samples.shapes)) == sorted((*shape, 3) for shape in SHAPES)
    shown = framed(samples)
    assert shown.shape == (8, 4, 32, 32, 3)
    image = next(place for place, shape in enumerate(samples.shapes) if shape == (1, 32, 16, 3))
    assert np.array_equal(shown[image, 3, :, 8:24], samples[image][0])  # held, and in the middle
    assert (shown[image, :, :, :8] == 128).all()
    sheet = load_sheet(next(cell for cell in load_run(finished / "tiny").cells if cell.path == folder))
    assert isinstance(sheet, Sheet) and all(np.array_equal(sheet.clip(sheet.generated, k), clip) for k, clip in enumerate(samples))


def test_more_samples_at_any_shape(finished: Path, tmp_path: Path) -> None:
    folder = cell_folder(finished, "DiT-XXS_2-policy=pack-seed0")
    out = tmp_path / "wide.npz"
    done = here("sample", folder, "-n", 2, "--shape", "3x8x40", "--out", out, "--results", finished)
    assert done.returncode == 0, done.stderr
    assert load_frames(out).shape == (2, 3, 8, 40, 3) and out.with_suffix(".webp").is_file()  # type: ignore[union-attr]
    own = here("sample", folder, "-n", 2, "--out", out, "--results", finished)
    assert own.returncode == 0, own.stderr
    for shape, message in (
        ("3x8", "is not TxHxW"),
        ("3x12x40", "height divisible by 2, got 3 (latents (3, 3, 10)); the nearest that this cell can make is 3x8x40"),
        ("3x10x41", "height 10 is not a multiple of the autoencoder's stride 4; the nearest that this cell can make is 3x8x40"),
    ):
        bad = here("sample", folder, "-n", 2, "--shape", shape, "--out", out, "--results", finished)
        assert bad.returncode == 2 and message in bad.stderr, bad.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batching.policy=[pack]"], "mixes shapes in a batch, 'tests.small:UNet-XXS' takes one at a time; use 'bucket' or 'pad'"),
        (["batching.voxel_budget=32"], "4x16x16 of crop is 2 times what batching.voxel_budget holds"),
        (["batching={batch_size: 2, policy: crop}"], "batch_size 2 is for data of one shape, and this has several"),
        (["batching.policy=[bucket]", "batching.buckets=[[4,16,16],[4,40,40]]", "batching.voxel_budget=400"], "bucket 4x40x40 stays empty"),
    ],
)
def test_what_a_policy_cannot_do_is_said_before_training(tmp_path: Path, overrides: list[str], message: str) -> None:
    path = write_matrix(tmp_path, axes={"backbone": ["tests.small:UNet-XXS"], "batching.policy": ["crop"]}, match=None)
    data = (
        "data={source: worlds, num_frames: 4, height: 16, width: 16, num_train: 8, num_val: 4, num_test: 4, shapes: [[4,16,16],[4,16,32]]}"
    )
    done = here("run", path, data, "batching={voxel_budget: 96}", *overrides, "--results", tmp_path / "results")
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 400
