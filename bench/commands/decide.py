"""`run --until-decided`: seeds are added, pair by pair, until the headline is carried, more would be futile, or the time is up.

What each look may spend and whom more seeds can help is decided by bench/report/verdicts/sequential.py; here it is run.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from bench.data.progress import Say
from bench.records.record import Record
from bench.report.load import Run, load_run
from bench.report.verdicts import sequential
from bench.report.verdicts.findings import find
from bench.report.verdicts.prospect import minutes_of
from bench.report.verdicts.sequential import Look
from bench.run.launch import ready, run_study
from bench.run.launchers.contract import Launcher
from bench.run.launchers.table import launcher as launcher_of
from bench.shapes import Refusal
from bench.study.looks import Looks
from bench.study.matrix import NamedCell, Study, are_short, cell_name, expand


def run_until_decided(
    study: Study, results: Path, say: Say, command: str, hours: float | None, launcher: Launcher | None = None
) -> list[Record]:
    """Run a study as `load_study` gives it, and add seeds; the records of all its cells. Refusal where nothing could be decided."""
    start_s, looks = time.monotonic(), Looks()
    seeds = list(study.matrix.seeds)
    if len(seeds) > looks.first:
        looks = Looks(first=len(seeds), most=max(looks.most, len(seeds)))
    seeds += fresh(seeds, study, looks.first - len(seeds))
    matrix = study.matrix.model_copy(update={"seeds": seeds})
    study = study.model_copy(update={"matrix": matrix, "cells": tuple(expand(study.name, matrix)), "until_decided": looks})
    check(study)
    launcher = launcher or launcher_of()
    study = ready(study, results, say, lambda trials: run_study(trials, results, say, command, launcher), launcher=launcher)
    while True:
        records = run_study(study, results, say, command, launcher)
        run = load_run(results / study.name)
        found = sequential.look_at(run, find(run))
        minutes = minutes_of(run, found.more)
        say(f"{study.name}: {told(found, minutes)}")
        if not found.more:
            return records
        spent_s = time.monotonic() - start_s
        if hours is not None and spent_s + 60 * (minutes or 0.0) > 3600 * hours:
            say(f"{study.name}: {hours:g} hours are too short for one more seed each; run the same command with more --hours to go on")
            return records
        study = study.model_copy(update={"cells": (*study.cells, *grown(study, run, found.more))})


def check(study: Study) -> None:
    """Refusal where no seeds could decide."""
    main = {named.cell.backbone + repr(named.axes) for named in study.cells if not named.further}
    if len(main) < 2:
        raise Refusal(f"--until-decided tells contenders apart, and matrix {study.name} has one; give it more, as under axes.backbone")
    if study.matrix.forecast is not None:
        raise Refusal(
            f"--until-decided adds cells, and what matrix {study.name} predicts is of those it has; leave it out, or forecast=null"
        )
    if study.matrix.primary is None:
        raise Refusal(f"--until-decided needs a measure that decides, and matrix {study.name} has none; name it: primary=fvd")


def grown(study: Study, run: Run, contenders: Sequence[str]) -> list[NamedCell]:
    """One more cell for each of these contenders, at the first seed that it has not."""
    of_folder = {named.folder: named for named in study.cells}
    short, added = are_short(named.cell.backbone for named in study.cells), []
    for name in contenders:
        own = [of_folder[cell.folder] for cell in run.of(name)]
        [seed] = fresh([named.cell.seed for named in own], study, 1)
        evaluation = own[-1].cell.evaluation.model_copy(update={"untrained": own[-1].cell.evaluation.untrained and own[0] is not own[-1]})
        cell = own[-1].cell.model_copy(update={"seed": seed, "evaluation": evaluation})
        added.append(own[-1].model_copy(update={"name": cell_name(own[-1].axes, seed, short), "cell": cell}))
    return added


def fresh(seeds: Sequence[int], study: Study, num: int) -> list[int]:
    """So many seeds that neither these are nor the trials of its tuning had."""
    used, found = {*seeds, *(study.matrix.tune.seeds if study.matrix.tune else ())}, list[int]()
    seed = max(seeds, default=-1)
    while len(found) < num:
        seed += 1
        found += [] if seed in used else [seed]
    return found


def told(found: Look, minutes: float | None) -> str:
    """What a look says, and what is expected to be needed, from the spread seen so far."""
    if not found.more:
        return {"carried": "decided", "futile": "more seeds would be futile"}.get(found.state, "not decided") + f": {found.reason}"
    line = f"one more seed for {' and '.join(found.more)}: {found.reason}"
    if (seeds := found.further_seeds) is not None:
        time_text = "" if minutes is None else f", about {max(1, round(seeds * minutes))} minutes"
        line += f"; expected: about {max(1, round(seeds))} more seeds each{time_text}"
    return line
