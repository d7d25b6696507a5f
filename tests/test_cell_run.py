"""The phases of a cell: their order, where a stop ends them, and what a record holds of a cell that did not get through."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from bench.data.progress import Reporter
from bench.data.sealed import DamagedCache
from bench.meters import peak
from bench.records.artefacts import load_frames, save_frames
from bench.records.record import Canary, Record
from bench.records.store import latest
from bench.run.cell_run import CellRun
from bench.run.job import CellJob
from bench.run.samples import read_inputs
from bench.study.matrix import NamedCell
from bench.training.trainer import Interrupted
from tests.tiny import tiny_cell

METHODS = {
    "training set": "make_training_set",
    "backbone": "build_backbone",
    "canaries": "check_canaries",
    "untrained model": "sample_untrained",
    "training": "train",
    "sampling": "sample",
    "reference set": "make_reference_set",
    "costs": "measure_costs",
    "quality": "measure_quality",
    "quality on the way": "measure_points",
    "shape grid": "measure_grid",
    "physics": "measure_physics",
    "latency": "measure_latency",
    "drift": "measure_drift",
}


def cell_run(folder: Path, done: list[str], *, stop_after: str = "", fails: Exception | None = None, **changes: Any) -> CellRun:
    """A cell whose phases only say that they ran; `quality` fails with `fails`."""
    cell = NamedCell(name="c", axes={}, cell=tiny_cell(**changes))
    job = CellJob(matrix="m", results=folder, label="c", cell=cell)
    (folder / "m" / cell.folder).mkdir(parents=True)  # as the launcher does
    run = CellRun(job, Reporter("c"), lambda: bool(done) and done[-1] == stop_after)

    def phase(name: str) -> Callable[[], None]:
        def do() -> None:
            done.append(name)
            if name == "canaries":
                run.found["canaries"] = [Canary(name="x", passed=True, detail="")]
            if name == "quality" and fails is not None:
                raise fails

        return do

    for name, method in METHODS.items():
        setattr(run, method, phase(name))
    return run


def record_in(folder: Path) -> Record:
    record = latest(next((folder / "m").iterdir()))
    assert record is not None
    return record


def test_phases_run_in_the_order_in_which_records_name_them(tmp_path: Path) -> None:
    done: list[str] = []
    cell_run(tmp_path, done, evaluation={"extractors": ["random3d"], "num_samples": 4, "points": [0.5], "grid": [[4, 16, 16]]}).run()
    assert done == [name for name in METHODS if name not in ("physics", "latency", "drift")]
    assert done.index("training") < done.index("reference set")  # training does not wait for the judge
    assert record_in(tmp_path).status == "ok" and list(record_in(tmp_path).time_split_s) == done


@pytest.mark.parametrize("asked", [{"regions": ["in"]}, {"twins": 2}])
def test_physics_comes_last(tmp_path: Path, asked: dict[str, Any]) -> None:
    done: list[str] = []
    data = {"source": "physics", "world": "motion", "num_frames": 8, "height": 40, "width": 40, "num_train": 8, "num_val": 4, "num_test": 4}
    evaluation = {"extractors": ["random3d"], "num_samples": 4, **asked}
    cell_run(tmp_path, done, data=data, objective={"known_frames": 2}, evaluation=evaluation).run()
    assert done[-2:] == ["quality", "physics"]


def test_what_is_not_asked_for_is_left_out(tmp_path: Path) -> None:
    done: list[str] = []
    cell_run(tmp_path, done, evaluation={"extractors": ["random3d"], "num_samples": 4, "untrained": False}).run()
    assert set(METHODS) - set(done) == {"untrained model", "quality on the way", "shape grid", "physics", "latency", "drift"}


def test_without_samples_a_cell_trains_and_no_more(tmp_path: Path) -> None:
    done: list[str] = []
    cell_run(tmp_path, done, evaluation={"num_samples": 0, "points": [0.5], "grid": [[4, 16, 16]]}).run()
    assert done == ["training set", "backbone", "canaries", "training"]


def test_quality_on_the_way_is_of_the_averaged_weights_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell of 6 steps, scored after 3 of them, tells what a cell of 3 steps ends with; and its end is what it is without."""
    monkeypatch.setitem(peak.SIDES, "cpu", 64)
    evaluation = {"extractors": ["random3d"], "num_samples": 4, "untrained": False}
    made = {}
    for name, steps, points in (("way", 6, [0.5, 0.99]), ("plain", 6, []), ("short", 3, [])):
        cell = NamedCell(name=name, axes={}, cell=tiny_cell(evaluation=evaluation | {"points": points}, budget={"steps": steps}))
        job = CellJob(matrix="m", results=tmp_path, label=name, cell=cell)
        folder = tmp_path / "m" / cell.folder
        folder.mkdir(parents=True)
        CellRun(job, Reporter(name), lambda: False).run()
        record = latest(folder)
        assert record and record.status == "ok", record and record.reason
        assert not list(folder.glob("point-*"))
        made[name] = record

    def distance(record: Record) -> float:
        found = record.measurement("fd_random3d@4")
        assert found
        return found.value

    half, late = made["way"].points
    assert (half.part, half.step, half.reason) == (0.5, 3, None)
    [value] = [m.value for m in half.measurements if m.name == "fd_random3d@4"]
    assert value == distance(made["short"])
    assert {m.subject for m in half.measurements} == {"trained"}
    assert half.forward_flops * 2 == made["way"].measurement("train_flops").value / 3  # type: ignore[union-attr]
    assert (late.measurements, late.reason) == ([], "a single step went past it")
    assert distance(made["way"]) == distance(made["plain"]) != value


@pytest.mark.parametrize("phase", ["training set", "sampling"])
def test_a_stop_ends_it_after_the_phase_without_a_record(tmp_path: Path, phase: str) -> None:
    done: list[str] = []
    with pytest.raises(Interrupted, match=f"stopped after {phase}; the next `run` goes on"):
        cell_run(tmp_path, done, stop_after=phase).run()
    assert done[-1] == phase and latest(next((tmp_path / "m").iterdir())) is None


def test_after_the_last_phase_there_is_nothing_to_stop(tmp_path: Path) -> None:
    cell_run(tmp_path, [], stop_after="quality").run()
    assert record_in(tmp_path).status == "ok"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ZeroDivisionError("a bug"), "failed"),
        (MemoryError("no room"), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom"),
    ],
)
def test_a_cell_that_fails_late_keeps_what_it_knew(tmp_path: Path, error: Exception, status: str) -> None:
    cell_run(tmp_path, done := [], fails=error).run()
    record = record_in(tmp_path)
    assert record.status == status and str(error)[:7] in str(record.reason)
    assert [canary.name for canary in record.canaries] == ["x"] and list(record.time_split_s) == done
    assert (record.measurement("peak_rss_bytes") is not None) == (status == "oom")
    assert bool(list(tmp_path.glob("m/c-*/traceback.txt"))) == (status == "failed")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder whose cache holds what the tiny cell needs."""
    return tmp_path_factory.mktemp("stages")


def first_phases(results: Path) -> CellRun:
    """A cell up to the samples of its untrained model."""
    cell = NamedCell(name="c", axes={}, cell=tiny_cell(backbone="tests.small:DiT-XXS/2"))
    run = CellRun(CellJob(matrix="m", results=results, label="c", cell=cell), Reporter("c"), lambda: False)
    run.folder.mkdir(parents=True, exist_ok=True)
    with mock.patch.dict(peak.SIDES, cpu=64):
        for phase in (run.make_training_set, run.build_backbone, run.sample_untrained):
            phase()
    return run


def test_an_earlier_attempt_is_gone_on_with(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = first_phases(stages)
    monkeypatch.setattr(CellRun, "_sampled", lambda *_: pytest.fail("sampled again"))
    assert np.array_equal(first_phases(stages).untrained, run.untrained)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage", ["cut untrained.npz", "other untrained.npz", "array untrained.npz", "text inputs.txt", "bytes inputs.txt"]
)
def test_a_damaged_file_of_an_attempt_is_named_and_made_again(stages: Path, damage: str) -> None:
    """And a checkpoint, which says itself what it is of, is not lost with it."""
    run, (how, name) = first_phases(stages), damage.split()
    before, path = run.untrained, run.folder / name
    (run.folder / "checkpoint.pt").write_text("a checkpoint")
    if how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "other":
        save_frames(path, np.zeros((3, 4, 16, 16, 3), np.uint8))
    elif how == "array":
        np.save(path.with_suffix(".npy"), np.zeros(3))
        path.with_suffix(".npy").replace(path)
    else:
        path.write_bytes(b"\xff\xfe" if how == "bytes" else b"another")
    with pytest.warns(DamagedCache, match=rf"{path} .*again"):
        again = first_phases(stages)
    assert np.array_equal(load_frames(run.folder / "untrained.npz"), before)  # type: ignore[arg-type]
    assert again.artefacts["untrained"] == "untrained.npz" and again.folder == run.folder
    assert read_inputs(run.folder) is not None and (run.folder / "checkpoint.pt").is_file()


def test_what_nothing_vouches_for_is_made_again(stages: Path) -> None:
    run = first_phases(stages)
    (run.folder / "inputs.txt").unlink()
    save_frames(run.folder / "untrained.npz", np.zeros_like(run.untrained))  # type: ignore[arg-type]
    assert np.array_equal(first_phases(stages).untrained, run.untrained)  # type: ignore[arg-type]
