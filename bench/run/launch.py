"""A study from its matrix to its records: what is checked first, what cells share, and then the cells, by a launcher.

Each is a fresh process, so that neither memory nor timings leak between rivals. Knows no torch. The process that does a job is
bench/run/worker.py.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

from bench.data.files import StoreError, now, refuse_link, remove_leftovers
from bench.data.plugin import BrokenPlugin
from bench.data.progress import Say
from bench.data.source import clips_digest
from bench.records.record import FINAL, Asked, Record, RunCell, RunSnapshot
from bench.records.store import latest, write_run
from bench.run.checks import (
    card_text,
    check_all,
    check_contrasts,
    check_extractors,
    check_primary,
    check_prompts,
    check_weights,
    weights_digest,
)
from bench.run.device import on_this_machine
from bench.run.expected.fit import planned
from bench.run.fan_out import FanOut, run_on, write_lost
from bench.run.job import CellJob, PrepareJob, SampleJob
from bench.run.launchers.contract import Launcher
from bench.run.launchers.table import launcher as launcher_of
from bench.run.match.resolve import resolve
from bench.run.process import run_job
from bench.run.size.resolve import sizes_of
from bench.run.threads import is_quiet
from bench.run.tune.resolve import Train, tuned
from bench.shapes import Refusal, Shape
from bench.study.cell import PROTOCOL_VERSION, Cell
from bench.study.contrasts import told
from bench.study.forecast import held_out
from bench.study.matrix import NamedCell, Study


def run_all(
    study: Study, results: Path, say: Say, command: str, minutes: float | None = None, launcher: Launcher | None = None
) -> list[Record]:
    """Run a study as `load_study` gives it: its checks, matches and trials first, scaled to `minutes`. The records of its cells."""
    launcher = launcher or launcher_of()
    if study.matrix.forecast is not None:
        raise Refusal(
            f"matrix {study.name} predicts cells before they train, which `python -m bench run {study.name}` does; or forecast=null"
        )
    study = ready(study, results, say, lambda trials: run_study(trials, results, say, command, launcher), minutes, launcher)
    return run_study(study, results, say, command, launcher)


def ready(
    study: Study, results: Path, say: Say, train: Train | None = None, minutes: float | None = None, launcher: Launcher | None = None
) -> Study:
    """The study as it runs here: weights are there, all that is cheap to check is checked, matched sizes and the device are settled.

    Where `train` runs trials, tuned fields are settled too, and the time that all will take is told before; with `minutes` the study is
    made to fit them. Refusal, or Refused where it has said what is wrong.
    """
    launcher = launcher or launcher_of()
    if minutes is not None and launcher.machine:
        raise Refusal(
            f"--budget-minutes {minutes:g} goes by how fast this machine is, and --on {launcher.name} trains on others; leave it out, or "
            "set the budget of the cells, such as budget.seconds=600"
        )
    study = on_this_machine(study, launcher.device)
    launcher.check(study)
    check_all(study.cells, check_extractors)
    check_primary(study)
    check_contrasts(study)
    check_weights(study)
    if study.matrix.match is not None and study.matrix.match.to is not None:  # a search takes minutes
        check_study(study, results, "named")
    study = resolve(study, results, say, launcher)
    if train is not None:
        _places(results.resolve(), study)
        if not launcher.machine:  # of another machine nothing tells how fast it is
            study = planned(study, results.resolve(), say, minutes)
    where, results = launcher, results.resolve()

    def params(asked: Study) -> dict[str, int]:
        found = sizes_of([named.cell for named in asked.cells], asked.name, results, where)
        return {name: size.params for name, size in found.items()}

    return tuned(study, say, train, params)


def run_study(
    study: Study,
    results: Path,
    say: Say,
    command: str,
    launcher: Launcher | None = None,
    *,
    later: Collection[str] = (),
    prediction: str | None = None,
) -> list[Record]:
    """Run every cell of a study that has no final record yet; the records of all. Raises Refused, Stopped or StoreError.

    `later`: names of cells that another call runs. `prediction`: hash of what was said of the held-out cells, for their records.
    """
    results, launcher = results.resolve(), launcher or _checked(launcher_of(), study)
    folder = results / study.name
    with _only_one(folder) as lock:
        started_at = now()
        for place in _places(results, study):
            if not launcher.leaves:  # else some may be of jobs that go on
                remove_leftovers(place)
        known = {named.name: _latest_final(folder / named.folder, named.cell) for named in study.cells}
        finished = [record for record in known.values() if record is not None]
        waiting = [name for name, record in known.items() if record is None and name not in later]
        _check_headline(study, folder)
        say(f"{study.name}: {len(known)} cells, {len(finished)} finished before, {len(waiting)} to run")
        write_run(results, _snapshot(study, started_at, command))
        jobs = _jobs(study, results, spins=bool(waiting) and _spins(launcher, finished), prediction=prediction)
        unprepared = [name for name in waiting if launcher.attached(jobs[name]) is None]  # the others are under way
        known |= _prepare(study, results, jobs, unprepared, say, lock, launcher)
        # Seed by seed, so that an hour in which the machine is slower is one of all contenders.
        left = sorted((jobs[name] for name in waiting if known[name] is None), key=lambda job: job.cell.cell.seed)
        known |= FanOut(launcher, say, lock, trials=study.tunes is not None, known=finished).run(left)
        records = [record for record in known.values() if record]
        write_run(results, _snapshot(study, started_at, command))
        return records


def _checked(launcher: Launcher, study: Study) -> Launcher:
    launcher.check(study)
    return launcher


def _spins(launcher: Launcher, finished: Sequence[Record]) -> bool:
    """Whether threads wait by spinning: one way for all cells, since it is part of how fast they are."""
    known = next((record.environment.spins for record in finished if record.environment.spins is not None), launcher.spins)
    return is_quiet() if known is None else known


def _places(results: Path, study: Study) -> list[Path]:
    """Folders that a run writes in. StoreError where one is a link, which would lead out of the results."""
    run, cache = results / study.name, results / "cache"
    places = [run, *run.glob("*/"), cache, *cache.glob("*/")]
    for place in places:
        refuse_link(place)
    return places


def _prepare(
    study: Study, results: Path, jobs: dict[str, CellJob], waiting: list[str], say: Say, lock: int, launcher: Launcher
) -> dict[str, Record]:
    """Check and make what the waiting cells share; records of those that ended the process which was at them, or held it up."""
    lost: dict[str, Record] = {}
    compared = [named for named in study.cells if named.name in waiting or study.matrix.match]
    while left := [name for name in waiting if name not in lost]:
        started_at = now()
        job = _prepare_job(study, results, compared, left, "made")
        ended = run_on(launcher, job.model_copy(update={"spins": jobs[left[0]].spins}), lock)
        if ended.word == "done":
            break
        for named in [named for named in compared if named.name in ended.cells]:
            compared.remove(named)
            if named.name in left:
                lost[named.name] = record = write_lost(jobs[named.name], ended, started_at)
                say(f"{named.name}: {record.status} before it trained: {record.reason}")
    return lost


def check_study(study: Study, results: Path, until: Literal["named", "checked"] = "checked") -> None:
    """What `run` checks before anything trains: data, backbones at its shapes, the match. Refused where it has said what is wrong."""
    results = results.resolve()
    _places(results, study)
    ended = run_job(_prepare_job(study, results, study.cells, [named.name for named in study.cells], until))
    if ended.word != "done":
        raise Refusal(f"cell {', '.join(ended.cells)}: {ended.reason}")


def sample_cell(
    record: Record, folder: Path, results: Path, num_clips: int, shape: Shape | None, out: Path, prompts: Sequence[str] = ()
) -> None:
    """Make more clips from a finished cell, in a process of its own; of `shape` (T, H, W) in pixels, or of the shapes that were scored.

    Of `prompts` in turn, or of what the test clips show. Refusal where these would not decide what is made.
    """
    if prompts:
        check_prompts(record.cell, bool(record.data and record.data.label_names))
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
        prompts=tuple(prompts),
    )
    run_job(job)


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
    """The newest record of a cell if it need not run again: it is a result, nothing says that clips or checkpoint are others now."""
    record = latest(folder)
    if record is None or record.status not in FINAL:
        return None
    try:
        if record.backbone is not None and record.backbone.weights and record.backbone.weights != weights_digest(cell):
            return None
        return record if record.data is None or record.data.digest == clips_digest(cell.data) else None
    except BrokenPlugin:  # nothing says that they changed, and what is finished is not lost
        return record


def _jobs(study: Study, results: Path, *, spins: bool = False, prediction: str | None = None) -> dict[str, CellJob]:
    """Cell's name -> its job, with what this run asks, as each of its records keeps it."""
    folders = tuple(named.folder for named in study.cells)
    asked = Asked(
        claim=study.matrix.claim,
        primary=study.matrix.primary,
        contrasts=study.contrasts,
        cells=folders,
        further=tuple(name for name, is_further in _further(study).items() if is_further),
        until_decided=study.until_decided,
    )
    own = {"matrix": study.name, "results": results, "spins": spins, "track": study.track}
    predicted = {named.name: asked.model_copy(update={"prediction": prediction}) for named in held_out(study.matrix.forecast, study.cells)}
    return {
        named.name: CellJob.model_validate({"label": named.name, "cell": named, "asked": predicted.get(named.name, asked), **own})
        for named in study.cells
    }


def _further(study: Study) -> dict[str, bool]:
    """Folder -> whether no headline rests on it; among trials all are equal."""
    return {named.folder: named.further and study.tunes is None for named in study.cells}


def _check_headline(study: Study, folder: Path) -> None:
    """StoreError where the headline would be chosen after the fact: cells have finished while something else was to decide."""
    asked = study.matrix.claim, study.matrix.primary, study.contrasts
    for path in sorted(folder.glob("*/")):
        try:
            record = latest(path)
        except StoreError:  # of another version of the suite, or damaged: it decides nothing
            continue
        if record is None or record.status not in FINAL or record.protocol_version != PROTOCOL_VERSION:
            continue
        before = record.asked.claim, record.asked.primary, record.asked.contrasts
        if before != asked:
            shown = [f"claim={claim or 'null'} primary={primary or 'null'}" for claim, primary, _ in (before, asked)]
            if before[2] != asked[2]:
                shown = [f"{text} contrasts {told(each[2])}" for text, each in zip(shown, (before, asked), strict=True)]
            raise StoreError(
                f"{path} has finished under {shown[0]}, and this run asks {shown[1]}; what decides is named before the run: "
                f"put {shown[0]} back, or copy the matrix under another name"
            )
        if moved := record.asked.moved(_further(study)):
            was, now_is = ("further cells", "contenders") if moved[0] in (record.asked.further or ()) else ("contenders", "further cells")
            raise StoreError(
                f"{path} has finished with {moved[0]} among the {was}, and this run has it among the {now_is}; what decides is "
                "named before the run: put it back under `axes` or `include`, or copy the matrix under another name"
            )


def _snapshot(study: Study, started_at: str, command: str) -> RunSnapshot:
    return RunSnapshot(
        matrix=study.name,
        description=study.matrix.description,
        claim=study.matrix.claim,
        primary=study.matrix.primary,
        contrasts=study.contrasts,
        primary_card=card_text(study),
        match=study.matrix.match,
        tunes=study.tunes,
        until_decided=study.until_decided,
        forecast=study.matrix.forecast,
        scaling=study.scaling,
        track=study.track,
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
                further=_further(study)[each.folder],
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
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise StoreError(f"another run is using {folder}; wait for it, or choose another folder with --results") from error
            raise StoreError(
                f"{folder} is on a file system without locks ({error.strerror}), and two runs could write over each other; choose another "
                "folder with --results"
            ) from error
        yield lock.fileno()
