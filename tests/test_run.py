"""The command line, end to end, as a user meets it: a tiny matrix trains, resumes, reports; bad input is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bench.data.progress import Reporter
from bench.perf.evidence.solver_steps import main as again_in_steps
from bench.perf.evidence.solver_steps import rows_of
from bench.records.artefacts import WEIGHTS, save_tensors
from bench.records.store import read_run
from bench.report.load import load_run
from bench.run.samples import _wake, read_inputs, trained_on
from bench.shapes import Refusal
from tests.commands import ROOT, cell_folder, command, here, record_of, write_matrix
from tests.tiny import cell_fields


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results folder of a finished run; other tests run in processes of their own."""
    folder = tmp_path_factory.mktemp("run")
    done = here("run", write_matrix(folder), "--results", folder / "results")
    assert done.returncode == 0, done.stderr
    assert "UNet-XXS-seed0" in done.stdout
    assert "report: python -m bench report" in done.stdout
    return folder / "results"


def test_records_hold_everything_measured(finished: Path) -> None:
    for name in ("UNet-XXS-seed0", "DiT-XXS_2-seed0"):
        record = record_of(finished, name)
        assert (record.status, record.reason, record.attempt) == ("ok", None, 1)
        assert record.training is not None
        assert len(record.training.loss) == 40
        assert all(canary.passed for canary in record.canaries), record.canaries
        names = {(m.name, m.subject) for m in record.measurements}
        for subject in ("real", "reconstruction", "untrained", "trained"):
            for name_ in ("fd_random3d@4", "kd_random3d@4", "fd_frame@4", "one_object_rate", "steady_rate"):
                assert (name_, subject) in names
        for name_ in (
            "train_clips_per_s",
            "sample_voxels_per_s",
            "peak_storage_bytes",
            "peak_rss_bytes",
            "num_params",
            "flops_per_clip",
            "val_loss",
        ):
            assert (name_, "trained") in names
        assert {("psnr_db", "reconstruction"), ("ssim", "reconstruction")} <= names
        assert all("fvd" not in name for name, _ in names)  # a random network is never called FVD
        distance = record.measurement("fd_random3d@4")
        assert distance is not None
        assert distance.protocol is not None
        assert distance.protocol["n_fake"] == 4
        assert record.commits


def test_rates_are_two_totals_over_one_window(finished: Path) -> None:
    record = record_of(finished, "DiT-XXS_2-seed0")
    training, sampling = record.training, record.sampling
    assert training is not None
    assert sampling is not None
    window_s = training.wall_time_s - training.step_end_s[training.num_warmup_steps - 1]
    clips_per_s = 2 * (40 - training.num_warmup_steps) / window_s

    def value(name: str) -> float:
        measurement = record.measurement(name)
        assert measurement is not None
        return measurement.value

    assert value("train_clips_per_s") == pytest.approx(clips_per_s)
    assert value("train_frames_per_s") == pytest.approx(4 * clips_per_s)
    assert value("train_voxels_per_s") == pytest.approx(4 * 4 * 4 * clips_per_s)
    assert value("train_tflop_per_s") == pytest.approx(3 * value("flops_per_clip") * clips_per_s / 1e12)
    assert value("sample_clips_per_s") == pytest.approx(4 / sum(sampling.batch_time_s))
    assert value("sample_tflop_per_s") == pytest.approx(2 * value("flops_per_clip") * value("sample_clips_per_s") / 1e12)


def test_cells_in_half_precision_with_blocks_recomputed(tmp_path: Path) -> None:
    options = {"precision": "bf16", "acceleration": {"checkpointing": "blocks"}, "budget": {"steps": 3}}
    defaults = {**cell_fields(), **options}
    del defaults["backbone"]
    done = here("run", write_matrix(tmp_path, defaults=defaults), "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    for name in ("UNet-XXS-seed0", "DiT-XXS_2-seed0"):
        record = record_of(tmp_path / "results", name)
        assert (record.status, record.reason) == ("ok", None)
        assert record.measurement("sample_peak_storage_bytes") is not None


def test_rivals_have_one_peak(finished: Path) -> None:
    facts = [record_of(finished, name).backbone for name in ("UNet-XXS-seed0", "DiT-XXS_2-seed0")]
    assert facts[0] and facts[1] and (facts[0].peak_flop_per_s, facts[0].peak_key) == (facts[1].peak_flop_per_s, facts[1].peak_key)
    assert [path.stem for path in (finished / "cache" / "peak").iterdir()] == [facts[0].peak_key]


def test_what_a_cell_was_trained_on_is_in_its_record_too(finished: Path) -> None:
    folder = cell_folder(finished, "UNet-XXS-seed0")
    assert trained_on(folder) == read_inputs(folder) is not None


def test_rivals_saw_the_same_data(finished: Path) -> None:
    first, second = record_of(finished, "UNet-XXS-seed0"), record_of(finished, "DiT-XXS_2-seed0")
    assert first.data is not None and first.data == second.data
    assert first.autoencoder is not None and second.autoencoder is not None and first.autoencoder.key == second.autoencoder.key
    for subject in ("real", "reconstruction"):
        values = [record.measurement("fd_random3d@4", subject) for record in (first, second)]
        assert values[0] is not None
        assert values[0] == values[1]


def test_artefacts_can_be_scored_again(finished: Path) -> None:
    folder = cell_folder(finished, "DiT-XXS_2-seed0")
    with np.load(folder / "samples.npz", allow_pickle=False) as samples:
        assert samples["frames"].shape == (4, 4, 16, 16, 3)
        assert samples["frames"].dtype == np.uint8
    from bench.metrics.distances.frechet import frechet_distance

    features = load_file(folder / "features.safetensors")
    distance = record_of(finished, "DiT-XXS_2-seed0").measurement("fd_random3d@4")
    assert distance is not None
    assert frechet_distance(features["random3d/test"], features["random3d/trained"]) == pytest.approx(distance.value, rel=1e-9)


def test_second_run_trains_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("attempt-*.json")}
    again = here("run", finished.parent / "tiny.yaml", "--results", finished)
    assert again.returncode == 0
    assert "2 finished before, 0 to run" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("attempt-*.json")} == before


def test_an_override_never_overwrites(finished: Path) -> None:
    folders = {cell.folder for cell in read_run(finished / "tiny").cells}
    done = here("run", finished.parent / "tiny.yaml", "budget.steps=2", "backbone=tests.small:DiT-XXS/2", "--results", finished)
    assert done.returncode == 0, done.stderr
    after = {cell.folder for cell in read_run(finished / "tiny").cells}
    assert not after & folders
    assert all((finished / "tiny" / folder / "attempt-1.json").is_file() for folder in folders)
    assert here("run", finished.parent / "tiny.yaml", "--results", finished).returncode == 0  # and back again, from the records


def test_report_and_ls(finished: Path, tmp_path: Path) -> None:
    done = here("report", finished / "tiny", "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "DiT-XXS/2" in page
    assert len(page.encode()) < 5_000_000
    listing = here("ls", "--results", finished)
    assert "UNet-XXS-seed0: ok" in listing.stdout
    assert "quick" in listing.stdout


def test_damaged_or_foreign_weights_are_one_line(tmp_path: Path) -> None:
    path, other = tmp_path / WEIGHTS, tmp_path / "other.safetensors"
    save_tensors(path, torch.nn.Linear(2, 3).state_dict())
    save_tensors(other, torch.nn.Linear(2, 4, bias=False).state_dict())
    content = path.read_bytes()
    for damaged, message in (
        (content[: len(content) // 2], "is no file of weights, or is cut short"),
        (b"", "is no file of weights, or is cut short"),
        (content[:-1] + bytes([content[-1] ^ 1]), "is not what was written: it is damaged, or was edited; run it again"),
        (other.read_bytes(), r"another backbone: 2 tensors differ, bias is missing there, \(3,\) here; run it again"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(Refusal, match=message):
            _wake(torch.nn.Linear(2, 3), path, "run it again")
    path.write_bytes(content)
    _wake(woken := torch.nn.Linear(2, 3), path, "run it again")
    assert (woken.weight.detach().numpy() == load_file(path)["weight"]).all()


def test_sample_makes_more_clips_and_others(finished: Path, tmp_path: Path) -> None:
    folder = cell_folder(finished, "DiT-XXS_2-seed0")
    done = here("sample", folder, "-n", 3, "--out", tmp_path / "more.npz", "--results", finished)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "more.npz", allow_pickle=False) as more, np.load(folder / "samples.npz", allow_pickle=False) as samples:
        assert more["frames"].shape == (3, 4, 16, 16, 3)
        assert (tmp_path / "more.webp").is_file()
        assert not any((clip == known).all() for clip in more["frames"] for known in samples["frames"])


def test_a_cell_scored_again_in_its_own_steps_is_as_far_from_real_clips_as_its_record_says(finished: Path, tmp_path: Path) -> None:
    cell = next(cell for cell in load_run(finished / "tiny").cells if cell.name == "DiT-XXS_2-seed0")
    assert cell.record is not None
    own = cell.record.cell.sampler.num_steps
    rows = list(rows_of(finished / "tiny", "fd_random3d", cell, [1, own], Reporter("steps")))
    (recorded,) = (m.value for m in cell.record.measurements if (m.name, m.subject) == ("fd_random3d@4", "trained"))
    assert [(row["num_steps"], row["name"], row["seed"]) for row in rows] == [(1, "fd_random3d@4", 0), (own, "fd_random3d@4", 0)]
    assert rows[1]["value"] == pytest.approx(recorded, rel=1e-6)
    assert rows[0]["value"] != rows[1]["value"]
    shutil.copytree(cell.path, lean := tmp_path / "lean", ignore=shutil.ignore_patterns(WEIGHTS))
    with pytest.raises(Refusal, match="val_loss is no distance"):
        list(rows_of(finished / "tiny", "val_loss", cell, [1], Reporter("steps")))
    with pytest.raises(Refusal, match=f"no {WEIGHTS}; finish the cell with `python -m bench run tiny`"):
        list(rows_of(finished / "tiny", "fd_random3d", cell.model_copy(update={"path": lean}), [1], Reporter("steps")))


@pytest.mark.parametrize(
    ("steps", "message"), [("3,0", "--steps is '3,0'; give whole numbers above 0"), ("3", "names no measure that decides")]
)
def test_what_cannot_be_scored_again_is_one_line(finished: Path, tmp_path: Path, steps: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        again_in_steps(finished / "tiny", steps, tmp_path)


def known(finished: Path, folder: Path, *parts: str) -> Path:
    """A results folder that knows these of the finished run's, so that a run in processes of its own times and makes no others."""
    for part in parts:
        shutil.copytree(finished / part, folder / "results" / part)
    return folder / "results"


def test_killed_at_any_moment_the_next_run_goes_on_bit_for_bit(finished: Path, tmp_path: Path) -> None:
    """kill -9 on the whole run, in the shared stages and then in training; the loss curve is that of the uninterrupted run."""
    results = known(finished, tmp_path, "tiny", "cache/peak")
    fields = cell_fields(budget={"steps": 40}, checkpoint_interval_s=0.0)
    del fields["backbone"]
    path = write_matrix(tmp_path, "own", axes={"backbone": ["tests.small:DiT-XXS/2"]}, defaults=fields)
    for moment in ("cache/autoencoder", "checkpoint"):
        run = subprocess.Popen(
            [sys.executable, "-m", "bench", "run", str(path), "--results", str(results)], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        deadline_s = time.monotonic() + 200
        while not _reached(results, moment) and time.monotonic() < deadline_s and run.poll() is None:
            time.sleep(0.01)
        assert run.poll() is None, f"the run ended before {moment}"
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    checkpoint = next(results.glob("own/*/checkpoint.pt"))
    stopped_at = torch.load(checkpoint, weights_only=True)["state"]["step"]
    assert 0 < stopped_at < 40
    done = command("run", path, "--results", results)
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {stopped_at}" in done.stderr
    for torn in results.rglob("attempt-*.json"):
        json.loads(torn.read_text())
    record = record_of(results, "DiT-XXS_2-seed0", "own")
    uninterrupted = record_of(finished, "DiT-XXS_2-seed0")
    assert record.training is not None
    assert uninterrupted.training is not None
    assert record.training.num_steps == 40
    assert record.training.loss == uninterrupted.training.loss
    assert record.measurement("val_loss") == uninterrupted.measurement("val_loss")


def _reached(results: Path, moment: str) -> bool:
    if moment == "checkpoint":
        return any(results.glob("own/*/checkpoint.pt"))
    return (results / moment).is_dir()


def test_ctrl_c_leaves_a_resumable_state(finished: Path, tmp_path: Path) -> None:
    results = known(finished, tmp_path, "tiny", "cache")
    fields = cell_fields(budget={"steps": 100_000}, checkpoint_interval_s=0.0)
    del fields["backbone"]
    path = write_matrix(tmp_path, "own", axes={"backbone": ["tests.small:DiT-XXS/2"]}, defaults=fields)
    arguments = [sys.executable, "-m", "bench", "run", str(path), "--results", str(results)]
    run = subprocess.Popen(
        arguments,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # what a shell starts with & ignores ctrl-C
    )
    deadline_s = time.monotonic() + 200
    while not _reached(results, "checkpoint") and time.monotonic() < deadline_s:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: every process of the group gets it
    _, stderr = run.communicate(timeout=100)
    assert run.returncode == 130
    assert "stopped at step" in stderr  # once, and in its own time
    assert "run the same command again to go on" in stderr
    assert not list(results.glob("own/*/attempt-*.json"))
    assert _reached(results, "checkpoint")


def test_a_failed_cell_is_a_record_and_a_status(finished: Path, tmp_path: Path) -> None:
    """A diverged and a timed-out cell: the run ends non-zero and says which; the other results stand."""
    fields = cell_fields(evaluation={"extractors": ["random3d"], "num_samples": 4, "untrained": False})
    del fields["backbone"]
    results = known(finished, tmp_path, "tiny", "cache")
    path = write_matrix(
        tmp_path,
        "own",
        axes={"backbone": ["tests.small:DiT-XXS/2"]},
        include=[{"backbone": "tests.small:DiT-XXS/2", "timeout_s": 0.5, "budget.steps": 59}],
        defaults={**fields, "optimizer": {"learning_rate": 1e12, "warmup_steps": 0, "grad_clip": 1e12}, "budget": {"steps": 60}},
    )
    done = command("run", path, "--results", results)
    assert done.returncode == 1, done.stderr
    diverged = record_of(results, "DiT-XXS_2-seed0", "own")
    assert diverged.status == "diverged"
    assert diverged.training is not None
    assert "diverged" in done.stdout
    timed_out = record_of(results, "DiT-XXS_2-steps=59-timeout_s=0.5-seed0", "own")
    assert timed_out.status == "timeout"
    assert "0.5" in str(timed_out.reason)
    report = here("report", results / "own", "--out", tmp_path / "report")
    assert report.returncode == 0, report.stderr
    assert "timeout" in (tmp_path / "report" / "report.html").read_text()


def test_out_of_memory_is_a_result_with_its_peak(tmp_path: Path) -> None:
    fields = cell_fields(batching={"batch_size": 3})
    del fields["backbone"]
    path = write_matrix(tmp_path, axes={"backbone": ["tests.hungry:Hungry"]}, defaults=fields)
    done = here("run", path, "--results", tmp_path / "results")
    assert done.returncode == 1, done.stderr
    record = record_of(tmp_path / "results", "Hungry-seed0")
    assert (record.status, record.reason) == ("oom", "no room for three clips")
    assert record.data and record.ledger and record.autoencoder and record.backbone and record.canaries  # what was known by then
    assert list(record.time_split_s) == ["training set", "backbone", "canaries", "untrained model", "training"]
    assert record.artefacts == {"untrained": "untrained.npz"}
    peak = record.measurement("peak_rss_bytes")
    assert peak is not None
    assert peak.value > 1e8
    again = here("run", path, "--results", tmp_path / "results")
    assert again.returncode == 1
    assert "1 finished before, 0 to run" in again.stdout  # a result is not tried again, and the run still says it failed


BAD_INPUT = [
    (["backbone=dit:DiT-XS/9"], "did you mean 'dit:DiT-XS/"),
    (["data.height=20"], "divisible by 2, got 5"),
    (["data.height=18"], "not a multiple of the autoencoder's stride 4; use 16 or 20"),
    (["evaluation.num_samples=1"], "num_samples must be 0 or 2 and more"),
    (["evaluation.extractors=[i3d]"], "extractor 'i3d' needs at least 9 frames a clip, got data.num_frames 4"),
    (["evaluation.extractors=[i3d]", "data.num_frames=10"], "python -m bench weights get i3d"),
    (["evaluation.extractors=[i4d]"], "unknown extractor 'i4d'"),
    (["optimizer.lerning_rate=1"], "did you mean 'learning_rate'"),
    (["match.tolerance=1e-6"], "match.tolerance"),
    (["device=cuda"], "device=cpu"),
    (["data={source: folder, path: /no/such/folder, num_frames: 4, height: 16, width: 16, num_val: 4, num_test: 4}"], "/no/such/folder"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected"), BAD_INPUT)
def test_bad_input_is_one_line_and_non_zero(tmp_path: Path, overrides: list[str], expected: str) -> None:
    if "device=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    done = here(
        "run", write_matrix(tmp_path), *overrides, "--results", tmp_path / "results", UNET_VS_DIT_CACHE=str(tmp_path / "no-weights")
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2, done.stderr
    assert 1 <= len(errors) <= 2, done.stderr  # of two cells; what is wrong with both is said once
    assert any(expected in line for line in errors)
    assert len(errors) == 1 or all("cell" in line for line in errors)
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "results").rglob("attempt-*.json"))


@pytest.mark.parametrize("busy", [False, True])
def test_an_unwritable_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    monkeypatch.setattr("bench.run.expected.estimate.is_busy", lambda: busy)  # then what was timed is not kept
    (tmp_path / "results").write_text("a file")
    done = here("run", write_matrix(tmp_path), "--results", tmp_path / "results")
    assert done.returncode == 2
    assert "choose another folder with --results" in done.stderr


def test_two_runs_of_one_matrix_at_once(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "results" / "tiny").mkdir(parents=True)
    with (tmp_path / "results" / "tiny" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = here("run", write_matrix(tmp_path), "--results", tmp_path / "results")
    assert done.returncode == 2
    assert "another run is using" in done.stderr


def test_report_of_nothing(tmp_path: Path) -> None:
    done = here("report", "absent", "--results", tmp_path)
    assert done.returncode == 2
    assert "run MATRIX" in done.stderr


def validated(tmp_path: Path, *overrides: str, **changes: Any) -> tuple[int, list[str]]:
    """Exit status and error lines of `validate` on a tiny matrix."""
    no_weights = {"UNET_VS_DIT_CACHE": str(tmp_path / "no-weights")}
    done = here("validate", write_matrix(tmp_path, **changes), *overrides, "--results", tmp_path / "results", **no_weights)
    assert not list((tmp_path / "results").rglob("attempt-*.json")) and not (tmp_path / "results" / "tiny" / "run.json").exists()
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("error:")]


def test_validate_checks_what_run_checks_and_trains_nothing(tmp_path: Path) -> None:
    assert validated(tmp_path) == (0, [])
    cache = tmp_path / "results" / "cache"
    assert (cache / "clips").is_dir() and not (cache / "autoencoder").exists() and not (cache / "features").exists()


def test_validate_says_of_every_cell_what_is_wrong(tmp_path: Path) -> None:
    backbones = {"backbone": ["tests.unbuildable:Never", "tests.small:DiT-XXS/2", "tests.unbuildable:NeverEither"]}
    status, errors = validated(tmp_path, axes=backbones, match=None)
    assert status == 2
    assert errors == [
        "error: validate: cell Never-seed0: Never has 0 layers; give it one",
        "error: validate: cell NeverEither-seed0: NeverEither has 0 layers; give it one",
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["match.tolerance=1e-6"], "choose sizes that are nearer or raise match.tolerance"),
        (["data={source: folder, path: no-videos, num_frames: 4, height: 16, width: 16, num_val: 4, num_test: 4}"], "no-videos"),
        (["evaluation.extractors=[i3d]", "data.num_frames=16"], "python -m bench weights get i3d"),
    ],
)
def test_validate_refuses_what_run_would(tmp_path: Path, overrides: list[str], expected: str) -> None:
    status, errors = validated(tmp_path, *overrides)
    assert status == 2
    assert errors and all(expected in line for line in errors)


def test_weights_are_missed_before_anything_is_matched(tmp_path: Path) -> None:
    changes = {
        "axes": {"backbone": ["tests.small:UNet-XXS{num_res_blocks: 2}", "tests.small:DiT-XXS/2"]},
        "match": {"by": "params", "to": "DiT-XXS/2"},
    }
    status, errors = validated(tmp_path, "evaluation.extractors=[i3d]", "data.num_frames=16", **changes)
    assert (status, len(errors)) == (2, 1) and "weights get i3d" in errors[0]
    assert not (tmp_path / "results").exists()


def test_ls_lives_through_a_bad_run(tmp_path: Path) -> None:
    for name, content in {"a[b]": "{", "list": "[]", "cells": '{"matrix": "m", "cells": [{"name": 1}]}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    done = here("ls", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("a[b]", "list", "cells"):
        assert str(tmp_path / name) in "".join(done.stdout.split())
