"""Where cells run: each in a fresh local process, one at a time, so that neither memory nor timings leak between rivals.

Knows no torch. The process that does a job is bench/run/worker.py.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from bench.backbone import BrokenPlugin
from bench.data.files import StoreError, now, refuse_link, remove_leftovers, write_text
from bench.data.progress import Say
from bench.data.source import clips_digest
from bench.records.environment import commit, read_environment
from bench.records.record import FINAL, Asked, Canary, Record, RunCell, RunSnapshot
from bench.records.store import latest, next_attempt, set_aside, write_record, write_run
from bench.run.checks import card_text, check_all, check_extractors, check_primary, check_weights, checked_by
from bench.run.expected.fit import planned
from bench.run.job import CellJob, PrepareJob, Refused, SampleJob, run_job
from bench.run.match.resolve import resolve
from bench.run.threads import is_quiet
from bench.run.tune.resolve import Train, tuned
from bench.run.watch import Ended
from bench.shapes import Refusal, Shape
from bench.study.cell import PROTOCOL_VERSION, Cell
from bench.study.matrix import NamedCell, Study


def run_all(study: Study, results: Path, say: Say, command: str, minutes: float | None = None) -> list[Record]:
    """Run a study as `load_study` gives it: its checks, matches and trials first, scaled to `minutes`. The records of its cells."""
    study = ready(study, results, say, lambda trials: run_study(trials, results, say, command), minutes)
    return run_study(study, results, say, command)


def ready(study: Study, results: Path, say: Say, train: Train | None = None, minutes: float | None = None) -> Study:
    """The study as it runs here: weights are there, all that is cheap to check is checked, matched sizes and the device are settled.

    Where `train` runs trials, tuned fields are settled too, and the time that all will take is told before; with `minutes` the study is
    made to fit them. Refusal, or Refused where it has said what is wrong.
    """
    check_all(study.cells, check_extractors)
    check_primary(study)
    check_weights(study)
    if study.matrix.match is not None and study.matrix.match.to is not None:  # a search takes minutes
        check_study(study, results, "named")
    study = resolve(study, results, say)
    if train is not None:
        _places(results.resolve(), study)
        study = planned(study, results.resolve(), say, minutes)
    return tuned(study, say, train)


def run_study(study: Study, results: Path, say: Say, command: str) -> list[Record]:
    """Run every cell of a study that has no final record yet; the records of all. Raises Refused, Stopped or StoreError."""
    results = results.resolve()
    folder = results / study.name
    with _only_one(folder) as lock:
        started_at = now()
        for place in _places(results, study):
            remove_leftovers(place)
        known = {named.name: _latest_final(folder / named.folder, named.cell) for named in study.cells}
        waiting = [name for name, record in known.items() if record is None]
        _check_headline(study, folder)
        say(f"{study.name}: {len(known)} cells, {len(known) - len(waiting)} finished before, {len(waiting)} to run")
        write_run(results, _snapshot(study, started_at, command))
        spins = next((r.environment.spins for r in known.values() if r and r.environment.spins is not None), None)
        spins = spins if spins is not None or not waiting else is_quiet()  # one way for all cells: it is part of how fast they are
        jobs = _jobs(study, results, spins=bool(spins))
        known |= _prepare(study, results, jobs, waiting, say, lock)
        canaries: dict[str, tuple[Canary, ...]] = {}  # once a contender: what they check changes with no seed
        # Seed by seed, so that an hour in which the machine is slower is one of all contenders.
        for name, job in sorted(jobs.items(), key=lambda item: item[1].cell.cell.seed):
            if known[name] is None:
                own = job.model_copy(update={"canaries": canaries.get(checked_by(job.cell.cell))})
                known[name] = record = _run_trial(own, say, lock) if study.tunes is not None else _run_cell(own, say, lock)
                if record.status == "ok":
                    canaries.setdefault(checked_by(record.cell), tuple(record.canaries))
        records = [record for record in known.values() if record]
        write_run(results, _snapshot(study, started_at, command))
        return records


def _places(results: Path, study: Study) -> list[Path]:
    """Folders that a run writes in. StoreError where one is a link, which would lead out of the results."""
    run, cache = results / study.name, results / "cache"
    places = [run, *run.glob("*/"), cache, *cache.glob("*/")]
    for place in places:
        refuse_link(place)
    return places


def _prepare(study: Study, results: Path, jobs: dict[str, CellJob], waiting: list[str], say: Say, lock: int) -> dict[str, Record]:
    """Check and make what the waiting cells share; records of those that ended the process which was at them, or held it up."""
    lost: dict[str, Record] = {}
    compared = [named for named in study.cells if named.name in waiting or study.matrix.match]
    while left := [name for name in waiting if name not in lost]:
        started_at = now()
        job = _prepare_job(study, results, compared, left, "made")
        ended = run_job(job.model_copy(update={"spins": jobs[left[0]].spins}), lock=lock)
        if ended.word == "done":
            break
        for named in [named for named in compared if named.name in ended.cells]:
            compared.remove(named)
            if named.name in left:
                lost[named.name] = record = _write_lost(jobs[named.name], ended, started_at)
                say(f"{named.name}: {record.status} before it trained: {record.reason}")
    return lost


def check_study(study: Study, results: Path, until: Literal["named", "checked"] = "checked") -> None:
    """What `run` checks before anything trains: data, backbones at its shapes, the match. Refused where it has said what is wrong."""
    results = results.resolve()
    _places(results, study)
    ended = run_job(_prepare_job(study, results, study.cells, [named.name for named in study.cells], until))
    if ended.word != "done":
        raise Refusal(f"cell {', '.join(ended.cells)}: {ended.reason}")


def sample_cell(record: Record, folder: Path, results: Path, num_clips: int, shape: Shape | None, out: Path) -> None:
    """Make more clips from a finished cell, in a process of its own; of `shape` (T, H, W) in pixels, or of the shapes that were scored."""
    cache = results.resolve() / "cache"
    for place in (cache, *cache.glob("*/")):
        refuse_link(place)
    job = SampleJob(
        label=record.name,
        matrix=record.matrix,
        results=results.resolve(),
        cell=record.cell,
        folder=folder.resolve(),
        num_clips=num_clips,
        shape=shape,
        out=out.resolve(),
    )
    run_job(job, timeout_s=record.cell.timeout_s)


def _run_cell(job: CellJob, say: Say, lock: int) -> Record:
    """The record of one attempt: the one its process wrote, or one that says how the process died."""
    name, cell, folder = job.cell.name, job.cell.cell, job.results / job.matrix / job.cell.folder
    attempt, started_at, start_s = next_attempt(folder), now(), time.monotonic()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    say(f"{name}: attempt {attempt} in {folder}")
    try:
        ended = run_job(job, timeout_s=cell.timeout_s, lock=lock)
    except Refused as refused:
        ended = Ended(word="refused", what=str(refused))
    record = latest(folder)
    if record is None or record.attempt < attempt:
        record = _write_lost(job, ended, started_at)
    say(f"{name}: {record.status} after {time.monotonic() - start_s:.0f} s" + (f": {record.reason}" if record.reason else ""))
    return record


def _run_trial(job: CellJob, say: Say, lock: int) -> Record:
    """As `_run_cell`; once more where others came to a quiet machine, since a choice would rest on it. Blind to its loss."""
    record = _run_cell(job, say, lock)
    if not (job.spins and record.training and record.disturbed):
        return record
    taken = 100 * record.training.other_cpu_share
    say(f"{record.name}: others took {taken:.0f} % of the processors, so that its seconds taught less; it trains once more")
    set_aside(job.results / job.matrix / job.cell.folder, record)
    return _run_cell(job, say, lock)


def _write_lost(job: CellJob, ended: Ended, started_at: str) -> Record:
    """The record of a cell whose process wrote none."""
    cell, folder = job.cell.cell, job.results / job.matrix / job.cell.folder
    reason = ended.what if ended.word == "refused" else ended.reason
    if ended.where:
        write_text(folder / "traceback.txt", ended.where)
        reason += " (traceback.txt beside this record)"
    record = Record(
        matrix=job.matrix,
        name=job.cell.name,
        fingerprint=cell.fingerprint(),
        cell=cell,
        asked=job.asked,
        tuning=job.cell.tuning,
        attempt=next_attempt(folder),
        status="timeout" if ended.timed_out else "failed",
        reason=reason,
        started_at=started_at,
        ended_at=now(),
        environment=read_environment(),
        commits=[commit()],
    )
    write_record(folder, record)
    return record


def _prepare_job(
    study: Study, results: Path, compared: Sequence[NamedCell], waiting: list[str], until: Literal["named", "checked", "made"]
) -> PrepareJob:
    return PrepareJob(
        label="prepare" if until == "made" else "validate",
        matrix=study.name,
        results=results,
        study=study.model_copy(update={"cells": tuple(compared)}),
        waiting=tuple(waiting),
        until=until,
    )


def _latest_final(folder: Path, cell: Cell) -> Record | None:
    """The newest record of a cell if it need not run again: it is a result, and nothing says that its clips are others now."""
    record = latest(folder)
    if record is None or record.status not in FINAL:
        return None
    try:
        return record if record.data is None or record.data.digest == clips_digest(cell.data) else None
    except BrokenPlugin:  # nothing says that they changed, and what is finished is not lost
        return record


def _jobs(study: Study, results: Path, *, spins: bool = False) -> dict[str, CellJob]:
    """Cell's name -> its job, with what this run asks, as each of its records keeps it."""
    folders = tuple(named.folder for named in study.cells)
    asked = Asked(claim=study.matrix.claim, primary=study.matrix.primary, cells=folders, until_decided=study.until_decided)
    own = {"matrix": study.name, "results": results, "asked": asked, "spins": spins}
    return {named.name: CellJob.model_validate({"label": named.name, "cell": named, **own}) for named in study.cells}


def _check_headline(study: Study, folder: Path) -> None:
    """StoreError where the headline would be chosen after the fact: cells have finished while something else was to decide."""
    asked = study.matrix.claim, study.matrix.primary
    for path in sorted(folder.glob("*/")):
        try:
            record = latest(path)
        except StoreError:  # of another version of the suite, or damaged: it decides nothing
            continue
        if record is None or record.status not in FINAL or record.protocol_version != PROTOCOL_VERSION:
            continue
        before = record.asked.claim, record.asked.primary
        if before != asked:
            shown = [f"claim={claim or 'null'} primary={primary or 'null'}" for claim, primary in (before, asked)]
            raise StoreError(
                f"{path} has finished under {shown[0]}, and this run asks {shown[1]}; what decides is named before the run: "
                f"put {shown[0]} back, or copy the matrix under another name"
            )


def _snapshot(study: Study, started_at: str, command: str) -> RunSnapshot:
    return RunSnapshot(
        matrix=study.name,
        description=study.matrix.description,
        claim=study.matrix.claim,
        primary=study.matrix.primary,
        primary_card=card_text(study),
        match=study.matrix.match,
        tunes=study.tunes,
        until_decided=study.until_decided,
        scaling=study.scaling,
        asks_tuning=study.matrix.tune is not None or study.matrix.tuned is not None,
        started_at=started_at,
        ended_at=now(),
        command=command,
        cells=tuple(
            RunCell(
                name=each.name,
                axes=each.axes,
                seed=each.cell.seed,
                fingerprint=each.cell.fingerprint(),
                folder=each.folder,
                further=each.further and study.tunes is None,  # among trials all are equal
            )
            for each in study.cells
        ),
    )


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[int]:
    """StoreError where another process runs the same matrix in the same results folder, or a link leads out of it."""
    for path in (folder, folder / ".lock"):
        refuse_link(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}; choose another folder with --results") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"another run is using {folder}; wait for it, or choose another folder with --results") from error
        yield lock.fileno()
