"""Many cells by one launcher: handed out seed by seed, looked after until each has its record. Knows no torch and no engine.

A record is the truth. Of a job that ended without one, its end is written down as the record; one whose machine was lost is handed out
again, and goes on from its checkpoint.
"""

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.data.files import StoreError, now, write_text
from bench.data.progress import Say
from bench.records.environment import commit, read_environment
from bench.records.record import PREDICTED, Canary, Record
from bench.records.store import latest, next_attempt, set_aside, write_record
from bench.run.checks import checked_by, same_step
from bench.run.claim import CLAIM, release
from bench.run.job import CellJob, Job
from bench.run.launchers.contract import Launcher, Placed
from bench.run.process import GO_ON, LOOK_S, Stopped, end_all, told
from bench.run.watch import Ended

MOST_LOST = 5  # times that a cell's machine may be lost one after the other, without a checkpoint between


@dataclass
class _Given:
    """A job that was handed out."""

    job: Job
    at: Placed
    started_at: str = field(default_factory=now)
    start_s: float = field(default_factory=time.monotonic)


class FanOut:
    """Cells by one launcher, each until it has its record."""

    def __init__(self, launcher: Launcher, say: Say, lock: int, *, trials: bool = False, known: Sequence[Record] = ()):
        """`trials`: of a tuning; one that others disturbed trains once more. `known`: records of this run whose checks count."""
        self.launcher, self.say, self.lock, self.trials = launcher, say, lock, trials
        self.records: dict[str, Record] = {}
        self._waiting: list[CellJob] = []
        self._given: dict[str, _Given] = {}
        self._again: set[str] = set()  # trials that trained once more
        self._lost: dict[str, tuple[int, float]] = {}  # how often, and of when the checkpoint was
        self._cancelled: list[str] = []
        self._canaries: dict[str, tuple[Canary, ...]] = {}  # once a contender: what they check changes with no seed
        self._predicted: dict[str, float] = {}  # peak storage, once for cells of the same step
        for record in known:
            self._keep(record)

    def run(self, jobs: Sequence[CellJob]) -> dict[str, Record]:
        """Name -> record. Stopped after Ctrl-C, and where a scheduler was told to cancel a cell."""
        self._waiting = list(jobs)
        for job in jobs:
            if (at := self.launcher.attached(job)) is not None:
                self.say(f"{job.label}: {at.where}, handed out before")
                self._waiting.remove(job)
                self._given[job.label] = _Given(job, at)
        has_room = True
        try:
            while self._waiting or self._given:
                if has_room and self._waiting:
                    self._start()
                has_room = self._look()
                time.sleep(LOOK_S)
        except (KeyboardInterrupt, Stopped):
            raise Stopped(leave([given.at for given in self._given.values()], self.launcher)) from None
        if self._cancelled:
            raise Stopped(f"{', '.join(self._cancelled)} cancelled by the scheduler, what was done is kept; {GO_ON}")
        return self.records

    def _start(self) -> None:
        """Hand out as many as there is room for."""
        jobs = [self._as_now(job) for job in self._waiting]
        for job in jobs:
            with contextlib.suppress(OSError):  # its process says what is wrong there
                job.folder.mkdir(parents=True, exist_ok=True)
        for job, at in zip(jobs, self.launcher.start(jobs, self.lock), strict=False):
            self._waiting.pop(0)
            self._given[job.label] = _Given(job, at)
            self.say(f"{job.label}: attempt {job.after + 1} in {job.folder}" + (f", {at.where}" if at.where else ""))

    def _as_now(self, job: CellJob) -> CellJob:
        """The job with what is known by now."""
        cell = job.cell.cell
        known = {"canaries": self._canaries.get(checked_by(cell)), "predicted_bytes": self._predicted.get(same_step(cell))}
        return job.model_copy(update={**known, "after": next_attempt(job.folder) - 1})

    def _look(self) -> bool:
        """Take the records of those that have ended; whether any has."""
        over = [(name, given, ended) for name, given in self._given.items() if (ended := given.at.ended()) is not None]
        for given in self._given.values():
            relay(given.at)
        for name, given, ended in over:
            del self._given[name]
            assert isinstance(given.job, CellJob)
            self._finish(given, given.job, ended)
        return bool(over)

    def _finish(self, given: _Given, job: CellJob, ended: Ended) -> None:
        """What comes of a job that has ended."""
        release(job.folder / CLAIM)
        record = self._found(job, ended)
        if record is None and ended.word == "stopped":
            if not self.launcher.machine:
                raise Stopped
            self._cancelled.append(job.label)
            return
        if record is None and ended.word == "lost" and self._may_again(job):
            self.say(f"{job.label}: {ended.reason}; it is handed out again and goes on from its checkpoint")
            self._waiting.insert(0, job)
            return
        if record is None:
            record = write_lost(job, ended, given.started_at)
        taken_s = time.monotonic() - given.start_s
        self.say(f"{job.label}: {record.status} after {taken_s:.0f} s" + (f": {record.reason}" if record.reason else ""))
        if self._is_disturbed(job, record):
            set_aside(job.folder, record)
            self._waiting.insert(0, job)
            return
        self.records[job.label] = record
        self._keep(record)

    def _found(self, job: CellJob, ended: Ended) -> Record | None:
        """The record that came of a job; where other machines write, it may take a while to be seen."""
        deadline_s = time.monotonic() + self.launcher.patience_s * (ended.word == "done")
        while True:
            record = latest(job.folder)
            if record is not None and record.attempt > job.after:
                return record
            if time.monotonic() >= deadline_s:
                return None
            time.sleep(LOOK_S)

    def _may_again(self, job: CellJob) -> bool:
        """Whether a lost cell is worth another try: it was not lost too often since its last checkpoint."""
        before, written_s = self._lost.get(job.label, (0, 0.0))
        checkpoint = job.folder / "checkpoint.pt"
        now_s = checkpoint.stat().st_mtime if checkpoint.is_file() else 0.0
        num = 1 if now_s != written_s else before + 1
        self._lost[job.label] = (num, now_s)
        return num < MOST_LOST

    def _is_disturbed(self, job: CellJob, record: Record) -> bool:
        """Whether a trial trains once more: others came to a quiet machine, and a choice would rest on it. Blind to its loss."""
        if not (self.trials and job.spins and record.training and record.disturbed) or job.label in self._again:
            return False
        self._again.add(job.label)
        taken = 100 * record.training.other_cpu_share
        self.say(f"{record.name}: others took {taken:.0f} % of the processors, so that its seconds taught less; it trains once more")
        return True

    def _keep(self, record: Record) -> None:
        """What it says of others too."""
        if record.status == "ok":
            self._canaries.setdefault(checked_by(record.cell), tuple(record.canaries))
            if (predicted := record.measurement(PREDICTED)) is not None:
                self._predicted.setdefault(same_step(record.cell), predicted.value)


def run_on(launcher: Launcher, job: Job, lock: int | None = None) -> Ended:
    """One job by a launcher, waited for; how it ended, as `run_job` tells it."""
    ended: Ended | None = None
    for _ in range(MOST_LOST):
        at = launcher.attached(job) or launcher.start([job], lock)[0]
        try:
            while (ended := at.ended()) is None:
                relay(at)
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            raise Stopped(leave([at], launcher)) from None
        relay(at)
        if ended.word != "lost":
            return told(job, ended)
    assert ended is not None
    raise StoreError(f"{job.label}: {ended.reason}, {MOST_LOST} times; {GO_ON}")


def leave(placed: Sequence[Placed], launcher: Launcher) -> str:
    """End all jobs, or let those go on that outlive this process; a line that says which."""
    if launcher.leaves and placed:
        where = ", ".join(at.where for at in placed)
        return f"left: {where} go on by themselves; the same command waits for them again"
    end_all(placed)
    return f"stopped; {GO_ON}"


def relay(at: Placed) -> None:
    """What a job printed where nobody sees it, on this console."""
    if text := at.output():
        print(text, end="" if text.endswith("\n") else "\n", file=sys.stderr, flush=True)


def write_lost(job: CellJob, ended: Ended, started_at: str) -> Record:
    """The record of a cell whose process wrote none."""
    cell, reason = job.cell.cell, ended.reason
    if ended.where:
        write_text(job.folder / "traceback.txt", ended.where)
        reason += " (traceback.txt beside this record)"
    record = Record(
        matrix=job.matrix,
        name=job.cell.name,
        fingerprint=cell.fingerprint(),
        cell=cell,
        asked=job.asked,
        tuning=job.cell.tuning,
        attempt=next_attempt(job.folder),
        status="timeout" if ended.timed_out else "failed",
        reason=reason,
        started_at=started_at,
        ended_at=now(),
        environment=read_environment(),
        commits=[commit()],
    )
    write_record(job.folder, record)
    return record
