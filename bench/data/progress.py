"""Progress on the console: a bar on a terminal, a line every few seconds in a log. Knows no torch."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich import progress as bars
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Progress = Callable[[int, int, str], None]  # called as progress(done, total, what) by whatever takes long
Counted = Callable[[int, int], None]  # the same by what does not say what it counts: (done, total)
Say = Callable[[str], None]  # called with a line for the user

LOG_INTERVAL_S = 10.0


def silent(done: int, total: int, what: str) -> None:
    """A `Progress` that tells nobody."""


class Reporter:
    """Called as reporter(done, total, what) by whatever takes long; `what` changes with the work."""

    def __init__(self, label: str):
        self._label = label
        self._console = Console(file=sys.stderr, highlight=False)
        self._bar: bars.Progress | None = None
        self._task: TaskID | None = None
        self._total = -1
        self._logged_s = -LOG_INTERVAL_S
        if self._console.is_terminal:
            self._bar = bars.Progress(
                TextColumn("[bold]{task.fields[label]}[/] {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._bar is not None:
            if total != self._total:  # another piece of work
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task, self._total = self._bar.add_task(what, total=total, label=self._label), total
            assert self._task is not None
            self._bar.update(self._task, completed=done, description=what)
        elif done >= total or time.monotonic() - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = time.monotonic()
            print(f"{self._label}: {what} {done}/{total}", file=sys.stderr, flush=True)

    @contextmanager
    def live(self) -> Iterator["Reporter"]:
        """Show the bar while the block runs."""
        with self._bar or nullcontext():
            yield self
