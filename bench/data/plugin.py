"""Code that another person may have written: found by an entry point, imported without harm, blamed for what it does wrong.

Knows no torch.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from bench.shapes import Refusal

DISTRIBUTION = "unet-vs-dit"
ENTRY_POINT_GROUP = "unet_vs_dit.backbones"
WATCHED = "UNET_VS_DIT_WATCHED"  # in the environment of a process whose parent notices when it exits or hangs
IMPORT_S = 60.0  # that an import may take
SURVIVED = 70  # exit status of the process that tries one
TRIAL = f"""
import importlib, os, sys
sys.path[:] = sys.argv[2:]
try:
    importlib.import_module(sys.argv[1])
except BaseException:
    pass  # whoever asks will see for himself
os._exit({SURVIVED})
"""


class BrokenPlugin(Refusal):
    """A plug-in that raises what its contract does not name, exits or hangs. Nothing is wrong with the cells of others."""


@contextmanager
def refusing() -> Iterator[None]:
    """What a plug-in refuses inside, by any ValueError as its contract has it, is a Refusal."""
    try:
        yield
    except Refusal:
        raise
    except ValueError as error:
        raise Refusal(str(error)) from error


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """As `refusing`; what else a plug-in raises inside, or exits with, is BrokenPlugin, but for files and memory that are not there."""
    try:
        with refusing():
            yield
    except (Refusal, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise BrokenPlugin(f"{what} raised {type(error).__name__}: {' '.join(str(error).split())}; mend it") from error


def import_foreign(name: str) -> ModuleType:
    """A module that another person may have written. BrokenPlugin where its import raises, exits or hangs; ModuleNotFoundError.

    An import that would end this process or hold it up is found out in another.
    """
    unknown = name not in sys.modules and name.partition(".")[0] not in _own_packages()
    if unknown and WATCHED not in os.environ and (fault := _trial(name, *sys.path)):
        raise BrokenPlugin(f"importing module {name!r} {fault}; mend it")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise
    except (Exception, SystemExit) as error:  # another person's code
        raise BrokenPlugin(f"importing module {name!r} raised {type(error).__name__}: {' '.join(str(error).split())}; mend it") from error


@functools.cache
def _trial(name: str, *path: str) -> str:
    """What importing a module does to a process; empty where it lives on."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-c", TRIAL, name, *path], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        code = process.wait(timeout=IMPORT_S)
    except subprocess.TimeoutExpired:
        return f"takes over {IMPORT_S:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "" if code == SURVIVED else f"ends the process with status {code}"


@functools.cache
def _own_packages() -> set[str]:
    """Top-level packages of this project."""
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    own = {point.value.partition(".")[0] for point in points if point.dist is not None and point.dist.name == DISTRIBUTION}
    return own | {__name__.partition(".")[0]}


@functools.cache
def registered(group: str) -> dict[str, str]:
    """Name -> module, or "module:OBJECT", of an entry-point group. Read once: it looks through every installed distribution."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=group)}
