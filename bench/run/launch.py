"""Where cells run: each in a fresh local process, one at a time, so that neither memory nor timings leak between rivals.

Knows no torch. A job is a file; the process that reads it is bench/run/worker.py.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.data.source import clips_digest
from bench.records.environment import commit, read_environment
from bench.records.store import FINAL, Record, StoreError, cell_folder, latest, next_attempt, now, write_record, write_run, write_text
from bench.shapes import Shape
from bench.study.cell import Cell, Frozen
from bench.study.matrix import NamedCell, Study

EXIT_BAD_INPUT = 2  # the job was refused; its one line is on standard error
EXIT_STOPPED = 130  # asked to stop; what was done is kept
GRACE_S = 60.0  # after SIGTERM, before SIGKILL
RUN_SCHEMA_VERSION = 1
# Threads that wait for each other by spinning: beside one other busy process on two cores a U-Net's step took 80 times as long.
CALM_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


class JobCell(Frozen):
    """A cell as a job names it."""

    name: str
    folder: str  # inside the results folder
    cell: dict[str, Any]
    match: dict[str, Any] | None = None  # how its backbone came to its size, where it was sized to match another


class Job(Frozen):
    """What one process has to do."""

    kind: Literal["match", "prepare", "cell", "sample"]
    label: str  # in front of its progress
    matrix: str
    results: Path
    cells: tuple[JobCell, ...]
    rivals: tuple[tuple[str, str], ...] = ()
    waiting: tuple[str, ...] = ()  # cells of a prepare job that are to run; the others are only compared with
    match: dict[str, Any] | None = None
    num_clips: int | None = None  # of a sample job
    shape: Shape | None = None  # of its clips, (T, H, W) in pixels; None = as those that were scored
    out: Path | None = None  # of a sample or a match job


class Refused(Exception):
    """A job ended on bad input and has said why."""


class Stopped(Exception):
    """The user asked to stop."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One cell after a run."""

    named: NamedCell
    record: Record

    def failures(self) -> list[str]:
        """What went wrong, a line each: how the cell ended, or the canaries that make its numbers worthless."""
        if self.record.status != "ok":
            return [f"{self.named.name}: {self.record.status}: {self.record.reason}"]
        return [f"{self.named.name}: canary failed: {canary.name}: {canary.detail}" for canary in self.record.canaries if not canary.passed]


def run_study(
    study: Study, results: Path, say: Callable[[str], None], command: str, proofs: Mapping[str, dict[str, Any]] | None = None
) -> list[Outcome]:
    """Run every cell of a study that has no final record yet. Raises Refused, Stopped or StoreError; all that is done is kept.

    `proofs`: cell's name -> how its backbone was sized, for its record.
    """
    results = results.resolve()
    with _only_one(results / study.name) as lock:
        started_at = now()
        folders = {named.name: cell_folder(results, study.name, named.name, named.cell) for named in study.cells}
        _remove_leftovers(results / study.name)
        records = {named.name: _latest_final(folders[named.name], named.cell) for named in study.cells}
        waiting = [named for named in study.cells if records[named.name] is None]
        done = len(study.cells) - len(waiting)
        say(f"{study.name}: {len(study.cells)} cells, {done} finished before, {len(waiting)} to run")
        jobs = {
            named.name: JobCell(
                name=named.name,
                folder=str(folders[named.name].relative_to(results)),
                cell=_dump(named),
                match=(proofs or {}).get(named.name),
            )
            for named in study.cells
        }
        write_run(results, study.name, _snapshot(study, folders, started_at, command))
        if waiting:
            everyone = [job for named, job in zip(study.cells, jobs.values(), strict=True) if named in waiting or study.matrix.match]
            run_job(_prepare_job(study, results, everyone, waiting), lock=lock)
        outcomes = []
        for named in study.cells:
            record = records[named.name]
            if record is None:
                job = Job(kind="cell", label=named.name, matrix=study.name, results=results, cells=(jobs[named.name],))
                outcomes.append(Outcome(named=named, record=_run_cell(job, named, folders[named.name], say, lock)))
            else:
                outcomes.append(Outcome(named=named, record=record))
        write_run(results, study.name, _snapshot(study, folders, started_at, command))
        return outcomes


def sample_cell(record: Record, folder: Path, results: Path, num_clips: int, shape: Shape | None, out: Path) -> None:
    """Make more clips from a finished cell, in a process of its own; of `shape` (T, H, W) in pixels, or of the shapes that were scored."""
    cell = JobCell(name=record.name, folder=str(folder.resolve().relative_to(results.resolve())), cell=record.cell)
    job = Job(
        kind="sample",
        label=record.name,
        matrix=record.matrix,
        results=results.resolve(),
        cells=(cell,),
        num_clips=num_clips,
        shape=shape,
        out=out.resolve(),
    )
    run_job(job)


def _run_cell(job: Job, named: NamedCell, folder: Path, say: Callable[[str], None], lock: int) -> Record:
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
            cell=_dump(named),
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


def run_job(job: Job, *, timeout_s: float | None = None, lock: int | None = None) -> int:
    """Start a job's process and wait. Its exit status; Refused with its line for bad input, Stopped after Ctrl-C, TimeoutExpired."""
    path = job.results / job.matrix / f".job.{os.getpid()}.json"
    write_text(path, job.model_dump_json())
    command = [sys.executable, "-m", "bench.run.worker", str(path), str(os.getpid())]
    # What a shell says to accelerate would change a run without a trace in its record.
    inherited_env = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment = {**inherited_env, **CALM_THREADS}
    # Its own session: Ctrl-C reaches this process alone, which passes it on once. The lock goes along, so that a run whose
    # parent was killed still keeps others out until it is gone.
    inherited = () if lock is None else (lock,)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True, pass_fds=inherited)
    try:
        try:
            code = process.wait(timeout=timeout_s)
        except KeyboardInterrupt:
            _terminate(process)
            raise Stopped("stopped; run the same command again to go on") from None
        except subprocess.TimeoutExpired:
            _terminate(process)
            raise
    finally:
        path.unlink(missing_ok=True)
    if code == EXIT_STOPPED:
        raise Stopped("stopped; run the same command again to go on")
    if code == EXIT_BAD_INPUT:
        raise Refused("its process ended on bad input or a full disk; the line it printed says which")
    if code and job.kind != "cell":
        raise StoreError(f"{job.label}: {how_it_ended(code)}; run the same command again to go on")
    return code


def how_it_ended(code: int) -> str:
    """The end of a process that said nothing itself."""
    if code >= 0:
        return f"its process ended with status {code}; what it printed says why"
    hint = {signal.SIGKILL: " (out of memory?)", signal.SIGBUS: " (disk full?)"}.get(signal.Signals(-code), "")
    return f"its process was ended by signal {signal.Signals(-code).name}{hint}"


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _prepare_job(study: Study, results: Path, cells: list[JobCell], waiting: list[NamedCell]) -> Job:
    names = {cell.name for cell in cells}
    return Job(
        kind="prepare",
        label="prepare",
        matrix=study.name,
        results=results,
        cells=tuple(cells),
        waiting=tuple(named.name for named in waiting),
        rivals=tuple((a.name, b.name) for a, b in study.rivals() if a.name in names and b.name in names),
        match=study.matrix.match.model_dump() if study.matrix.match else None,
    )


def _latest_final(folder: Path, cell: Cell) -> Record | None:
    """The newest record of a cell if it need not run again: it is a result, and its clips are still what they were."""
    record = latest(folder)
    if record is None or record.status not in FINAL:
        return None
    known = record.data.get("digest")
    return record if known is None or known == clips_digest(cell.data) else None


def _remove_leftovers(folder: Path) -> None:
    """Temporary files of processes that were killed; whoever holds the lock is alone here."""
    for path in [*folder.glob(".job.*.json"), *folder.glob("*/.*.tmp*")]:
        path.unlink(missing_ok=True)


def _dump(named: NamedCell) -> dict[str, Any]:
    return named.cell.model_dump(mode="json")


def _snapshot(study: Study, folders: dict[str, Path], started_at: str, command: str) -> dict[str, Any]:
    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "matrix": study.name,
        "description": study.matrix.description,
        "claim": study.matrix.claim,
        "match": study.matrix.match.model_dump() if study.matrix.match else None,
        "started_at": started_at,
        "ended_at": now(),
        "command": command,
        "cells": [
            {
                "name": named.name,
                "axes": named.axes,
                "seed": named.cell.seed,
                "fingerprint": named.cell.fingerprint(),
                "folder": folders[named.name].name,
            }
            for named in study.cells
        ],
    }


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
