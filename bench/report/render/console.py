"""The end of a run on the console: one line a cell with what matters most. The report has the rest."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.records.record import Measurement, Record
from bench.report.render import catalogue as metrics
from bench.shapes import visible

# Columns, where any record has one: the first distance, then these under short names, to fit 80 characters.
SHOWN = {
    "val_loss": "val loss",
    "train_clips_per_s": "train",
    "sample_clips_per_s": "sample",
    "peak_storage_bytes": "storage",
    "peak_allocated_bytes": "allocated",
}
STYLES = {"ok": "green", "oom": "red", "diverged": "red", "failed": "red", "timeout": "yellow"}


def rich_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], most_width: int | None = None) -> Table:
    """A table as it is, numbers to the right, each column of them at most so wide; no text becomes markup."""
    drawn = Table(title=_shown(title), title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(header):
        drawn.add_column(_shown(name), justify="right" if place else "left", overflow="fold", max_width=most_width if place else None)
    for row in rows:
        drawn.add_row(*map(_shown, row))
    return drawn


def _shown(text: str) -> str:
    """Anybody's text as rich draws it, neither markup nor control."""
    return escape(visible(text))


def summary(records: Iterable[Record]) -> Table:
    """Cells as lines with their status and, where a canary failed, its name."""
    records = list(records)
    names = {m.name: m for record in records for m in record.measurements if m.subject == "trained"}
    distances = sorted((name for name in names if metrics.find(name).distance), key=metrics.rank)
    columns = [*distances[:1], *(name for name in SHOWN if name in names)]
    scales = {}
    for name in columns:
        found = [m for record in records if (m := record.measurement(name))]
        scales[name] = metrics.scale_of(metrics.find(name), max(abs(m.value) for m in found), found[0].unit)

    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("cell", overflow="fold", min_width=12)
    table.add_column("status", overflow="fold", min_width=6)
    for name in columns:
        arrow = {"lower": "↓ ", "higher": "↑ "}.get(names[name].better, "")
        unit = scales[name][1]
        table.add_column(Text(f"{visible(SHOWN.get(name, name))}\n{arrow}{unit}"), justify="right", no_wrap=True)
    for record in records:
        failed = [canary.name for canary in record.canaries if not canary.passed]
        status = Text(record.status, style=STYLES.get(record.status, ""))
        if failed:
            status.append(f"\ncanary failed: {', '.join(map(visible, failed))}", style="bold red")
        values = [record.measurement(name) for name in columns]
        shown = [_value(m, scales[name][0]) for name, m in zip(columns, values, strict=True)]
        table.add_row(Text(visible(record.name)), status, *(Text(text) for text in shown))
    return table


def _value(measurement: Measurement | None, divisor: float) -> str:
    if measurement is None:
        return metrics.DASH
    return metrics.number(measurement.value / divisor, 4 if metrics.find(measurement.name).exact else 3)
