"""The process of a job on this machine: how it is started, how it ends, how it is told to stop. Knows no torch."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

from bench.data.files import StoreError
from bench.data.plugin import WATCHED
from bench.run.job import Job
from bench.run.threads import waiting_as
from bench.run.watch import Ended, the_end, watched
from bench.shapes import Refusal

# Variables by which accelerate takes a process for one of many, and waits for the others.
OF_MANY = {
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    *(f"{prefix}_COMM_WORLD_{what}" for prefix in ("OMPI", "MV2") for what in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")),
}
GRACE_S = 60.0  # after SIGTERM, before SIGKILL
LOOK_S = 0.02  # between two looks at a process
GO_ON = "run the same command again to go on"


class Refused(Exception):
    """A job ended on bad input and has said why."""


class Stopped(Exception):
    """The user asked to stop."""


class JobProcess:
    """A job in a process of its own, from its start on."""

    def __init__(
        self,
        job: Job,
        *,
        lock: int | None = None,
        cpus: Sequence[int] = (),
        environment: dict[str, str] | None = None,
        where: Path | None = None,
        output: IO[bytes] | None = None,
    ):
        """`lock`: held while it lives. `cpus`: it has these alone. `environment`: added to its own. `where`: it works there.

        `output`: in the place of this one's.
        """
        self.limit_s, self._start_s = job.limit_s, time.monotonic()
        self._kill_at_s: float | None = None  # once it was told to stop
        self._over = False  # its time
        self._ended: Ended | None = None
        self._file = watched()
        # The lock goes along, so that a run whose parent was killed still keeps others out until it is gone.
        inherited = (self._file.fileno(), *(() if lock is None else (lock,)))
        module = "bench.run.agent" if job.is_spread else "bench.run.worker"
        command = [sys.executable, "-m", module, str(os.getpid()), str(self._file.fileno())]
        own = {**waiting_as(own_environment(), spins=job.spins), WATCHED: "1", **(environment or {})}
        with only_on(cpus):
            # Its own session: Ctrl-C reaches this process alone, which passes it on once.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=own, cwd=where, start_new_session=True, pass_fds=inherited
            )
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError), self._process.stdin as told:  # it has died already, and its end says of what
            told.write(job.model_dump_json().encode())

    def ended(self) -> Ended | None:
        """How it ended; None while it runs. Never waits, and ends one whose time is up."""
        if self._ended is not None:
            return self._ended
        now_s = time.monotonic()
        if self._process.poll() is None:
            if self.limit_s is not None and now_s > self._start_s + self.limit_s and not self._over:
                self._over = True
                self.stop()
            if self._kill_at_s is not None and now_s > self._kill_at_s:
                self.kill()
            return None
        code = self._process.returncode
        found = Ended(code=code, timed_out=True, limit_s=self.limit_s or 0.0) if self._over else the_end(code, self._file)
        if self._over or not found.word:
            self.kill()  # what a plug-in has started
        self._file.close()
        self._ended = found
        return found

    def stop(self) -> None:
        """By SIGTERM; where that does not do, it and all that it has started are ended in a minute."""
        self._process.terminate()
        self._kill_at_s = time.monotonic() + GRACE_S

    def kill(self) -> None:
        """It and all that it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def run_job(job: Job) -> Ended:
    """Do a job in a process of its own; how it ended. Refused with its line for bad input, Stopped after Ctrl-C.

    A job that ends without a word, or takes longer than it may, is the caller's to explain where it is of cells; else a StoreError.
    """
    return told(job, status_of(job))


def told(job: Job, ended: Ended) -> Ended:
    """The end of a job, as `run_job` tells it."""
    if ended.word == "stopped":
        raise Stopped(f"stopped; {GO_ON}")
    if ended.word == "refused":
        if ended.what != Ended.model_fields["what"].default:  # nobody has said it yet
            raise Refusal(ended.what)
        raise Refused(ended.reason)
    if ended.word != "done" and not (job.kind == "cell" or ended.cells):
        raise StoreError(f"{job.label}: {ended.reason}; {GO_ON}")
    return ended


def status_of(job: Job) -> Ended:
    """How a job's process ended, started and waited for."""
    process = JobProcess(job)
    try:
        while (ended := process.ended()) is None:
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        end_all([process])
        raise Stopped(f"stopped; {GO_ON}") from None
    return ended


class Ending(Protocol):
    """What can be told to end."""

    def ended(self) -> Ended | None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


def end_all(jobs: Sequence[Ending]) -> None:
    """Let jobs write their checkpoints and end; where the user asks again, at once."""
    deadline_s = time.monotonic() + 2 * GRACE_S
    for end in ("stop", "kill"):
        for job in jobs:
            getattr(job, end)()
        try:
            while any(job.ended() is None for job in jobs) and time.monotonic() < deadline_s:
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            continue
        return


@contextlib.contextmanager
def only_on(cpus: Sequence[int]) -> Iterator[None]:
    """Inside, processes that are started have these processors alone; where there are none, or the system cannot, those of this one."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def own_environment() -> dict[str, str]:
    """The environment of a process that measures: what a shell or a scheduler says to accelerate would change a run, or hold it up."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_") and name not in OF_MANY}
