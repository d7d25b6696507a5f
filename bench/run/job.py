"""A job: what one process has to do, how it is started and how it ends. Knows no torch; bench/run/worker.py reads it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from bench.backbone import WATCHED
from bench.data.files import StoreError
from bench.data.frozen import Frozen
from bench.records.record import Asked, Canary
from bench.run.threads import waiting_as
from bench.run.watch import Ended, the_end, watched
from bench.shapes import Shape
from bench.study.cell import Cell
from bench.study.matrix import Match, NamedCell, Study

EXIT_BAD_INPUT = 2  # the job was refused; its one line is on standard error
EXIT_STOPPED = 130  # asked to stop; what was done is kept
TRACEBACK = "UNET_VS_DIT_TRACEBACK"  # set in the environment: what a line says is also shown with its traceback
# Variables by which accelerate takes a process for one of many, and waits for the others.
OF_MANY = {
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    *(f"{prefix}_COMM_WORLD_{what}" for prefix in ("OMPI", "MV2") for what in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")),
}
GRACE_S = 60.0  # after SIGTERM, before SIGKILL


class Task(Frozen):
    """What every job has."""

    label: str  # in front of its progress
    matrix: str
    results: Path
    spins: bool = False  # whether its threads wait for each other by spinning


class PrepareJob(Task):
    """Check cells and, where they are to run, make the stages they share."""

    kind: Literal["prepare"] = "prepare"
    study: Study
    waiting: tuple[str, ...]  # cells that are to run; the others are only compared with
    until: Literal["named", "checked", "made"]  # what needs no torch; all that `run` refuses; the stages too


class CellJob(Task):
    """Train, sample and measure one cell."""

    kind: Literal["cell"] = "cell"
    cell: NamedCell
    asked: Asked = Asked()  # by the run; the extractor of its primary measure judges the shape grid
    canaries: tuple[Canary, ...] | None = None  # of an earlier cell of this run which says as much of this one; None: they run


class SampleJob(Task):
    """Make more clips from a finished cell."""

    kind: Literal["sample"] = "sample"
    cell: Cell
    folder: Path  # of the cell
    num_clips: int
    shape: Shape | None  # of the clips, (T, H, W) in pixels; None = as those that were scored
    out: Path


class MatchJob(Task):
    """Find the size of a cell's backbone that matches another's cost."""

    kind: Literal["match"] = "match"
    cell: Cell
    target: str  # the backbone that is matched
    match: Match
    out: Path  # of the proof


class PaceJob(Task):
    """Measure how long the parts of cells take."""

    kind: Literal["pace"] = "pace"
    cells: tuple[tuple[Cell, Path], ...]  # each with the file of its pace


Job = Annotated[PrepareJob | CellJob | SampleJob | MatchJob | PaceJob, Field(discriminator="kind")]  # what one process has to do


def read_job(text: str) -> Job:
    """The job in JSON."""
    return TypeAdapter[Job](Job).validate_json(text)


class Refused(Exception):
    """A job ended on bad input and has said why."""


class Stopped(Exception):
    """The user asked to stop."""


def run_job(job: Job, *, timeout_s: float | None = None, lock: int | None = None) -> Ended:
    """Do a job in a process of its own; how it ended. Refused with its line for bad input, Stopped after Ctrl-C.

    A job that ends without a word, or takes over `timeout_s`, is the caller's to explain where it is of cells; else a StoreError.
    """
    ended = status_of(job, timeout_s, lock)
    if ended.word == "stopped":
        raise Stopped("stopped; run the same command again to go on")
    if ended.word == "refused":
        raise Refused("its process ended on bad input or a full disk; the line it printed says which")
    if ended.word != "done" and not (job.kind == "cell" or ended.cells):
        raise StoreError(f"{job.label}: {ended.reason}; run the same command again to go on")
    return ended


def status_of(job: Job, timeout_s: float | None, lock: int | None) -> Ended:
    """How a job's process ended, started and waited for."""
    environment = {**waiting_as(own_environment(), spins=job.spins), WATCHED: "1"}
    # Its own session: Ctrl-C reaches this process alone, which passes it on once. The lock goes along, so that a run whose
    # parent was killed still keeps others out until it is gone.
    with watched() as file:
        inherited = (file.fileno(), *(() if lock is None else (lock,)))
        command = [sys.executable, "-m", "bench.run.worker", str(os.getpid()), str(file.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment, start_new_session=True, pass_fds=inherited)
        try:
            process.communicate(job.model_dump_json(), timeout=timeout_s)
        except KeyboardInterrupt:
            _terminate(process)
            raise Stopped("stopped; run the same command again to go on") from None
        except subprocess.TimeoutExpired:
            _terminate(process)
            return Ended(code=process.returncode, timed_out=True, limit_s=timeout_s or 0.0)
        ended = the_end(process.returncode, file)
    if not ended.word:
        _kill(process)  # what a plug-in has started
    return ended


def own_environment() -> dict[str, str]:
    """The environment of a process that measures: what a shell or a scheduler says to accelerate would change a run, or hold it up."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_") and name not in OF_MANY}


def _terminate(process: "subprocess.Popen[str]") -> None:
    """End a process: by SIGTERM, and, where that does not do or the user asks again, it and all that it has started at once."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(timeout=GRACE_S)
    _kill(process)
    process.wait()


def _kill(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
