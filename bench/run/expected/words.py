"""The expected time in words, rounded as people say it. Knows no torch."""

from bench.run.expected.model import CellTime, Expected

MOST_LINES = 40  # of contenders


def about(seconds: float) -> str:
    """A time in words, rounded as its estimate deserves.

    >>> about(3), about(72), about(135), about(700), about(5400), about(200000)
    ('5 s', '1 min 10 s', '2 min 20 s', '12 min', '1 h 30 min', '2.3 days')
    """
    if seconds < 60:
        return f"{max(5, 5 * round(seconds / 5))} s" if seconds < 57.5 else "1 min"
    if seconds < 595:
        minutes, rest = divmod(10 * round(seconds / 10), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if seconds < 3570:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3600 - 300:
        hours, minutes = divmod(10 * round(seconds / 600), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{seconds / 86400:.1f} days"


def lines(expected: list[Expected]) -> list[str]:
    """What a study is expected to take: its cells, contender by contender, and the whole."""
    said = []
    for run in expected:
        said += _of_cells(run)
        said += [f"  {name}: not known: its steps could not be timed" for name in run.unknown[:MOST_LINES]]
        said.append(_of_run(run))
    if len(expected) > 1:
        said.append(f"about {about(sum(run.seconds for run in expected))} in all")
    return said


def _of_cells(run: Expected) -> list[str]:
    """'  UNet-XS: about 2 min 10 s (seed 0), 2 min (seeds 1, 2)', a line for cells that differ in their seed, or as trials, alone."""
    contenders: dict[str, dict[str, list[CellTime]]] = {}
    for cell in run.cells:
        if not cell.finished and cell.phases_s is not None:
            contenders.setdefault(_contender(run, cell), {}).setdefault(about(cell.seconds), []).append(cell)
    said = []
    for name, times in list(contenders.items())[:MOST_LINES]:
        told = ", ".join(f"{time} ({_which(run, cells)})" for time, cells in times.items())
        said.append(f"  {name}: about {told}")
    if len(contenders) > MOST_LINES:
        said.append(f"  ... and {len(contenders) - MOST_LINES} more contenders")
    return said


def _contender(run: Expected, cell: CellTime) -> str:
    """A cell's name without what its line is over."""
    name = cell.named.name.removesuffix(f"-seed{cell.named.cell.seed}")
    for field in run.trial_fields:
        name = name.replace(f"-{field.rpartition('.')[2]}={cell.named.axes[field]}", "")
    return name


def _which(run: Expected, cells: list[CellTime]) -> str:
    if run.trial_fields:
        return f"{len(cells)} {'trial' if len(cells) == 1 else 'trials'}"
    return f"{'seed' if len(cells) == 1 else 'seeds'} {', '.join(str(cell.named.cell.seed) for cell in cells)}"


def _of_run(run: Expected) -> str:
    """'quick: 6 cells, about 12 min, of which 1 min is shared stages; 2 finished before'."""
    waiting = [cell for cell in run.cells if not cell.finished]
    finished = len(run.cells) - len(waiting)
    text = f"{run.run}: {len(waiting)} {'cell' if len(waiting) == 1 else 'cells'} to run, "
    if not waiting:
        return f"{run.run}: all {finished} cells finished before"
    text += f"{'at least' if run.unknown else 'about'} {about(run.seconds)}, of which {about(run.shared_s)} for what cells share"
    return text + (f"; {finished} finished before" if finished else "")
