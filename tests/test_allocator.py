"""What a step frees stays with the process: seen by the page faults of blocks that are taken and freed again and again."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from bench import allocator

TURNS, BLOCK_BYTES = 20, 40 << 20
SCRIPT = f"""
import resource, sys
from bench.allocator import keep_freed_memory
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
            if parameter == allocator.M_MMAP_THRESHOLD and value > 2**25:
                return 0
            taken[parameter] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Old)
    assert allocator.keep_freed_memory()
    assert taken == {allocator.M_MMAP_THRESHOLD: 2**25, allocator.M_TRIM_THRESHOLD: 2**30}


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_nothing_is_done_without_such_a_call(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not allocator.keep_freed_memory()


@pytest.mark.parametrize("place", ["bench.worker:perform", "bench.perf.worker:Server._open", "bench.profile.command:run"])
def test_every_process_that_times_steps_keeps_its_memory(place: str) -> None:
    """Read from what is compiled: each calls it where it fixes what float32 means."""
    import importlib

    module, _, name = place.partition(":")
    function: object = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    assert {"keep_freed_memory", "use_exact_float32"} <= set(function.__code__.co_names) | set(function.__code__.co_varnames)
