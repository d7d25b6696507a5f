"""Where cells run: each in a fresh local process, one at a time, so that neither memory nor timings leak between rivals.

Knows no torch. A job is a file; the process that reads it is bench/run/worker.py.
"""

import contextlib
import fcntl
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.data.files import StoreError, now
from bench.data.progress import Say
from bench.data.source import clips_digest
from bench.records.environment import commit, read_environment
from bench.records.record import FINAL, MatchProof, Record, RunCell, RunSnapshot
from bench.records.store import cell_folder, latest, next_attempt, write_record, write_run
from bench.run.job import CellJob, JobCell, PrepareJob, Refused, SampleJob, how_it_ended, run_job
from bench.shapes import Shape
from bench.study.cell import Cell
from bench.study.matrix import NamedCell, Study

ABANDONED_S = 7 * 24 * 3600.0  # what nobody has touched for so long in the cache, its process is not alive


@dataclass(frozen=True, kw_only=True)
class CellOutcome:
    """One cell after a run."""

    named: NamedCell
    record: Record

    def failures(self) -> list[str]:
        """What went wrong, a line each: how the cell ended, or the canaries that make its numbers worthless."""
        if self.record.status != "ok":
            return [f"{self.named.name}: {self.record.status}: {self.record.reason}"]
        return [f"{self.named.name}: canary failed: {canary.name}: {canary.detail}" for canary in self.record.canaries if not canary.passed]


def run_study(study: Study, results: Path, say: Say, command: str, proofs: Mapping[str, MatchProof] | None = None) -> list[CellOutcome]:
    """Run every cell of a study that has no final record yet. Raises Refused, Stopped or StoreError; all that is done is kept.

    `proofs`: cell's name -> how its backbone was sized, for its record.
    """
    results = results.resolve()
    with _only_one(results / study.name) as lock:
        started_at = now()
        folders = {named.name: cell_folder(results, study.name, named.name, named.cell) for named in study.cells}
        _remove_leftovers(results / study.name, results / "cache")
        records = {named.name: _latest_final(folders[named.name], named.cell) for named in study.cells}
        waiting = [named for named in study.cells if records[named.name] is None]
        done = len(study.cells) - len(waiting)
        say(f"{study.name}: {len(study.cells)} cells, {done} finished before, {len(waiting)} to run")
        write_run(results, _snapshot(study, folders, started_at, command))
        if waiting:
            run_job(_prepare_job(study, results, waiting), lock=lock)
        outcomes = []
        for named in study.cells:
            record = records[named.name]
            if record is None:
                cell = _job_cell(named, study, results, proofs)
                job = CellJob(label=named.name, matrix=study.name, results=results, cell=cell)
                outcomes.append(CellOutcome(named=named, record=_run_cell(job, named, folders[named.name], say, lock)))
            else:
                outcomes.append(CellOutcome(named=named, record=record))
        write_run(results, _snapshot(study, folders, started_at, command))
        return outcomes


def check_study(study: Study, results: Path) -> None:
    """What `run` checks before anything trains: data, backbones at its shapes, the match. Refused where it has said what is wrong."""
    run_job(_prepare_job(study, results.resolve(), list(study.cells), only_check=True))


def sample_cell(record: Record, folder: Path, results: Path, num_clips: int, shape: Shape | None, out: Path) -> None:
    """Make more clips from a finished cell, in a process of its own; of `shape` (T, H, W) in pixels, or of the shapes that were scored."""
    cell = JobCell(name=record.name, folder=str(folder.resolve().relative_to(results.resolve())), cell=record.cell)
    job = SampleJob(
        label=record.name,
        matrix=record.matrix,
        results=results.resolve(),
        cell=cell,
        num_clips=num_clips,
        shape=shape,
        out=out.resolve(),
    )
    run_job(job)


def _run_cell(job: CellJob, named: NamedCell, folder: Path, say: Say, lock: int) -> Record:
    """The record of one attempt: the one its process wrote, or one that says how the process died."""
    attempt, started_at, start_s = next_attempt(folder), now(), time.monotonic()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    say(f"{named.name}: attempt {attempt} in {folder}")
    status, reason = "failed", ""
    try:
        code = run_job(job, timeout_s=named.cell.timeout_s, lock=lock)
        reason = how_it_ended(code)
    except subprocess.TimeoutExpired:
        status, reason = "timeout", f"ran over timeout_s = {named.cell.timeout_s:g}; the next `run` goes on from its checkpoint"
    except Refused as refused:
        reason = str(refused)
    record = latest(folder)
    if record is None or record.attempt < attempt:
        record = Record(
            matrix=job.matrix,
            name=named.name,
            fingerprint=named.cell.fingerprint(),
            cell=named.cell,
            attempt=attempt,
            status=status,
            reason=reason,
            started_at=started_at,
            ended_at=now(),
            environment=read_environment(),
            commits=[commit()],
        )
        write_record(folder, record)
    say(f"{named.name}: {record.status} after {time.monotonic() - start_s:.0f} s" + (f": {record.reason}" if record.reason else ""))
    return record


def _job_cell(named: NamedCell, study: Study, results: Path, proofs: Mapping[str, MatchProof] | None = None) -> JobCell:
    folder = cell_folder(results, study.name, named.name, named.cell).relative_to(results)
    return JobCell(name=named.name, folder=str(folder), cell=named.cell, match=(proofs or {}).get(named.name))


def _prepare_job(study: Study, results: Path, waiting: list[NamedCell], *, only_check: bool = False) -> PrepareJob:
    cells = [named for named in study.cells if named in waiting or study.matrix.match]
    names = {named.name for named in cells}
    return PrepareJob(
        label="validate" if only_check else "prepare",
        only_check=only_check,
        matrix=study.name,
        results=results,
        cells=tuple(_job_cell(named, study, results) for named in cells),
        waiting=tuple(named.name for named in waiting),
        rivals=tuple((a.name, b.name) for a, b in study.rivals() if a.name in names and b.name in names),
        match=study.matrix.match,
    )


def _latest_final(folder: Path, cell: Cell) -> Record | None:
    """The newest record of a cell if it need not run again: it is a result, and its clips are still what they were."""
    record = latest(folder)
    if record is None or record.status not in FINAL:
        return None
    return record if record.data is None or record.data.digest == clips_digest(cell.data) else None


def _remove_leftovers(folder: Path, cache: Path) -> None:
    """Temporary files of processes that were killed: this run's, as who holds the lock is alone in `folder`, and old ones in `cache`."""
    for path in [*folder.glob(".job.*.json"), *folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        path.unlink(missing_ok=True)
    for path in [*cache.glob("*/.*.tmp")]:  # others may be writing there
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _snapshot(study: Study, folders: dict[str, Path], started_at: str, command: str) -> RunSnapshot:
    cells = (
        RunCell(
            name=named.name,
            axes=named.axes,
            seed=named.cell.seed,
            fingerprint=named.cell.fingerprint(),
            folder=folders[named.name].name,
        )
        for named in study.cells
    )
    return RunSnapshot(
        matrix=study.name,
        description=study.matrix.description,
        claim=study.matrix.claim,
        match=study.matrix.match,
        started_at=started_at,
        ended_at=now(),
        command=command,
        cells=tuple(cells),
    )


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[int]:
    """StoreError where another process runs the same matrix in the same results folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}; choose another folder with --results") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"another run is using {folder}; wait for it, or choose another folder with --results") from error
        yield lock.fileno()
