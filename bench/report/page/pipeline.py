"""What each contender's data pipeline makes of the training clips: pixels, the batches' room, subjects, losses by name."""

import math
from dataclasses import asdict
from typing import Any

import pandas as pd

from bench.data.frozen import flatten
from bench.data.policy.ledger import PIXELS, ROOM, SUBJECT
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.render.table import NONE, Table

FIELDS = {  # of a record's ledger -> as a reader knows it
    "num_clips": "clips",
    "num_items": "items made of them",
    "num_shapes": "shapes of the items",
    **{f"pixels.{kind}": f"pixels: {title}" for kind, title in PIXELS.items()},
    "frames_used": "frames used, of whatever window",
    "clips_used": "clips used",
    **{f"room.{kind}": f"batches: {title}" for kind, title in ROOM.items()},
    "steps_per_epoch": "steps an epoch",
    "stills": "steps that show still images",
    "stills_per_epoch": "still images an epoch",
    **SUBJECT,
}
COUNTS = ("num_clips", "num_items", "num_shapes", "steps_per_epoch", "stills_per_epoch")


def ledgers(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Contender -> the ledgers of its records, dotted fields, one a seed; contenders without one are there, empty."""
    cells = {name: [cell.record for cell in run.of(name) if cell.record] for name in run.contenders}
    found = {name: [flatten(asdict(record.ledger)) for record in records if record.ledger] for name, records in cells.items()}
    return found if any(found.values()) else {}


def tables(run: Run) -> list[Table]:
    """The ledger and the losses, where any record has one."""
    found = ledgers(run)
    return [table for table in (ledger_table(found), loss_table(found)) if table.rows] if found else []


def ledger_table(found: dict[str, list[dict[str, Any]]]) -> Table:
    """One line a field, one column a contender; a range where its seeds differ. Fields that are nothing everywhere are left out."""
    lines, data = [], []
    for key, title in FIELDS.items():
        series = {name: [value for ledger in each if (value := ledger.get(key)) is not None] for name, each in found.items()}
        if not any(any(values) for values in series.values()):
            continue
        lines.append((title, *(_text(key, values) for values in series.values())))
        data.append((key, *(most(values, default=None) for values in series.values() for most in (min, max))))
    columns = ["field", *(column for name in found for column in (name, f"{name} largest"))]
    caption = "What the data pipeline makes of the training clips; shares of pixels add up to 100 %, and so do those of the batches' room"
    header, raw = ("Of the training clips", *found), pd.DataFrame(data, columns=columns)
    return Table("ledger", caption, header, tuple(lines), data=raw)


def _text(key: str, values: list[float]) -> str:
    """A value, or its range over the seeds."""
    texts = []
    for value in sorted(values):
        whole = key in COUNTS and math.isfinite(value) and value == round(value)
        texts.append(metrics.count(value) if whole else metrics.number(value) if key in COUNTS else f"{metrics.number(100 * value)} %")
    return " to ".join(dict.fromkeys([*texts[:1], *texts[-1:]])) or NONE


def loss_table(found: dict[str, list[dict[str, Any]]]) -> Table:
    """Clips and buckets that are lost, by name, each line with the contenders that it is of."""
    users: dict[str, dict[str, None]] = {}
    for name, each in found.items():
        for ledger in each:
            for line in ledger["losses"]:
                users.setdefault(str(line), {})[name] = None
    lines = tuple((line, ", ".join(names)) for line, names in users.items())
    return Table("losses", "Clips and buckets that are never trained on", ("Lost", "Of"), lines)
