"""`--budget-minutes`: a study made so small that its expected time fits. Knows no torch."""

import contextlib
import itertools
import math
from pathlib import Path

from bench.backbone import short_name
from bench.data.files import StoreError
from bench.data.frozen import content_hash
from bench.data.progress import Say
from bench.records.store import read_run
from bench.run.expected.estimate import TimeEstimate
from bench.run.expected.words import about, lines
from bench.shapes import Refusal
from bench.study.matrix import NamedCell, Study, cell_name
from bench.study.scale import Scaling, changes, scaled_budget, scaled_cell
from bench.study.scale import moved as moved_axes
from bench.study.trials import SUFFIX, num_rungs, points

LEAST = 1 / 200  # share of the training that is ever left
MOST_FIXED = 0.5  # of the time, that may be spent on what does not shrink before seeds are left out
BISECTIONS = 12


def planned(study: Study, results: Path, say: Say, minutes: float | None) -> Study:
    """The study, scaled where it would take more than `minutes`; says what it is expected to take. Refusal where nothing fits."""
    estimate = TimeEstimate(results, say)
    if minutes is not None:
        study = within(study, minutes, estimate)
    if study.scaling is not None:
        say(f"{study.name}: {study.scaling.text}")
    estimate.learn(study)
    for line in lines(estimate.expected(study)):
        say(line)
    return study


def within(study: Study, minutes: float, estimate: TimeEstimate) -> Study:
    """The study as it is where it fits, else the largest share of it that does, with as many seeds as leave time to train them."""
    identity = content_hash([named.cell.fingerprint() for named in study.cells])
    name = f"{study.name}-{minutes:g}min"
    for folder in (name, f"{name}{SUFFIX}"):  # a study that goes on is the one that was begun, whatever is known of times by now
        with contextlib.suppress(StoreError):
            before = read_run(estimate.results / folder).scaling
            if before is not None and before.of == identity:
                return smaller(study, before)
    estimate.learn(study)
    if estimate.total_s(study) <= 60 * minutes:
        return study

    def at(share: float, num_seeds: int) -> Study:
        return smaller(study, Scaling(minutes=minutes, share=share, num_seeds=num_seeds, of=identity, changes=()))

    estimate.learn(at(LEAST, 1), anew=True)
    for num_seeds in range(len(study.matrix.seeds), 0, -1):
        least_s = estimate.total_s(at(LEAST, num_seeds))
        if least_s <= 60 * minutes * (1.0 if num_seeds == 1 else MOST_FIXED):
            break
    else:
        raise Refusal(
            f"--budget-minutes {minutes:g} is too short for {study.name}: with one seed and the least of everything it takes about "
            f"{about(least_s)}; give {math.ceil(least_s / 60)} or more, or a matrix with fewer cells"
        )
    low, high = math.log(LEAST), 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if estimate.total_s(at(math.exp(middle), num_seeds)) <= 60 * minutes:
            low = middle
        else:
            high = middle
    return at(math.exp(low), num_seeds)


def smaller(study: Study, scaling: Scaling) -> Study:
    """A study with a share of its training and its samples, and the first of its seeds, under a name of its own."""
    seeds, tune = study.matrix.seeds[: scaling.num_seeds], study.matrix.tune
    kept = [named for named in study.cells if named.cell.seed in seeds]
    # The first trials of successive halving have a part of the budget, which must not be less than one.
    least = tune.halving ** (num_rungs(len(points(tune.grid)), tune.halving) - 1) if tune and tune.halving else 1
    scaled = [scaled_cell(named.cell, scaling.share, least) for named in kept]
    short = len({short_name(named.cell.backbone) for named in kept}) == len({named.cell.backbone for named in kept})
    cells = []
    for named, cell in zip(kept, scaled, strict=True):
        axes = moved_axes(named.axes, named.cell, cell)
        own = named.name if axes == named.axes else cell_name(axes, cell.seed, short)
        cells.append(named.model_copy(update={"name": own, "axes": axes, "cell": cell}))
    _check_apart(cells, scaling.minutes)
    said = changes([named.cell for named in kept], scaled)
    if len(seeds) < len(study.matrix.seeds):
        said += (f"seeds {len(study.matrix.seeds)} -> {len(seeds)}",)
    changed = {}
    if tune is not None:
        tune_seeds = tune.seeds[: scaling.num_seeds]
        budget = tune.budget and scaled_budget(tune.budget, scaling.share, least)
        said += (f"tune.budget.{budget.axis} {tune.budget.amount:g} -> {budget.amount:g}",) if budget and tune.budget else ()
        said += (f"tune.seeds {len(tune.seeds)} -> {len(tune_seeds)}",) if len(tune_seeds) < len(tune.seeds) else ()
        changed["tune"] = tune.model_copy(update={"budget": budget, "seeds": tune_seeds})
    scaling = scaling.model_copy(update={"changes": said})
    about_it = f"{study.matrix.description} {scaling.text}"
    matrix = study.matrix.model_copy(update={"seeds": seeds, "description": about_it, **changed})
    name = f"{study.name}-{scaling.minutes:g}min"
    return study.model_copy(update={"name": name, "matrix": matrix, "cells": tuple(cells), "scaling": scaling})


def _check_apart(cells: list[NamedCell], minutes: float) -> None:
    """Refusal where cells that differ in their budget alone have become one."""
    for one, other in itertools.pairwise(sorted(cells, key=lambda named: named.cell.fingerprint())):
        if one.cell.fingerprint() == other.cell.fingerprint():
            raise Refusal(f"--budget-minutes {minutes:g} leaves nothing between {one.name} and {other.name}; give more")
