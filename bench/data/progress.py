"""Progress on the console: a bar on a terminal, a line every few seconds in a log. Knows no torch."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from bench.shapes import visible

Progress = Callable[[int, int, str], None]  # called as progress(done, total, what) by whatever takes long
Counted = Callable[[int, int], None]  # the same by what does not say what it counts: (done, total)
Say = Callable[[str], None]  # called with a line for the user

LOG_INTERVAL_S = 10.0


def say(line: str) -> None:
    """A `Say` on standard output, whatever the line holds."""
    print(visible(line), flush=True)


def silent(done: int, total: int, what: str) -> None:
    """A `Progress` that tells nobody."""


class Reporter:
    """Called as reporter(done, total, what) by whatever takes long; `what` changes with the work."""

    def __init__(self, label: str, interval_s: float = LOG_INTERVAL_S):
        """`interval_s`: between two lines of a log, at least."""
        from rich import progress as bars  # not with this file, which everything imports
        from rich.console import Console
        from rich.markup import escape

        self._label, self._escape = label, escape  # names may hold square brackets
        self._bar: Any = None  # of a terminal
        self._task: Any = None
        self._total = -1
        self._interval_s, self._logged_s = interval_s, -interval_s
        console = Console(file=sys.stderr, highlight=False)
        if console.is_terminal:
            text = bars.TextColumn("[bold]{task.fields[label]}[/] {task.description}")
            columns = (bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
            self._bar = bars.Progress(text, *columns, console=console, transient=True)

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._bar is not None:
            if total != self._total:  # another piece of work
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task, self._total = self._bar.add_task("", total=total, label=self._escape(self._label)), total
            self._bar.update(self._task, completed=done, description=self._escape(what))
        elif done >= total or time.monotonic() - self._logged_s >= self._interval_s:
            self._logged_s = time.monotonic()
            print(f"{self._label}: {what} {done}/{total}", file=sys.stderr, flush=True)

    @contextmanager
    def live(self) -> Iterator["Reporter"]:
        """Show the bar while the block runs."""
        with self._bar or nullcontext():
            yield self
