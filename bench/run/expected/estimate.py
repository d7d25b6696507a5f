"""How long a study will take, told before anything trains: what earlier records say, and where they are silent, measurements. No torch."""

import contextlib
import os
from pathlib import Path

from bench.data.files import StoreError
from bench.data.frozen import content_hash
from bench.data.progress import Say
from bench.data.sealed import read_sealed
from bench.records.environment import own_cpus, read_environment
from bench.run.expected.earlier import Earlier
from bench.run.expected.model import Expected, cached_stages, expect, runs_of, stages_of
from bench.run.expected.pace import Pace, lacking, merged, work_of
from bench.run.job import PaceJob
from bench.run.match.resolve import MACHINE
from bench.run.process import Refused, run_job
from bench.run.threads import is_quiet
from bench.shapes import Refusal
from bench.study.cell import Cell
from bench.study.matrix import Study

PACE_VERSION = 1  # of the files that paces are kept in
UNTUNED = ("optimizer", "objective")  # parts of a cell that a tuning, of its own or an earlier one, has yet to settle


class TimeEstimate:
    """What is known of the times of a study's cells."""

    def __init__(self, results: Path, say: Say):
        self.results, self.say = results, say
        self.spins = is_quiet()  # as the cells will
        self.earlier = Earlier(results, spins=self.spins)
        self.paces: dict[str, Pace] = {}  # of those cells of which something tells
        self._cached: dict[tuple[str, ...], set[str]] = {}

    def learn(self, study: Study, *, anew: bool = False) -> None:
        """Find out what the cells of a study take; `anew`: its shared stages will be others, and count as not made yet."""
        silent: dict[str, Cell] = {}
        for key, cell in self._waiting(study, list(runs_of(study))).items():
            self.paces[key] = pace = self.paces.get(key) or self.earlier.pace(cell)
            if lacking(cell, pace, shared=anew or not self._stages(cell)):
                silent[key] = cell
        measured_as = {work_of(cell.model_dump(mode="json")): key for key, cell in silent.items() if cell.evaluation.num_samples}
        files = {}  # trials, which are not sampled, have the file of a cell of the same work that is
        for key, cell in silent.items():
            own = key if cell.evaluation.num_samples else measured_as.get(work_of(cell.model_dump(mode="json")), key)
            files[key] = self.results / "cache" / "pace" / f"{_identity(own, self.spins)}.json"
        known = {key: read_sealed(file, file.stem, Pace, "pace") for key, file in files.items()}
        if missing := {
            files[key]: silent[key] for key in sorted(silent, key=lambda key: silent[key].evaluation.num_samples) if not known[key]
        }:
            self._measure(study, missing)
            known |= {key: read_sealed(files[key], files[key].stem, Pace, "pace") for key in silent}
            if is_busy():
                self.say("other processes keep this machine busy: on an idle one it takes less")
                for file in missing:
                    with contextlib.suppress(OSError):  # not even there, where nothing can be written: what comes next says so
                        file.unlink()
        for key, measured in known.items():
            if measured is not None:
                self.paces[key] = merged([self.paces[key], measured])
            elif lacking(silent[key], self.paces[key], shared=False):
                del self.paces[key]

    def _measure(self, study: Study, cells: dict[Path, Cell]) -> None:
        """The pace of each cell into its file, by a job; where it fails there is none, and the run itself says of what."""
        num = f"{len(cells)} {'kind' if len(cells) == 1 else 'kinds'}"
        self.say(f"{study.name}: no record tells how long {num} of its cells take; a few steps of each are timed")
        pairs = tuple((cell, file) for file, cell in cells.items())
        job = PaceJob(label="expected time", matrix=study.name, results=self.results, spins=self.spins, cells=pairs)
        with contextlib.suppress(Refused, StoreError):  # a plug-in that ends its process, or is slow
            run_job(job)

    def expected(self, study: Study) -> list[Expected]:
        """The times of its trials, where it has any to run, and of itself."""
        runs = list(runs_of(study))
        shared = {stage for cell in self._waiting(study, runs).values() for stage in self._stages(cell)}
        return [expect(run, self._finished(study, run), lambda cell: self.paces.get(asked_of(cell)), shared) for run in runs]

    def total_s(self, study: Study) -> float:
        """Seconds of it all. Refusal where nothing tells of a cell."""
        runs = self.expected(study)
        if unknown := [name for run in runs for name in run.unknown]:
            raise Refusal(f"nothing tells how long {unknown[0]} takes, so it cannot be made to fit a time; leave out --budget-minutes")
        return sum(run.seconds for run in runs)

    def _stages(self, cell: Cell) -> set[str]:
        """The shared stages of a cell that are cached; a source is asked once for the identity of its clips."""
        key = tuple(stages_of(cell, Pace()))
        if key not in self._cached:
            self._cached[key] = cached_stages(cell, self.earlier)
        return self._cached[key]

    def _waiting(self, study: Study, runs: list[Study]) -> dict[str, Cell]:
        """A cell of each kind of work that is yet to be done, trials too."""
        found: dict[str, Cell] = {}
        for run in runs:
            finished = self._finished(study, run)
            found |= {asked_of(named.cell): named.cell for named in run.cells if named.name not in finished}
        return found

    def _finished(self, study: Study, run: Study) -> set[str]:
        """Names of the cells of a run, of a study's trials or its own, that have their result."""
        tune, fields = study.matrix.tune, ()
        if run.tunes is None and (tune is not None or study.matrix.tuned is not None):
            fields = (*UNTUNED, *(tune.grid if tune is not None else ()))
        return {named.name for named in run.cells if self.earlier.is_finished(run.name, named, fields)}


def is_busy() -> bool:
    """Whether more processes want to run than there are processors, this one apart; times of steps are then no measure of the machine."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > len(own_cpus()) + 1


def asked_of(cell: Cell) -> str:
    """What cells share of which the same must be known: the work of their steps, and what they are judged by."""
    judged = cell.evaluation.extractors if cell.evaluation.num_samples else ()
    return content_hash([work_of(cell.model_dump(mode="json")), list(judged)])


def _identity(key: str, spins: bool) -> str:
    """Of a measured pace: all that determines it."""
    environment = read_environment()
    machine = environment.model_dump(include=MACHINE)
    return content_hash([PACE_VERSION, key, environment.packages, machine, os.environ.get("OMP_NUM_THREADS"), spins])[:16]
