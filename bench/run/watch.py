"""Who is to blame where a job ends without a word or takes too long: what the job is at, told to the process that started it.

The two share a file that has no name. In it is a line of JSON and, behind it, where in the code the job was when its time was up.
Knows no torch.
"""

import contextlib
import faulthandler
import json
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from bench.data.frozen import Frozen

Word = Literal["", "done", "refused", "stopped", "lost"]  # how a job says it ended; "": it said nothing; lost: nobody knows of it


class Ended(Frozen):
    """How the process of a job ended, and what it was at."""

    code: int = 0  # exit status; below 0 the signal that ended it
    word: Word = ""
    cells: tuple[str, ...] = ()  # that it was at, where it said nothing
    what: str = "its process"  # of them
    limit_s: float = 0.0  # that this may take
    timed_out: bool = False
    where: str = ""  # in the code it was when the time was up

    @property
    def reason(self) -> str:
        """The end of a process that said nothing itself, or nothing here."""
        if self.word == "lost":
            return self.what
        if self.word == "refused":
            own = self.what != Ended.model_fields["what"].default  # a launcher's, that has no line yet
            return self.what if own else f"{self.what} ended on bad input or a full disk; the line it printed says which"
        if self.timed_out:
            return f"{self.what} ran over timeout_s = {self.limit_s:g}"
        if self.code >= 0:
            early = " before it was done (a plug-in that exits?)" if not self.code else "; what it printed says why"
            return f"{self.what} ended with status {self.code}{early}"
        name = {int(each): each.name for each in signal.Signals}.get(-self.code, str(-self.code))  # real-time ones have none
        hint = {"SIGKILL": " (out of memory?)", "SIGBUS": " (disk full?)"}.get(name, "")
        return f"{self.what} was ended by signal {name}{hint}"


class Watch:
    """The side of the job. Without a file nobody asks, and nothing is limited."""

    def __init__(self, file: IO[str] | None = None):
        self._file = file

    @contextlib.contextmanager
    def over(self, cells: Sequence[str], what: str, limit_s: float) -> Iterator[None]:
        """While the block runs, these cells are to blame; the process ends, whatever it is at, where it takes longer than `limit_s`."""
        self._write(cells=cells, what=what, limit_s=limit_s)
        if self._file is not None:
            faulthandler.dump_traceback_later(limit_s, exit=True, file=self._file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        self._write()

    def end(self, word: Word) -> None:
        """The job's last word: its exit status is then its own and not that of a plug-in which exits."""
        self._write(word=word)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, **content: Any) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(content) + "\n")
            self._file.flush()


def watched() -> IO[str]:
    """The file that the two share; its number is handed to the job."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def the_end(code: int, file: IO[str]) -> Ended:
    """How a job ended, by its exit status and by what it said in the file."""
    file.seek(0)
    line, _, where = file.read().partition("\n")
    return Ended(code=code, timed_out=where.startswith("Timeout"), where=where, **json.loads(line or "{}"))


def opened(file: str) -> Watch:
    """The side of the job on the file of that number, or path."""
    return Watch(os.fdopen(int(file), "w", encoding="utf-8") if file.isdecimal() else Path(file).open("w", encoding="utf-8"))
