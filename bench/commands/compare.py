"""The command `compare`: two runs or two scores side by side, as Markdown. Knows no torch."""

from itertools import groupby
from pathlib import Path

from bench.commands.score import page
from bench.commands.score.record import read_score
from bench.records.store import RUN
from bench.report.load import Run, load_run
from bench.report.page.tables import ARROWS, interval_text
from bench.report.render.catalogue import DASH, commit_text
from bench.report.render.markdown import markdown, markdown_table
from bench.report.verdicts.claims import ALPHA
from bench.report.verdicts.compare import Entry, MeasureRow
from bench.report.verdicts.history import SIDES, Change, history

HEADER = ("measurement", *SIDES, "B less A [95 %]", "B is", "why")


def comparison(first: Path, second: Path) -> str:
    """Two folders of runs, or two scores. StoreError for what is neither, Refusal for what does not compare."""
    if any((path / RUN).is_file() for path in (first, second)):
        return runs_side_by_side((first, second), (load_run(first), load_run(second)))
    return page.comparison(read_score(first), read_score(second))


def runs_side_by_side(folders: tuple[Path, Path], runs: tuple[Run, Run]) -> str:
    """A table for each contender, then what only one run has."""
    found = history(*runs)
    parts = [
        "\n".join(_side(side, folder, run) for side, folder, run in zip(SIDES, folders, runs, strict=True)),
        f"Means over seeds with 95 % intervals. B is better or worse where Welch's test over the seeds says so, corrected for the number "
        f"of tests in all tables (Holm), below {ALPHA:g}; counts are exact.",
    ]
    for contender, changes in groupby(found.changes, key=lambda change: change.contender):
        parts += [f"## {markdown(contender)}", markdown_table(HEADER, map(_line, changes))]
    parts += ["\n".join(f"- {markdown(note)}" for note in found.notes)] if found.notes else []
    return "\n\n".join(parts) + "\n"


def _side(side: str, folder: Path, run: Run) -> str:
    """Where a run is, when it began, its commits and machines."""
    commits = dict.fromkeys(commit_text(commit) for record in run.records for commit in record.commits)
    machines = dict.fromkeys(f"{record.environment.cpu}, {record.environment.device or 'cpu'}" for record in run.records)
    told = f"{folder}, {run.started_at}, commit {' and '.join(commits) or 'unknown'}, on {' and '.join(machines)}"
    return f"- {side}: {markdown(told)}"


def _line(change: Change) -> list[str]:
    """One measurement."""
    row, difference = change.row, change.difference
    apart = f"{row.signed(difference.value)} {row.signed_bounds(difference)}".rstrip() if difference else DASH
    standing = f"**{change.standing}**" if change.verdict.carried else change.standing
    values = [_value(row, entry) for entry in change.entries]
    return [markdown(f"{row.titled()} {ARROWS[row.better]}".rstrip()), *values, apart, standing, markdown(change.verdict.reason)]


def _value(row: MeasureRow, entry: Entry) -> str:
    return f"{row.text(entry.interval.mean)} {interval_text(row, entry)}".rstrip() if entry.interval else DASH
