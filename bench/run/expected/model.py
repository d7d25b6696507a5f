"""How long a study will take: paces times amounts, phase by phase as bench/run/cell_run.py has them. Arithmetic alone; knows no torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.data.latents.config import autoencoder_folder
from bench.data.physics.table import WORLDS
from bench.data.source import clips_digest
from bench.run.checks import checked_by
from bench.run.expected.earlier import Earlier
from bench.run.expected.pace import Pace, branched, checked_clips, evaluations
from bench.shapes import Refusal
from bench.study.cell import Cell
from bench.study.matrix import NamedCell, Study
from bench.study.trials import contenders_of, num_rungs, points, trial_study

START_S = 6.0  # of a process: torch and all else that it imports
CANARY_STEPS = 25.0  # canaries of which nothing tells take as long as so many training steps, as those of the committed records
TWIN_TIMESTEPS = 10  # at which each clip of a pair is evaluated
SETS = 3  # of real clips whose features are shared: test, validation, and those through the autoencoder


@dataclass(frozen=True, kw_only=True)
class CellTime:
    """The expected time of one cell."""

    named: NamedCell
    phases_s: dict[str, float] | None  # None: nothing tells
    finished: bool  # before: it takes none

    @property
    def seconds(self) -> float:
        """Of its process."""
        return 0.0 if self.finished or self.phases_s is None else sum(self.phases_s.values())


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected time of a run."""

    run: str
    trial_fields: tuple[str, ...]  # dotted fields in which the trials of a contender differ; () of a study
    cells: tuple[CellTime, ...]
    shared_s: float  # of what cells share and is not cached

    @property
    def seconds(self) -> float:
        """Of the whole."""
        return self.shared_s + sum(cell.seconds for cell in self.cells)

    @property
    def unknown(self) -> list[str]:
        """Cells of which nothing tells."""
        return [cell.named.name for cell in self.cells if cell.phases_s is None and not cell.finished]


def runs_of(study: Study) -> Iterator[Study]:
    """What a study runs: the trials of its tuning first, as far as they are known beforehand, then itself."""
    tune = study.matrix.tune
    if tune is not None and study.matrix.tuned is None:
        every = points(tune.grid)
        contenders = dict.fromkeys(contenders_of(study, tune))
        rungs = num_rungs(len(every), tune.halving) if tune.halving else 1
        cells: dict[str, NamedCell] = {}
        num, made = len(every), None
        for rung in range(rungs):
            part = (tune.halving or 1) ** (rung + 1.0 - rungs)
            made = trial_study(study, tune, dict.fromkeys(contenders, every[:num]), part)
            cells |= {named.name: named for named in made.cells}
            num = -(-num // (tune.halving or 1))
        assert made is not None
        yield made.model_copy(update={"cells": tuple(cells.values())})
    yield study


def expect(study: Study, finished: set[str], pace_of: Callable[[Cell], Pace | None], shared: set[str]) -> Expected:
    """The time of one run, of which some cells are `finished`. `shared`: stages that are made by then, added to."""
    shared_s, checked, found = 0.0, set(), []
    for named in study.cells:
        cell, pace = named.cell, pace_of(named.cell)
        if named.name in finished:
            found.append(CellTime(named=named, phases_s={}, finished=True))
            continue
        phases_s = None if pace is None else phases_of(cell, pace, checked_by(cell) not in checked)
        found.append(CellTime(named=named, phases_s=phases_s, finished=False))
        checked.add(checked_by(cell))
        if pace is not None:
            shared_s += sum(seconds for stage, seconds in stages_of(cell, pace).items() if stage not in shared)
            shared.update(stages_of(cell, pace))
    waits = not all(cell.finished for cell in found)
    fields = tuple(study.tunes.grid) if study.tunes is not None else ()
    return Expected(run=study.name, trial_fields=fields, cells=tuple(found), shared_s=waits * START_S + shared_s)


def phases_of(cell: Cell, pace: Pace, canaries: bool) -> dict[str, float]:
    """Phase -> seconds; `canaries`: it is the first cell of its contender."""
    num, asked = cell.evaluation.num_samples, cell.evaluation
    per_unit_s = 1.0 if cell.budget.axis == "seconds" else pace.budget_s.get(cell.budget.axis, 0.0)
    phases = {
        "start": START_S,
        "training": (1 + branched(cell)) * cell.budget.amount * per_unit_s + checked_clips(cell) * (pace.checks_s or 0.0),
    }
    if canaries:
        phases["canaries"] = CANARY_STEPS * pace.budget_s.get("steps", 0.0) if pace.canaries_s is None else pace.canaries_s
    if not num:
        return phases
    eval_s = pace.eval_s or 0.0
    denoising_s = evaluations(cell) * eval_s
    sampling_s = num * (denoising_s + (pace.clip_s or 0.0))
    phases |= {
        "rest": pace.rest_s or 0.0,
        "untrained model": asked.untrained * sampling_s,
        "sampling": sampling_s,
        "quality": num * (1 + asked.untrained) * (pace.quality_s or 0.0),
        "quality on the way": len(asked.points) * num * (denoising_s + (pace.point_s or 0.0)),
        "shape grid": len(asked.grid) * asked.grid_samples * evaluations(cell) * (pace.grid_s or 0.0),
        "physics": len(asked.regions) * asked.region_samples * (denoising_s + (pace.clip_s or 0.0)) + twin_evaluations(cell) * eval_s,
    }
    if asked.latency:  # one clip four times, 64 of them, and a step of each before
        phases["latency"] = 70 * denoising_s
    return phases


def twin_evaluations(cell: Cell) -> int:
    """Evaluations of a clip that its twins take: two clips of a pair, of every law, trained and maybe untrained."""
    world = getattr(cell.data, "world", None)
    return (
        0 if world is None else 2 * (1 + cell.evaluation.untrained) * len(WORLDS.find(world).twins) * cell.evaluation.twins * TWIN_TIMESTEPS
    )


def stages_of(cell: Cell, pace: Pace) -> dict[str, float]:
    """What cells share -> seconds, under the name of all that decides it."""
    data, autoencoder = cell.data.model_dump_json(), cell.autoencoder.model_dump_json()
    num_steps = cell.autoencoder.num_steps if cell.autoencoder.kind == "trained" else 0
    stages = {
        f"autoencoder {data} {autoencoder}": num_steps * (pace.autoencoder_s or 0.0),
        f"latents {data} {autoencoder} {cell.batching.policy}": pace.latents_s or 0.0,
    }
    if num := cell.evaluation.num_samples:
        judged = f"{num} {cell.evaluation.extractors}"
        stages[f"features {data} {autoencoder} {judged}"] = SETS * num * (pace.quality_s or 0.0)
    return stages


def cached_stages(cell: Cell, earlier: Earlier) -> set[str]:
    """Those of them that are in the cache of a results folder."""
    try:
        folder = autoencoder_folder(cell.autoencoder, clips_digest(cell.data), Path(earlier.results) / "cache")
    except (Refusal, OSError):  # data that are not there: whoever runs it is told
        return set()
    if not folder.is_dir():
        return set()
    return {name for name in stages_of(cell, Pace()) if not name.startswith("features") or earlier.has_features(cell)}
