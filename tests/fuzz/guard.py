"""What is watched while an input is tried: time, memory, what is written where, what is run, and how it ends."""

import contextlib
import io
import os
import resource
import shutil
import signal
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.shapes import Refusal, lines_of
from tests.fuzz.case import Case, Domain, Finding, outside

LIMIT_S = 15.0  # of one input; the slowest takes a second on an idle machine
ALLOCATION = 3 * 2**29  # bytes of address space that an input may take beyond what the process has
LONGEST_LINE = 4000  # letters of a refusal
UNSEEN = "\u202a\u202b\u202c\u202d\u202e"  # they turn the direction of writing
ROOT = Path(__file__).parents[2]

Ending = Literal["accepted", "refused", "finding"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an input ended."""

    ending: Ending
    cause: str = ""  # of a finding: what all of its kind share
    detail: str = ""


class TooLong(BaseException):
    """The limit of time is reached. No `except Exception` may hold it."""


def judged(domain: Domain, case: Case, folder: Path) -> Outcome:
    """Try a case in `folder`, which is made and removed."""
    folder.mkdir(parents=True)
    beside = outside(folder)
    try:
        with _silence(), _watched(folder) as broken, _limited_memory(), _within(LIMIT_S):
            try:
                domain.attempt(case, folder)
                ended = Outcome(ending="accepted")
            except (Refusal, OSError) as error:
                ended = _refused(error)
        if broken:
            return Outcome(ending="finding", cause=broken[0].partition("\n")[0], detail=broken[0])
        if beside.read_text() != "not to be touched":
            return Outcome(ending="finding", cause="wrote through a link", detail=str(beside))
        return ended
    except Finding as finding:
        return Outcome(ending="finding", cause=str(finding.args[0]), detail="\n".join(map(str, finding.args)))
    except TooLong as error:
        return Outcome(ending="finding", cause=f"hang in {_where(error)}", detail=traceback.format_exc())
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  whatever else comes is what we look for
        return Outcome(ending="finding", cause=f"{type(error).__name__} in {_where(error)}", detail=traceback.format_exc()[-6000:])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        beside.unlink(missing_ok=True)


def _refused(error: Exception) -> Outcome:
    """A refusal is lines that can be printed and read."""
    for line in lines_of(error):
        if not line:
            return Outcome(ending="finding", cause=f"empty line from {_where(error)}", detail=repr(error))
        if any(letter in UNSEEN or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in line):
            return Outcome(ending="finding", cause=f"unprintable line from {_where(error)}", detail=repr(error))
        if len(line) > LONGEST_LINE:
            return Outcome(ending="finding", cause=f"a line without end from {_where(error)}", detail=line[:LONGEST_LINE])
    return Outcome(ending="refused", detail=lines_of(error)[0])


def _where(error: BaseException) -> str:
    """The innermost function of the suite that an error came through."""
    return _suite_function(traceback.extract_tb(error.__traceback__))


def _suite_function(stack: traceback.StackSummary) -> str:
    frames = [frame for frame in stack if Path(frame.filename).is_relative_to(ROOT) and frame.filename != __file__]
    ours = [frame for frame in frames if "/tests/" not in frame.filename] or frames
    return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].name}" if ours else "?"


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Inside, this process can take ALLOCATION more and not a byte else: what asks for it gets a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ALLOCATION, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def _within(limit_s: float) -> Iterator[None]:
    def over(signum: int, frame: Any) -> None:
        raise TooLong(f"over {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# What Python reports of itself: of a file that is opened the path, the mode and the flags; of a file that is moved or removed its paths.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.rmtree")
RUNS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class", "socket.connect", "os.fork")
_watching: list[tuple[str, list[str]]] = []  # (folder, what was broken) of the case that is tried


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[list[str]]:
    """Inside, everything that is written outside `folder` or run is noted."""
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    broken: list[str] = []
    _watching.append((str(folder.resolve()) + "/", broken))
    try:
        yield broken
    finally:
        _watching.pop()


_hooked: list[bool] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        path, _, flags = arguments
        follows = not flags & (os.O_NOFOLLOW | os.O_EXCL)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            _note("wrote-outside", path, follows)
    elif event in CHANGES:
        changed = {"os.rename": arguments[:2], "os.link": arguments[1:2], "os.symlink": arguments[1:2]}.get(event, arguments[:1])
        for path in changed:
            if isinstance(path, str | bytes | os.PathLike) and Path(os.fsdecode(path)).is_absolute():  # else beside one that was seen
                _note("changed-outside", path, False)
    elif event in RUNS and arguments[0] != sys.executable:  # a process of ours finds out whether a module can be imported
        _watching[-1][1].append(f"ran {event}\n{arguments!r}"[:500])


def _note(what: str, path: Any, follows: bool) -> None:
    """Remember a path that leads out of the folder of the case."""
    if not isinstance(path, str | bytes | os.PathLike):  # a descriptor, whose opening was seen
        return
    given = Path(os.fsdecode(path))
    real = os.path.realpath(given) if follows else os.path.realpath(given.parent) + "/" + given.name
    folder, broken = _watching[-1]
    if not (real + "/").startswith(folder) and not real.startswith(("/dev/null", "/proc/")):
        stack = traceback.extract_stack()
        broken.append(f"{what} in {_suite_function(stack)}\n{real!r}\n{''.join(stack.format()[-12:])}")
