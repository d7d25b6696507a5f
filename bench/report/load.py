"""A run's folder -> what a report speaks of: cells with their newest record, contenders, measurements. Reads, never repairs.

A cell without a record, with an unreadable one or with missing artefacts stays in the run, with the reason.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bench.backbone import short_name
from bench.data.files import StoreError
from bench.data.frozen import flatten
from bench.records.prediction import Foresight, read_prediction
from bench.records.record import FLOORS, Measurement, Record, RunCell, RunSnapshot
from bench.records.store import latest, read_run
from bench.report.render import words
from bench.report.verdicts.stats import MIN_SEEDS
from bench.shapes import Refusal
from bench.study.looks import Looks

SUBJECTS = ("trained", "untrained", "reconstruction", "real")
POLICY = "batching.policy"  # the axis whose values need no name beside them
REFERENCES = ("real", "reconstruction", *FLOORS)  # shared by all contenders: floors and ceilings
# Columns of a table of results: of a cell, then its axes, then of a measurement.
OF_CELL = ("matrix", "cell", "contender", "seed", "status", "reason", "failed_canaries")
FIELDS = ("subject", "value", "unit", "better", "low", "high", "interval", "floor", "protocol_fingerprint", "invalid")
COLUMNS = ["contender", "cell", "seed", "status", "name", *(name for name in FIELDS if name != "floor")]  # of `Run.measurements`


class CellResult(RunCell):
    """One cell of a run: a contender at a seed, and what became of it. Axes without the seed; its backbone, where there are none."""

    contender: str  # label of the axes
    path: Path  # the cell's folder
    record: Record | None
    aside: bool = False  # its backbone is shown at another value of an axis, where it is better (verdicts/best.py)
    status: str  # of the record; or "not run", "unreadable"
    reason: str | None

    def artefact(self, what: str) -> Path | None:
        """File of an artefact inside the cell's folder, None where the record names none or one outside."""
        name = self.record.artefacts.get(what) if self.record else None
        return self.path / name if name and Path(name).name == name else None


class Run(RunSnapshot):
    """One matrix as it was last run."""

    cells: tuple[CellResult, ...]
    prediction: Foresight | None = None  # what was said of held-out cells before they trained

    @cached_property
    def contenders(self) -> tuple[str, ...]:
        """Labels in the matrix's order, without those of further cells."""
        return tuple(dict.fromkeys(cell.contender for cell in self.cells if not (cell.further or cell.aside)))

    @property
    def labels(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(dict.fromkeys((*self.contenders, *self.further, *(cell.contender for cell in self.cells))))

    @cached_property
    def further(self) -> tuple[str, ...]:
        """Labels of what is compared pair by pair beside them."""
        return tuple(dict.fromkeys(cell.contender for cell in self.cells if cell.further))

    def of(self, contender: str) -> list[CellResult]:
        """Its cells, by seed."""
        return sorted((cell for cell in self.cells if cell.contender == contender), key=lambda cell: cell.seed)

    @cached_property
    def records(self) -> list[Record]:
        """All there are, in the matrix's order."""
        return [cell.record for cell in self.cells if cell.record]

    @property
    def watched(self) -> str:
        """Where those who watched it can look; "" where nobody did."""
        places = {
            "jsonl": "track.jsonl in the folder of each cell",
            "tensorboard": f"tensorboard --logdir results/{self.matrix}/tensorboard",
            "wandb": f"the project unet-vs-dit-{self.matrix} of Weights & Biases",
        }
        return f"How it went: {'; '.join(places.get(name, name) for name in self.track)}." if self.track else ""

    @cached_property
    def unfinished(self) -> str | None:
        """How many cells have no record, and why the first has none; None where all have one. What failed has one: it is a result."""
        missing = [cell for cell in self.cells if cell.record is None]
        if not missing:
            return None
        why = missing[0].reason if missing[0].status == "unreadable" else missing[0].status
        command = self.command or f"python -m bench run {self.matrix}"
        holes = f"{len(missing)} of {len(self.cells)} cells without a readable record (first {missing[0].name}: {why})"
        return f"{holes}; go on with `{command}`"

    def lines(self) -> Iterator[dict[str, Any]]:
        """One line a cell and measurement, of a cell without any one line: OF_CELL, axes, measurement, FIELDS. SI units, unrounded."""
        for cell in self.cells:
            failed = [canary.name for canary in cell.record.canaries if not canary.passed] if cell.record else []
            values = (self.matrix, cell.name, cell.contender, cell.seed, cell.status, cell.reason, ", ".join(failed) or None)
            of_cell = cell.axes | dict(zip(OF_CELL, values, strict=True))
            found = cell.record.measurements if cell.record else []
            for measurement in found:
                yield of_cell | {"measurement": measurement.name} | {field: _told(measurement, field) for field in FIELDS}
            if not found:
                yield of_cell

    @cached_property
    def words(self) -> list[str]:
        """Those of its command."""
        try:
            return shlex.split(self.command)
        except ValueError:  # quotes that somebody's edit left open
            return self.command.split()

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """The lines with a measurement; columns as in COLUMNS."""
        return pd.DataFrame([line | {"name": line["measurement"]} for line in self.lines() if "measurement" in line], columns=COLUMNS)

    @cached_property
    def changed(self) -> str:
        """What cells were added or taken away after others had finished, in a clause; "" where none were."""
        if self.tunes:  # trials test nothing
            return ""
        now = {cell.path.name for cell in self.cells}
        added, gone = set[str](), set[str]()
        for then, looks in self._asked:
            known = {cell.contender for cell in self.cells if cell.path.name in then}
            by_rule = {cell.path.name for cell in self.cells if cell.contender in known} if looks and looks == self.looks else set()
            added |= now - then - by_rule
            gone |= then - now
        parts = [f"{len(names)} {word}" for names, word in ((added, "added"), (gone, "removed")) if names]
        return f"cells changed after others had finished ({', '.join(parts)})" if parts else ""

    @cached_property
    def looks(self) -> Looks | None:
        """What adds its seeds, as the newest run of it asked, or else any of its records: no fixed one makes it a fixed study again."""
        return self.until_decided or max(filter(None, (looks for _, looks in self._asked)), key=lambda looks: looks.most, default=None)

    @cached_property
    def extensions(self) -> int:
        """How often it was asked for fewer seeds, fixed or by other looks and enough for a claim, before it was asked for those it has."""
        before = set[object]()
        for then, looks in self._asked:
            seeds = [(sum(cell.path.name in then for cell in self.of(name)), len(self.of(name))) for name in self.contenders]
            fewest = min((asked for asked, _ in seeds if asked), default=0)
            if (looks is None or looks != self.looks) and fewest >= MIN_SEEDS and any(0 < asked < there for asked, there in seeds):
                before.add(looks or tuple(seeds))
        return len(before)

    @cached_property
    def _asked(self) -> set[tuple[frozenset[str], Looks | None]]:
        """What the runs that made its records asked: (folders of all cells, looks)."""
        return {(frozenset(record.asked.cells), record.asked.until_decided) for record in self.records if record.asked.cells}

    @cached_property
    def untrusted(self) -> dict[str, list[str]]:
        """Contender -> names of the canaries that failed in its cells, where any did."""
        canaries = {name: [c for cell in self.of(name) if cell.record for c in cell.record.canaries] for name in self.labels}
        failed = {name: list(dict.fromkeys(c.name for c in own if not c.passed)) for name, own in canaries.items()}
        return {name: names for name, names in failed.items() if names}

    def missing(self, contender: str, name: str, subject: str = "trained") -> str | None:
        """Why some of a contender's seeds have no finite value of a measurement; None where all have one."""
        reasons: dict[str, list[str]] = {}  # why -> seeds
        for cell in self.of(contender):
            measurement = cell.record.measurement(name, subject) if cell.record else None
            if measurement is None or not math.isfinite(measurement.value):
                why = "not measured" if measurement is None else "not finite"
                reasons.setdefault(why if cell.status == "ok" else cell.status, []).append(str(cell.seed))
            elif measurement.invalid is not None:
                reasons.setdefault(f"not valid: {measurement.invalid}", []).append(str(cell.seed))
        return ", ".join(f"seed{'s' if len(seeds) > 1 else ''} {words.listed(seeds)} {why}" for why, seeds in reasons.items()) or None


def _told(measurement: Measurement, field: str) -> Any:
    """A field of a measurement; of an interval without an end, none."""
    value = getattr(measurement, field)
    return None if field in ("low", "high") and value is not None and not math.isfinite(value) else value


def load_run(folder: Path) -> Run:
    """The run in `results/<matrix>/`. StoreError where there is no readable `run.json`, or a prediction that was edited."""
    snapshot, found = read_run(folder), []
    for listed in snapshot.cells:
        path = folder / Path(listed.folder).name  # never outside the run's
        try:
            record = latest(path)
            status, reason = (record.status, record.reason) if record else ("not run", "no attempt is stored")
        except StoreError as error:
            record, status, reason = None, "unreadable", str(error).replace(f"{folder}/", "")
        axes = {key: value for key, value in listed.axes.items() if key != "seed"}
        axes = axes or {"backbone": record.cell.backbone if record else listed.name}
        found.append(dict(listed) | {"axes": axes, "path": path, "record": record, "status": status, "reason": reason})
    labels = contender_labels([fields["axes"] for fields in found])
    cells = [CellResult(contender=label, **fields) for label, fields in zip(labels, found, strict=True)]
    prediction = read_prediction(folder) if snapshot.forecast is not None else None
    return Run.model_validate(dict(snapshot) | {"cells": cells, "prediction": prediction})


def load_runs(folders: str | Path | Sequence[str | Path]) -> dict[Path, Run]:
    """The run in a folder, or the runs in several. StoreError for a folder without one, Refusal for none."""
    paths = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    if not paths:
        raise Refusal("at least one run's folder is needed, got none; name one, such as results/quick")
    return {path: load_run(path) for path in paths}


def results(folders: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """What a run's folder, or several, hold: a tidy table, one row a cell and measurement, of all subjects, SI units, unrounded.

    Columns: the folder as `run`, OF_CELL, the axes of the matrix by their dotted names, measurement, FIELDS. A cell without any measurement
    is one row. StoreError for a folder without a run or without any record.
    """
    runs = load_runs(folders)
    if empty := [f"no record in {folder}: {run.unfinished}" for folder, run in runs.items() if not run.records]:
        raise StoreError(*empty)
    axes = dict.fromkeys(axis for run in runs.values() for cell in run.cells for axis in cell.axes)
    rows = [{"run": str(folder), **line} for folder, run in runs.items() for line in run.lines()]
    return pd.DataFrame(rows, columns=["run", *OF_CELL, *axes, "measurement", *FIELDS])


def contender_labels(all_axes: list[dict[str, Any]]) -> list[str]:
    """A short label for each cell's axes; equal axes, equal label; different axes, different labels.

    >>> contender_labels([{"backbone": "a:XS"}, {"backbone": "b:XS"}, {"backbone": "b:S", POLICY: "crop", "sampler.num_steps": 4}])
    ['a:XS', 'b:XS', 'S crop, num_steps 4']
    >>> contender_labels([{"backbone": "a:XS", "budget.train_flops": 1547000000000.0}, {"backbone": "a:XS", "budget.seconds": 80.0}])
    ['XS, 1.547 TFLOP', 'XS, seconds 80']
    """
    backbones = {str(axes.get("backbone")) for axes in all_axes}
    short = {name: short_name(name) for name in backbones}
    unique = {name: cut if list(short.values()).count(cut) == 1 else name for name, cut in short.items()}
    labels = []
    for axes in all_axes:
        words = [unique[str(axes["backbone"])]] if "backbone" in axes else []
        words += [str(axes[POLICY])] if POLICY in axes else []
        others = [_word(key.rpartition(".")[2], value) for key, value in axes.items() if key not in ("backbone", POLICY)]
        labels.append(", ".join([" ".join(words), *others] if words else others))
    return labels


def _word(field: str, value: Any) -> str:
    """A field and its value; a number in the shortest form that says all of it."""
    if field == "train_flops" and isinstance(value, float):
        return f"{value / 1e12:.15g} TFLOP"
    return f"{field} {value:g}" if isinstance(value, float) and float(f"{value:g}") == value else f"{field} {value}"


def config_fields(run: Run) -> tuple[list[tuple[str, Any]], list[tuple[str, dict[str, Any]]]]:
    """Dotted fields of the cells, the seed left out: (field, value) where all contenders agree, (field, contender -> value) where not."""
    flat: dict[str, dict[str, Any]] = {}
    for cell in sorted(run.cells, key=lambda cell: cell.seed, reverse=True):
        if cell.record:
            flat[cell.contender] = flatten(cell.record.cell.model_dump(mode="json"))
    contenders = [name for name in run.contenders if name in flat]
    shared, differing = [], []
    for key in sorted({key for fields in flat.values() for key in fields} - {"seed"}):
        values = {name: flat[name].get(key) for name in contenders}
        first = values[contenders[0]]
        if all(value == first for value in values.values()):
            shared.append((key, first))
        else:
            differing.append((key, values))
    return shared, differing
