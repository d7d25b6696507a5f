"""What a step frees stays with the process: seen by the page faults of blocks that are taken and freed again and again."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bench.meters import process

TURNS, BLOCK_BYTES = 20, 40 << 20
SCRIPT = f"""
import resource, sys
from bench.meters.process import keep_freed_memory
done = sys.argv[1] == "nothing" or keep_freed_memory()
block = b"x" * {BLOCK_BYTES}
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TURNS}):
    block = b"x" * {BLOCK_BYTES}
    del block
print(int(done), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str) -> int:
    """Page faults of the turns in a process of its own."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT, setting], capture_output=True, text=True, check=True)
    done, number = ended.stdout.split()
    assert done == "1"
    return int(number)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_blocks_are_taken_from_what_was_freed_before() -> None:
    kept = faults("keep")
    assert kept < TURNS  # a handful, where a block has 20 pages at the very least
    assert faults("nothing") >= 10 * TURNS


def test_a_smaller_threshold_where_the_library_takes_no_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {}

    class Old:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            if parameter == process.M_MMAP_THRESHOLD and value > 2**25:
                return 0
            taken[parameter] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Old)
    assert process.keep_freed_memory()
    assert taken == {process.M_MMAP_THRESHOLD: 2**25, process.M_TRIM_THRESHOLD: 2**30}


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_nothing_is_done_without_such_a_call(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not process.keep_freed_memory()


def test_collections_look_at_nothing_that_was_there_before() -> None:
    before = gc.get_freeze_count()
    there: list[Any] = [[] for _ in range(1000)]
    process.leave_out_imports()
    assert gc.get_freeze_count() >= before + len(there)
    assert not any(thing is there[0] for thing in gc.get_objects())


class Kept(Exception):
    """Stands for the call."""


def test_every_process_that_times_steps_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else of its work, so that what is missing here is never asked for."""
    from bench.commands.profile import command
    from bench.commands.profile.measure import Request
    from bench.perf.worker import Server
    from bench.run.worker import perform

    def kept() -> bool:
        raise Kept

    monkeypatch.setattr(process, "keep_freed_memory", kept)
    monkeypatch.setattr(command, "keep_freed_memory", kept)
    nothing: Any = None
    with pytest.raises(Kept):
        perform(SimpleNamespace(kind="cell"), nothing, nothing)  # type: ignore[arg-type]
    with pytest.raises(Kept):
        Server({})._open("train")
    request = Request(names=("dit:DiT-XS/2",), spec=nothing, point=nothing, precision="fp32")
    with pytest.raises(Kept):
        command.run(request, device="cpu", card=None, cross=False, draws=False, progress=nothing)
