"""The end of a run on the console: one line a cell with what matters most. The report has the rest."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from bench.report import metrics
from bench.store import Measurement, Record

# Columns, where any record has one: the first distance, then these.
SHOWN = ("val_loss", "train_clips_per_s", "sample_clips_per_s", "peak_storage_bytes", "peak_allocated_bytes", "num_params")
STYLES = {"ok": "green", "oom": "red", "diverged": "red", "failed": "red", "timeout": "yellow", "interrupted": "yellow"}


def summary(records: Iterable[Record]) -> Table:
    """Cells as lines; failed ones with their reason, a failed canary flagged."""
    records = list(records)
    names = {m.name: m for record in records for m in record.measurements if m.subject == "trained"}
    distances = sorted((name for name in names if metrics.find(name).distance), key=metrics.rank)
    columns = [*distances[:1], *(name for name in SHOWN if name in names)]
    scales = {name: _scale(records, name) for name in columns}

    table = Table(header_style="bold", pad_edge=False)
    table.add_column("cell", overflow="fold")
    table.add_column("status")
    for name in columns:
        arrow = {"lower": " ↓", "higher": " ↑"}.get(names[name].better, "")
        unit = scales[name][1]
        table.add_column(Text(f"{name}{arrow}\n{unit}"), justify="right", overflow="fold")
    for record in records:
        failed = [canary.name for canary in record.canaries if not canary.passed]
        status = Text(record.status, style=STYLES.get(record.status, ""))
        if failed:
            status.append(f"\ncanary failed: {', '.join(failed)}", style="bold red")
        values = [record.measurement(name) for name in columns]
        shown = [_value(m, scales[name][0]) for name, m in zip(columns, values, strict=True)]
        table.add_row(Text(record.name), status, *(Text(text) for text in shown))
    reasons = [(record.name, f"{record.status}: {record.reason}") for record in records if record.reason and record.status != "ok"]
    if reasons:
        table.caption = Text("\n".join(f"{name} {reason}" for name, reason in reasons), style="default", justify="left")
    return table


def _scale(records: list[Record], name: str) -> tuple[float, str]:
    found = [m for record in records if (m := record.measurement(name))]
    return metrics.scale_of(metrics.find(name), max(abs(m.value) for m in found), found[0].unit)


def _value(measurement: Measurement | None, divisor: float) -> str:
    if measurement is None:
        return metrics.DASH
    return metrics.number(measurement.value / divisor, 4 if metrics.find(measurement.name).exact else 3)
