"""Earlier records of a results folder: what is finished, and which tell how long a cell takes on this machine. Knows no torch.

Records hold every step of their training, so only the beginning of each is read, and whole ones only where they tell something.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.data.files import StoreError
from bench.records.environment import Environment, read_environment
from bench.records.record import FINAL, Record
from bench.records.store import newest, read_record
from bench.run.expected.pace import Pace, merged, of_record, work_of
from bench.study.cell import Cell
from bench.study.matrix import NamedCell

HEAD = 2**18  # characters at the beginning of a record, its cell and status among them
MOST_READ = 4  # records that are read for the paces of one cell
FOLDERS = ("*/*/", "reference/*/*/")  # of cells, in a results folder
_STATUS = re.compile(r'\n "status": "(\w+)"')


@dataclass(frozen=True)
class EarlierCell:
    """The newest attempt at a cell."""

    path: Path
    cell: dict[str, Any]  # as JSON has it
    is_final: bool


class Earlier:
    """All that is in a results folder."""

    def __init__(self, results: Path, *, spins: bool = False):
        paths = [path for pattern in FOLDERS for folder in results.glob(pattern) if (path := newest(folder)) is not None]
        self.results = results
        self.found = [found for path in paths if (found := _read_head(path)) is not None]
        self.by_work: dict[str, list[EarlierCell]] = {}
        self.finished: dict[Path, EarlierCell] = {}  # by folder
        for found in self.found:
            self.by_work.setdefault(work_of(found.cell), []).append(found)
            if found.is_final:
                self.finished[found.path.parent] = found
        self.here = read_environment().model_copy(update={"spins": spins})

    def is_finished(self, run: str, named: NamedCell, tuned: tuple[str, ...] = ()) -> bool:
        """Whether a cell of a run has its result; fields that have yet to be `tuned` may be any."""
        folder = self.results / run
        if not tuned:
            return folder / named.folder in self.finished
        wanted = _without(named.cell.model_dump(mode="json"), tuned)
        return any(place.parent == folder and _without(found.cell, tuned) == wanted for place, found in self.finished.items())

    def has_features(self, cell: Cell) -> bool:
        """Whether a cell that is judged against the same clips was run here, which leaves their features in the cache."""
        wanted = cell.model_dump(mode="json")
        judged = ("data", "autoencoder", "evaluation.num_samples", "evaluation.extractors")
        own = [found.cell for found in self.found if found.path.parents[2] == self.results]
        return any(all(_at(other, name) == _at(wanted, name) for name in judged) for other in own)

    def pace(self, cell: Cell) -> Pace:
        """What finished records of the same work say: first those of the same budget and extractors, then the newest."""
        wanted = cell.model_dump(mode="json")

        def nearness(found: EarlierCell) -> tuple[bool, bool, float]:
            return (
                _at(found.cell, "evaluation.extractors") == wanted["evaluation"]["extractors"],
                _at(found.cell, "budget") == wanted["budget"],
                found.path.stat().st_mtime,
            )

        candidates = [found for found in self.by_work.get(work_of(wanted), []) if found.is_final]
        paces = []
        for found in sorted(candidates, key=nearness, reverse=True)[:MOST_READ]:
            try:
                record = read_record(found.path)
            except StoreError:  # damaged, or of another version
                continue
            if record.status == "ok" and same_machine(record, self.here):
                paces.append(of_record(record, quality=record.cell.evaluation.extractors == cell.evaluation.extractors))
        return merged(paces)


def same_machine(record: Record, here: Environment) -> bool:
    """Whether a record was made on a machine of this kind, with as many threads as torch would have now, that wait as they will."""
    there = record.environment
    if bool(there.spins) != bool(here.spins):  # those of older records did not spin
        return False
    if any(getattr(there, name) != getattr(here, name) for name in ("machine", "cpu", "cpu_id", "num_cpus", "gpus")):
        return False
    asked = os.environ.get("OMP_NUM_THREADS", "")
    usual = {here.num_cpus, psutil.cpu_count(logical=False) or here.num_cpus}
    return there.num_threads in ({int(asked)} if asked.isdecimal() else usual)


def _read_head(path: Path) -> EarlierCell | None:
    """None for what is no record."""
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with path.open(encoding="utf-8") as file:
            head = file.read(HEAD)
        cell, end = json.JSONDecoder().raw_decode(head, head.index('"cell": {') + len('"cell": '))
        work_of(cell)
        status = _STATUS.search(head, end)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):  # anybody may have written it
        return None
    return EarlierCell(path, cell, status is not None and status[1] in FINAL)


def _at(cell: Any, name: str) -> Any:
    """The value of a dotted field; None where there is none."""
    for key in name.split("."):
        cell = cell.get(key) if isinstance(cell, dict) else None
    return cell


def _without(cell: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """A cell without some dotted fields."""
    left = {}
    for key, value in cell.items():
        if key not in names:
            below = tuple(name.partition(".")[2] for name in names if name.startswith(f"{key}."))
            left[key] = _without(value, below) if isinstance(value, dict) else value
    return left
