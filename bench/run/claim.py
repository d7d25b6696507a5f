"""One worker a cell, on a file system that many machines share: a claim is a file in the cell's folder that its owner keeps touching.

Locks of the operating system do not reach other machines on every network file system; creating a file that must not be there does. A
claim that nobody has touched for long is of a dead worker, and is taken over; an owner that finds itself replaced ends at once, so that
of two neither writes over the other's work. Ages are told by the file server's clock alone. Knows no torch.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.data.files import StoreError, refuse_link, temporary
from bench.run.job import EXIT_STOPPED

CLAIM = ".claim"  # in a cell's folder
BEAT_S = 5.0  # between two touches
LOST_S = 120.0  # without one, and the owner is dead
SETTLE_S = 1.0  # in which others who take over the same claim are seen
WAIT_S = 0.5  # between two looks of one who waits
TOLD_S = 30.0  # between two lines of one who waits


@contextlib.contextmanager
def claimed(folder: Path, label: str, should_stop: Callable[[], bool]) -> Iterator[None]:
    """While the block runs no other worker is at the cell of `folder`; waits until the one that is has ended.

    KeyboardInterrupt where it is asked to stop while it waits.
    """
    path, token = folder / CLAIM, secrets.token_hex(8)
    refuse_link(path)
    _take(path, token, label, should_stop)
    done = threading.Event()
    beat = threading.Thread(target=_keep, args=(path, token, label, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        release(path, token)


def release(path: Path, token: str | None = None) -> None:
    """Take a claim away: one's own, or without a token that of a worker which is known to be dead."""
    owner = _read(path)
    with contextlib.suppress(OSError):
        if owner is not None and (owner.get("token") == token if token else _is_dead(owner)):
            path.unlink()


def _take(path: Path, token: str, label: str, should_stop: Callable[[], bool]) -> None:
    """Own the claim, sooner or later. StoreError where the folder cannot be written."""
    told_s = float("-inf")
    while True:
        if _created(path, token):
            return
        owner = _read(path)
        if (owner is not None and _is_dead(owner)) or _age_s(path) > LOST_S:
            if _replaced(path, token):
                return
            continue
        if owner is not None and time.monotonic() - told_s > TOLD_S:
            told_s = time.monotonic()
            print(f"{label}: {owner.get('host')} (process {owner.get('pid')}) is at this cell; waiting for it", file=sys.stderr, flush=True)
        if should_stop():
            raise KeyboardInterrupt
        time.sleep(WAIT_S)


def _created(path: Path, token: str) -> bool:
    """Whether there was no claim, and now there is this one."""
    temp = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temp.write_text(json.dumps({**_self(), "token": token}))
        try:
            os.link(temp, path)  # whole from the first moment; fails where there is one, on network file systems too
        finally:
            temp.unlink()
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; choose another folder with --results") from error
    return True


def _replaced(path: Path, token: str) -> bool:
    """Whether a dead worker's claim is this one now: of several who try it, the last has it, which all see after a while."""
    temp = temporary(path)
    temp.write_text(json.dumps({**_self(), "token": token}))
    temp.replace(path)
    time.sleep(SETTLE_S)
    owner = _read(path)
    return owner is not None and owner.get("token") == token


def _keep(path: Path, token: str, label: str, done: threading.Event) -> None:
    """Touch the claim until it is done. An owner that was replaced while it was held up, or whose claim is gone, ends."""
    while not done.wait(BEAT_S):
        owner = _read(path)
        if owner is not None and owner.get("token") != token:
            print(f"{label}: {owner.get('host')} took this cell over, since this process was not heard of; it ends", file=sys.stderr)
            os._exit(EXIT_STOPPED)
        with contextlib.suppress(OSError):
            os.utime(path)


def _age_s(path: Path) -> float:
    """Seconds since a claim was touched, by the clock of whoever keeps the files."""
    probe = temporary(path)
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """Who has the claim; None where nobody has, or it is not readable."""
    try:
        found = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _self() -> dict[str, Any]:
    """This process, as others can find it again."""
    return {"host": socket.gethostname(), "system": _system(), "pid": os.getpid(), "started": _started(os.getpid())}


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether an owner is known to have ended: only one of this system (Linux), in its space of process numbers, can be asked for."""
    if not _system() or owner.get("system") != _system() or not isinstance(owner.get("pid"), int):
        return False
    return _started(owner["pid"]) != owner.get("started")


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None where there is none, or it has ended and only its parent does not know."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _system() -> str:
    """This start of this machine, and its space of process numbers."""
    parts: list[str] = []
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(), lambda: str(Path("/proc/self/ns/pid").readlink())):
        with contextlib.suppress(OSError):
            parts.append(read())
    return " ".join(parts)
