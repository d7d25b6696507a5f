"""Doing it: the cells of a study, each in a process of its own. The room is called: `bench.run(study)`. Knows no torch."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import CallableRoom

if TYPE_CHECKING:
    from bench.records.record import Record
    from bench.study.matrix import Study


def called(study: "Study", results: str | Path = "results", on: str = "local", **options: Any) -> "list[Record]":
    """Train, sample and measure every cell of a study that is not finished in the folder `results`; the records of all its cells.

    `on`: the launcher, and its options: devices="0,1", or on="slurm", partition="gpu". As `python -m bench run`: called again it goes on.
    Refusal or Refused for what is wrong, Stopped after an interrupt.
    """
    from bench.data.progress import say  # not with the room, which every job's process imports
    from bench.run.launch import run_all
    from bench.run.launchers.table import launcher

    words = [*study.words, *([] if Path(results) == Path("results") else ["--results", str(results)])]
    words += ["--on", on] if on != "local" else []
    for name, value in options.items():
        words += ["--devices", str(value)] if name == "devices" else ["--with", f"{name}={value}"]
    return run_all(study, Path(results), say, f"python -m bench run {shlex.join(words)}", launcher=launcher(on, options=options))


sys.modules[__name__].__class__ = CallableRoom
