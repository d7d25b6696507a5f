"""The phases of a cell: their order, where a stop ends them, and what a record holds of a cell that did not get through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.data.progress import Reporter
from bench.records.record import Canary, Record
from bench.records.store import latest
from bench.run.cell_run import CellRun
from bench.run.job import CellJob
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
    "shape grid": "measure_grid",
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
    cell_run(tmp_path, done, evaluation={"extractors": ["random3d"], "num_samples": 4, "grid": [[4, 16, 16]]}).run()
    assert done == list(METHODS)
    assert done.index("training") < done.index("reference set")  # training does not wait for the judge
    assert record_in(tmp_path).status == "ok" and list(record_in(tmp_path).time_split_s) == done


def test_what_is_not_asked_for_is_left_out(tmp_path: Path) -> None:
    done: list[str] = []
    cell_run(tmp_path, done, evaluation={"extractors": ["random3d"], "num_samples": 4, "untrained": False}).run()
    assert set(METHODS) - set(done) == {"untrained model", "shape grid"}


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
