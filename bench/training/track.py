"""Trackers: how a run goes, told to those who watch it, by accelerate's trackers. Off unless a run asks; what is told changes nothing.

Steps are told in groups, as means, so that telling costs nothing that could be seen in a rate.
"""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from bench.data.files import now
from bench.data.frozen import flatten
from bench.study.cell import Cell

EVERY = 20  # steps of a group
FILE = "track.jsonl"  # in a cell's folder
SHOWN = 8  # clips


class JsonLines(GeneralTracker):
    """A line of JSON for each group of steps; a run that goes on takes away those that it will tell again."""

    name, requires_logging_directory = "jsonl", True

    def __init__(self, path: Path, step: int):
        super().__init__()
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step] if path.is_file() else []
        path.write_text("".join(f"{line}\n" for line in kept))

    @property
    def tracker(self) -> Path:
        """Where the lines are."""
        return self.path

    def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        """One line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "at": now(), **values}) + "\n")


class Track:
    """What is told of a run of a cell, by each tracker that was asked for."""

    def __init__(self, names: Sequence[str], cell: Cell, label: str, folder: Path, step: int):
        """`folder`: of the cell; `step`: that it goes on from."""
        self._trackers = [_opened(name, label, folder, step) for name in names]
        self._told = step
        fields = {name: str(value) for name, value in flatten(cell.model_dump(mode="json")).items()}
        for tracker in self._trackers:
            tracker.start()
            if tracker.name == "wandb":  # TensorBoard would open a second run for them
                tracker.store_init_configuration(fields)

    def steps(self, series: Mapping[str, Sequence[float]], step: int, *, all_of_them: bool = False) -> None:
        """Means of what steps were since those that were told, as far as they fill groups, or to the last one."""
        while self._trackers and (num := min(EVERY, step - self._told)) and (num == EVERY or all_of_them):
            own = slice(self._told, self._told + num)
            self._told += num
            self._tell({name: statistics.fmean(values[own]) for name, values in series.items() if values[own]}, self._told)

    def values(self, values: Mapping[str, float], step: int) -> None:
        """Single numbers."""
        self._tell(dict(values), step)

    def clips(self, name: str, frames: Sequence[np.ndarray], step: int) -> None:
        """The middle frames (H, W, 3) uint8 of a few clips (T, H, W, 3)."""
        images = [clip[len(clip) // 2] for clip in frames[:SHOWN]]
        for tracker in self._trackers:
            if tracker.name == "tensorboard":
                for place, image in enumerate(images):
                    tracker.tracker.add_image(f"{name}/{place}", image, global_step=step, dataformats="HWC")
            elif tracker.name == "wandb":
                tracker.log_images({name: images}, step=step)

    def end(self) -> None:
        """Nothing more is told."""
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []

    def _tell(self, values: dict[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(values, step=step)


def _opened(name: str, label: str, folder: Path, step: int) -> Any:
    """A tracker, going on where it was."""
    PartialState(cpu=True)  # accelerate's trackers ask it which process they are in
    run = folder.parent
    if name == "jsonl":
        return JsonLines(folder / FILE, step)
    if name == "tensorboard":
        return TensorBoardTracker(folder.name, run / "tensorboard", purge_step=step + 1)
    os.environ.setdefault("WANDB_SILENT", "true")
    where = run / "wandb"
    where.mkdir(parents=True, exist_ok=True)
    return WandBTracker(f"unet-vs-dit-{run.name}", name=label, id=folder.name[-8:], resume="allow", dir=str(where))


def _step_of(line: str) -> float:
    """Of a line; of one that was cut short, beyond all."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
