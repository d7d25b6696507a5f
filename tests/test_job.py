"""Jobs: four kinds, each with its own fields and no others."""

import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.run.job import CellJob, MatchJob, PrepareJob, SampleJob, read_job
from bench.run.process import Refused, own_environment, run_job
from bench.run.worker import StopFlag
from bench.study.matrix import Match, NamedCell, load_study
from tests.tiny import tiny_cell

CELL = NamedCell(name="c", axes={}, cell=tiny_cell())
COMMON: dict[str, Any] = {"matrix": "m", "results": Path("/results")}
JOBS = [
    PrepareJob(**COMMON, label="p", until="made", study=load_study("shapes"), waiting=("c",)),
    CellJob(**COMMON, label="c", cell=CELL),
    SampleJob(**COMMON, label="c", cell=CELL.cell, folder=Path("/results/m/c"), num_clips=3, shape=(4, 16, 16), out=Path("/more.npz")),
    MatchJob(
        **COMMON, label="match", cell=tiny_cell(), target="dit:DiT-XS/2", match=Match(by="flops", to="DiT-XS/2"), out=Path("/proof.json")
    ),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.kind)
def test_a_job_is_read_as_it_was_written(job: Any) -> None:
    again = read_job(job.model_dump_json())
    assert type(again) is type(job) and again.model_dump() == job.model_dump()


def test_a_kind_has_no_fields_of_another() -> None:
    for job, more in zip(JOBS, ('"num_clips":3', '"study":{}', '"target":"x"', '"shape":null'), strict=True):
        with pytest.raises(ValidationError, match="Extra inputs"):
            read_job(job.model_dump_json()[:-1] + f",{more}}}")


def test_a_process_is_told_its_job_and_leaves_no_file_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not even a folder of the matrix: `validate` and others write nothing of their own into the results."""
    cell = tiny_cell()
    job = SampleJob(
        label="c", matrix="m", results=tmp_path, cell=cell, folder=tmp_path / "m", num_clips=1, shape=None, out=tmp_path / "x.npz"
    )
    with pytest.raises(Refused):
        run_job(job)
    assert "finish the cell with `python -m bench run m` first" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_job_is_told_nothing_of_a_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "KEPT"):
        monkeypatch.setenv(name, "2")
    assert {"WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"}.isdisjoint(own_environment())
    assert own_environment()["KEPT"] == "2"


def test_a_cell_may_be_told_to_stop_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a scheduler, which tells every process, and by the process that started it."""
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    stop = StopFlag(at_once=False)
    for _ in range(2):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert stop.requested
    StopFlag(at_once=True)
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGINT](signal.SIGINT, None)
