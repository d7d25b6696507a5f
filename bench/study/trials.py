"""The trials of a tuning: a cell for each contender, point of the grid and seed; and the choice among them. Knows no torch."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.data.frozen import content_hash, flatten
from bench.shapes import Refusal
from bench.study.budget import BUDGETS
from bench.study.cell import SOLVERS, Cell, Evaluation, Sampler, differences
from bench.study.matrix import NamedCell, Study, are_short, cell_name, set_field
from bench.study.scale import scaled_budget
from bench.study.tune import Tune, Tuning, TuningTrial, at_edge

SUFFIX = "-tuning"  # of the run of the trials, behind the name of the study
# What a trial has of its own, beside the tuned fields and the budget, which is told apart.
OWN = ("seed", "evaluation.", "sampler.", "branches", "timeout_s", "checkpoint_interval_s")
Point = dict[str, Any]  # dotted field -> value


def points(grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Every combination of the values.

    >>> points({"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def num_rungs(num_points: int, halving: int) -> int:
    """How often successive halving goes on with fewer points.

    >>> num_rungs(8, 2), num_rungs(9, 3)
    (3, 2)
    """
    return int(math.log(num_points, halving) + 1e-9)


def contender_of(cell: Cell, tunes: Iterable[str]) -> str:
    """What the trials of one contender share: all of a trial's cell but the tuned fields, the budget and the seed."""
    content = flatten(_bare(cell).model_dump(mode="json", exclude={"seed", "budget"}))
    return content_hash({name: value for name, value in content.items() if name not in set(tunes)})


def contenders_of(study: Study, tune: Tune) -> list[str]:
    """Those that have trials."""
    return list(dict.fromkeys(contender_of(named.cell, tune.grid) for named in study.cells if tune.further or not named.further))


def trial_study(study: Study, tune: Tune, asked: Mapping[str, Sequence[Point]], parts: float = 1.0) -> Study:
    """The trials of a study as a study of its own: for each contender its points, at so large a part of the budget."""
    found: dict[str, NamedCell] = {}
    short = are_short(named.cell.backbone for named in study.cells)
    for named, seed in itertools.product(study.cells, tune.seeds):
        axes = {key: value for key, value in named.axes.items() if tune.budget is None or not key.startswith("budget.")}
        axes |= {} if "backbone" in axes else {"backbone": named.cell.backbone}
        for point in asked.get(contender_of(named.cell, tune.grid), ()):
            cell = _trial(named.cell, tune, point, seed, parts)
            own = {f"budget.{cell.budget.axis}": cell.budget.amount} if tune.halving else {}
            place = {**axes, **point, **own}
            trial = NamedCell(name=cell_name(place, seed, short), axes=place, cell=cell, match=named.match, further=named.further)
            found.setdefault(cell.fingerprint(), trial)
    about = f"Tuning of {study.name}: {', '.join(tune.grid)} of every contender by {tune.by}. {study.matrix.description}"
    matrix = study.matrix.model_copy(
        update={
            "description": about,
            "claim": None,
            "primary": None,
            "contrasts": {},
            "tune": None,
            "tuned": None,
            "forecast": None,
            "seeds": list(tune.seeds),
        }
    )
    return Study(name=f"{study.name}{SUFFIX}", matrix=matrix, cells=tuple(found.values()), tunes=tune, scaling=study.scaling)


def _trial(cell: Cell, tune: Tune, point: Point, seed: int, parts: float) -> Cell:
    """One trial: trained and validated, and not sampled."""
    budget = tune.budget or cell.budget
    if parts != 1.0:
        if BUDGETS.find(budget.axis).whole and budget.amount * parts < 1:
            raise Refusal(f"tune.halving leaves less than one of {budget.amount:g} {budget.axis} to its first trials; use a larger budget")
        budget = scaled_budget(budget, parts)
    return with_values(_bare(cell).model_copy(update={"budget": budget, "seed": seed}), point)


def _bare(cell: Cell) -> Cell:
    """The cell without what nothing of a validation loss depends on."""
    sampler = Sampler(solver=SOLVERS[cell.objective.name][0])
    return cell.model_copy(update={"evaluation": Evaluation(num_samples=0, untrained=False), "sampler": sampler, "branches": ()})


def with_values(cell: Cell, point: Point) -> Cell:
    """The cell with other values of some fields."""
    content = cell.model_dump(mode="json")
    for name, value in point.items():
        set_field(content, name, value)
    return Cell.model_validate(content)


def best(trials: Sequence[TuningTrial], num: int) -> list[Point]:
    """The points of the trials with the least loss, best first; of equal ones the earlier."""
    return [trial.point for trial in sorted(trials, key=lambda trial: trial.mean)[:num]]


def choose(trials: Sequence[TuningTrial], tune_by: str, study: str) -> Tuning:
    """The choice among a contender's trials: the least mean loss at the largest budget. Refusal where no trial has one."""
    tuning = Tuning(by=tune_by, study=study, trials=tuple(trials), chosen={})
    found = min(tuning.full, key=lambda trial: trial.mean)
    if found.mean == float("inf"):
        raise Refusal(f"no trial of {study} has a finite loss at every seed; give the fields under tune other values")
    tried = {name: list(dict.fromkeys(trial.point[name] for trial in trials)) for name in found.point}
    return tuning.model_copy(update={"chosen": found.point, "at_edge": at_edge(tried, found.point)})


def differs(trial: Cell, used: Cell, tunes: Iterable[str]) -> tuple[str, ...]:
    """'field: value of the trial | value of the cell' for all that a cell has otherwise than the trials that its fields were chosen by."""
    found = differences(trial, used)
    return tuple(f"{key}: {a} | {b}" for key, a, b in found if not key.startswith(OWN) and key not in tunes)
