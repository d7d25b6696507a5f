"""What the cells were made from, as their records tell: the clips, every file that gave none, and what is in no split. Knows no matrix."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from bench.records.record import DataFacts, Record
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.render.table import Table

LEFT_OUT = "left-out"
Thing = TypeVar("Thing")


def tables(run: Run) -> list[Table]:
    """The clips, the files left out and what is in no split; without rows where no record tells."""
    return [clip_table(run), left_out_table(run), unused_table(run)]


def clip_table(run: Run) -> Table:
    """One line for each set of clips that any cell was made from."""
    facts = {record.data.digest: record.data for record in run.records if record.data}
    places: dict[str, dict[str, None]] = {digest: {} for digest in facts}
    for record in run.records:
        if record.data:
            places[record.data.digest][_place(record)] = None
    users = _users(run, lambda data: [data.digest])
    lines = tuple(
        (", ".join(places[digest]), _counts(data), f"{data.fps:g}", "; ".join(data.notes), users[digest]) for digest, data in facts.items()
    )
    header = ("Clips of", "In each split", "Frames per second", "How they were made", "Of")
    return Table("data", "What the cells were made from", header, lines)


def left_out_table(run: Run) -> Table:
    """Files that gave no clip, each with its reason."""
    users = _users(run, lambda data: [(entry.name, entry.reason) for entry in data.skipped])
    lines = tuple((name, reason, of) for (name, reason), of in sorted(users.items()))
    return Table(LEFT_OUT, "These files are in no clip", ("File left out", "Why", "Of"), lines)


def unused_table(run: Run) -> Table:
    """What could be read and is in no split."""
    users = _users(run, lambda data: list(data.lost.items()))
    lines = tuple((reason, metrics.count(num), of) for (reason, num), of in users.items())
    return Table("unused", "What could be read and is in no split", ("In no split", "How many", "Of"), lines)


def described(run: Run) -> str:
    """What the matrix says of itself, in its own words, and what this run changed: nothing that was read from the data."""
    if not run.description:
        return ""
    changes = [word for word in run.words if "=" in word and not word.startswith("-")]
    return f"The matrix says of itself: “{run.description}”" + (f" Changed in this run: {', '.join(changes)}." if changes else "")


def _place(record: Record) -> str:
    """'folder videos/cats', 'worlds'."""
    data = record.cell.data
    place = getattr(data, "path", None) or getattr(data, "root", None)
    return data.source if place is None else f"{data.source} {place}"


def _counts(data: DataFacts) -> str:
    return ", ".join(f"{num} {split}" for split, num in data.num_clips.items())


def _users(run: Run, things: Callable[[DataFacts], Iterable[Thing]]) -> Mapping[Thing, str]:
    """Thing of a cell's data -> the contenders whose cells have it, or "all"."""
    found: dict[Thing, dict[str, None]] = {}
    told: dict[str, None] = {}
    for cell in run.cells:
        if cell.record and cell.record.data:
            told[cell.contender] = None
            for thing in things(cell.record.data):
                found.setdefault(thing, {})[cell.contender] = None
    return {thing: "all" if users.keys() == told.keys() else ", ".join(users) for thing, users in found.items()}
