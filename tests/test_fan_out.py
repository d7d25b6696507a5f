"""Many cells by one launcher: handed out by room and seed, again where a machine was lost, left where they go on by themselves."""

import os
from pathlib import Path

import pytest

from bench.data.files import StoreError, now
from bench.records.record import PREDICTED, Measurement, Record
from bench.records.store import latest, write_record
from bench.run import fan_out
from bench.run.fan_out import MOST_LOST, FanOut, run_on
from bench.run.job import CellJob, Job, PrepareJob
from bench.run.launch import run_all
from bench.run.process import Refused, Stopped, end_all
from bench.run.watch import Ended
from bench.shapes import Refusal
from bench.study.matrix import NamedCell, load_study
from tests.fake_launcher import FakeJob, FakeLauncher
from tests.report_factory import environment
from tests.tiny import tiny_cell

DONE, LOST = Ended(word="done"), Ended(word="lost", what="node n1 is gone")


def jobs_of(folder: Path, seeds: int = 3) -> list[CellJob]:
    cells = [NamedCell(name=f"c{seed}", axes={}, cell=tiny_cell(seed=seed)) for seed in range(seeds)]
    return [CellJob(label=cell.name, matrix="m", results=folder, cell=cell) for cell in cells]


def finished(job: Job, status: str = "ok") -> Ended:
    """Its record is written."""
    assert isinstance(job, CellJob)
    record = Record(
        matrix=job.matrix,
        name=job.cell.name,
        fingerprint=job.cell.cell.fingerprint(),
        cell=job.cell.cell,
        attempt=job.after + 1,
        status=status,  # type: ignore[arg-type]
        started_at=now(),
        ended_at=now(),
        environment=environment(),
    )
    write_record(job.folder, record)
    return DONE


def predicted(job: CellJob, num_bytes: float) -> Ended:
    """The same, with a prediction of its memory."""
    ended = finished(job)
    record = latest(job.folder)
    assert record is not None
    found = [Measurement(name=PREDICTED, value=num_bytes, unit="B", better="none")]
    write_record(job.folder, record.model_copy(update={"measurements": found, "attempt": job.after + 2}))
    return ended


def fan(launcher: FakeLauncher, said: list[str] | None = None) -> FanOut:
    return FanOut(launcher, (said if said is not None else []).append, 0)


@pytest.mark.parametrize("uniform", [True, False])
def test_the_memory_of_a_step_is_predicted_once(tmp_path: Path, uniform: bool) -> None:
    """Of clips of several shapes it is another step at another seed."""
    batching = {"batch_size": 2} if uniform else {"policy": "bucket", "voxel_budget": 99}
    jobs = [job.model_copy(update={"cell": job.cell.model_copy(update={"cell": tiny_cell(seed=seed, batching=batching)})})
            for seed, job in enumerate(jobs_of(tmp_path))]  # fmt: skip
    other = tiny_cell(seed=9, batching=batching, backbone="dit:DiT-S/2")
    jobs.append(jobs[0].model_copy(update={"label": "c9", "cell": NamedCell(name="c9", axes={}, cell=other)}))
    launcher = FakeLauncher(lambda job: predicted(job, 100.0 + len(launcher.started)))  # type: ignore[arg-type]
    fan(launcher).run(jobs)
    given = [job.predicted_bytes for job, _ in launcher.started]  # type: ignore[union-attr]
    assert given == ([None, 100.0, 100.0, None] if uniform else [None] * 4)
    again = FakeLauncher(finished)
    FanOut(again, lambda line: None, 0, known=[record for job in jobs[:1] if (record := latest(job.folder))]).run(jobs[1:2])
    assert [job.predicted_bytes for job, _ in again.started] == [100.0 if uniform else None]  # type: ignore[union-attr]


@pytest.mark.parametrize("room", [1, 2, 5])
def test_as_many_run_at_once_as_there_is_room_for(tmp_path: Path, room: int) -> None:
    running: list[str] = []
    most = [0]

    class Running(FakeJob):
        def __init__(self, job: Job):
            super().__init__(finished(job), looks=3)
            running.append(job.label)
            most[0] = max(most[0], len(running))
            self._label = job.label

        def ended(self) -> Ended | None:
            found = super().ended()
            if found and self._label in running:
                running.remove(self._label)
            return found

    launcher = FakeLauncher(Running, room)
    records = fan(launcher).run(jobs_of(tmp_path))
    assert most == [min(room, 3)] and [job.label for job, _ in launcher.started] == ["c0", "c1", "c2"]
    assert {name: record.status for name, record in records.items()} == dict.fromkeys(("c0", "c1", "c2"), "ok")


def test_a_cell_whose_machine_was_lost_is_handed_out_again_first(tmp_path: Path) -> None:
    ends = iter([LOST, LOST])
    launcher, said = FakeLauncher(lambda job: next(ends, None) or finished(job)), list[str]()
    records = fan(launcher, said).run(jobs_of(tmp_path, 2))
    assert [job.label for job, _ in launcher.started] == ["c0", "c0", "c0", "c1"]
    assert records["c0"].attempt == 1  # a lost time leaves no record
    assert said.count("c0: node n1 is gone; it is handed out again and goes on from its checkpoint") == 2


@pytest.mark.parametrize(("progress", "times"), [(False, MOST_LOST), (True, 3 * MOST_LOST)])
def test_a_cell_that_is_lost_again_and_again_without_a_checkpoint_fails(tmp_path: Path, progress: bool, times: int) -> None:
    count = [0]

    def lost(job: Job) -> Ended:
        assert isinstance(job, CellJob)
        count[0] += 1
        if progress:
            (job.folder / "checkpoint.pt").touch()
            os.utime(job.folder / "checkpoint.pt", (count[0],) * 2)
        return LOST if count[0] < 3 * MOST_LOST else finished(job)

    records = fan(FakeLauncher(lost)).run(jobs_of(tmp_path, 1))
    assert count == [times]
    assert (records["c0"].status, records["c0"].reason) == (("ok", None) if progress else ("failed", "node n1 is gone"))


def test_a_record_counts_whatever_its_process_said(tmp_path: Path) -> None:
    """Another worker finished the cell, or the process was killed behind its record."""

    def written(job: Job) -> Ended:
        finished(job)
        return LOST if job.label == "c0" else Ended(code=-9) if job.label == "c1" else Ended(word="refused")

    records = fan(FakeLauncher(written)).run(jobs_of(tmp_path))
    assert [records[name].status for name in ("c0", "c1", "c2")] == ["ok"] * 3


def test_an_earlier_record_is_not_taken_for_that_of_a_job(tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, 1)
    finished(job, "failed")
    records = fan(FakeLauncher(lambda job: Ended(code=-9))).run([job])
    assert records["c0"].attempt == 2 and "SIGKILL" in str(records["c0"].reason)


def test_a_record_that_is_seen_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs_of(tmp_path, 1)
    looks = [0]

    def late(folder: Path) -> Record | None:
        looks[0] += 1
        if looks[0] == 4:
            finished(job)
        return latest(folder)

    monkeypatch.setattr(fan_out, "latest", late)
    launcher = FakeLauncher(lambda job: DONE, machine="elsewhere")
    launcher.patience_s = 30.0
    assert fan(launcher).run([job])["c0"].status == "ok"


def test_a_cancelled_cell_of_a_queue_has_no_record_and_the_others_go_on(tmp_path: Path) -> None:
    launcher = FakeLauncher(lambda job: Ended(word="stopped") if job.label == "c1" else finished(job), machine="queue")
    with pytest.raises(Stopped, match="c1 cancelled by the scheduler, what was done is kept; run the same command again"):
        fan(launcher).run(jobs_of(tmp_path))
    assert [latest(job.folder) is not None for job in jobs_of(tmp_path)] == [True, False, True]


def test_a_job_that_was_stopped_on_this_machine_stops_all(tmp_path: Path) -> None:
    launcher = FakeLauncher(lambda job: FakeJob(Ended(word="stopped"), looks=0 if job.label == "c1" else 100), room=3)
    with pytest.raises(Stopped):
        fan(launcher).run(jobs_of(tmp_path))
    assert [at.asked for _, at in launcher.started] == [["stop"], [], ["stop"]]


@pytest.mark.parametrize("leaves", [True, False])
def test_jobs_of_a_queue_are_left_by_ctrl_c_and_others_are_ended(tmp_path: Path, leaves: bool) -> None:
    ends: list[FakeJob] = [FakeJob(DONE, looks=1000), FakeJob(KeyboardInterrupt())]
    launcher = FakeLauncher(lambda job: ends.pop(0), room=2, leaves=leaves)
    with pytest.raises(Stopped, match="nowhere, nowhere go on by themselves" if leaves else "stopped; run the same command"):
        fan(launcher).run(jobs_of(tmp_path, 2))
    assert [at.asked for _, at in launcher.started] == ([[], []] if leaves else [["stop"], ["stop"]])


def test_what_was_handed_out_before_is_waited_for_and_not_handed_out_again(tmp_path: Path) -> None:
    jobs, said = jobs_of(tmp_path), list[str]()
    launcher = FakeLauncher(finished)
    launcher.earlier["c1"] = FakeJob(finished(jobs[1]), looks=3)
    records = fan(launcher, said).run(jobs)
    assert [job.label for job, _ in launcher.started] == ["c0", "c2"] and len(records) == 3
    assert "c1: nowhere, handed out before" in said


def test_a_job_that_does_not_end_when_it_is_told_to_is_killed_when_it_is_told_again() -> None:
    class Deaf(FakeJob):
        def ended(self) -> Ended | None:
            if self.asked == ["stop"]:
                raise KeyboardInterrupt
            return super().ended()

    job = Deaf(DONE, looks=5)
    end_all([job])
    assert job.asked == ["stop", "kill"]


def prepare(folder: Path) -> PrepareJob:
    return PrepareJob(label="prepare", matrix="m", results=folder, study=load_study("smoke"), waiting=(), until="made")


@pytest.mark.parametrize(
    ("ended", "error"),
    [
        (Ended(word="refused"), (Refused, "the line it printed")),
        (Ended(word="refused", what="machine n1 does not see /r"), (Refusal, "machine n1 does not see /r")),
        (Ended(word="stopped"), (Stopped, "again to go on")),
        (Ended(code=-9), (StoreError, "SIGKILL")),
        (LOST, (StoreError, f"node n1 is gone, {MOST_LOST} times")),
    ],
)
def test_how_a_shared_job_ends_is_told(tmp_path: Path, ended: Ended, error: tuple[type[Exception], str]) -> None:
    launcher = FakeLauncher(lambda job: ended)
    with pytest.raises(error[0], match=error[1]):
        run_on(launcher, prepare(tmp_path))
    assert len(launcher.started) == (MOST_LOST if ended is LOST else 1)


def test_a_lost_shared_job_is_done_again(tmp_path: Path) -> None:
    ends = iter([LOST, DONE])
    assert run_on(FakeLauncher(lambda job: next(ends)), prepare(tmp_path)) == DONE


def test_checks_of_a_finished_contender_are_not_made_again(tmp_path: Path) -> None:
    """Where nothing else is known; a seed changes nothing of what they look at."""
    seen: list[bool] = []

    def do(job: Job) -> Ended:
        assert isinstance(job, CellJob)
        seen.append(job.canaries is None)
        return finished(job)

    fan(FakeLauncher(do)).run(jobs_of(tmp_path))
    assert seen == [True, False, False]


def test_a_study_is_not_made_to_fit_minutes_of_machines_that_nobody_has_timed(tmp_path: Path) -> None:
    launcher = FakeLauncher(finished, machine="elsewhere")
    with pytest.raises(Refusal, match="--budget-minutes 9 goes by how fast this machine is, and --on fake trains on others"):
        run_all(load_study("smoke"), tmp_path / "results", lambda told: None, "bench run", 9, launcher)
    assert not launcher.started and not (tmp_path / "results").exists()
