"""Recorded pairs of workers, for replaying the gate: one JSON a line and pair, so that a stopped recording goes on."""

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.data.progress import Progress
from bench.perf.gate.lockstep import run_pair
from bench.perf.gate.revisions import Revision
from bench.shapes import Refusal

# A neighbour on the machine: bursts of matrix products on every core, silence in between, of random lengths.
NEIGHBOUR = """
import os, random, sys, time
import numpy as np
generator, parent = random.Random(int(sys.argv[1])), os.getppid()
matrix = np.ones((700, 700))
while os.getppid() == parent:
    end_s = time.monotonic() + generator.uniform(0, 4)
    while time.monotonic() < end_s:
        matrix @ matrix
    time.sleep(generator.uniform(0, 4))
"""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Pairs of one file. Times have the shape (pairs, 2, rounds): base, head."""

    name: str
    times_s: dict[str, np.ndarray]  # benchmark -> times

    def log_ratios(self) -> dict[str, np.ndarray]:
        """Benchmark -> the number of each pair, (pairs,)."""
        return {name: np.median(np.log(times[:, 1] / times[:, 0]), axis=-1) for name, times in self.times_s.items()}


def twice(tree: Path) -> dict[str, Revision]:
    """A work tree, as it is, against itself."""
    return dict.fromkeys(("base", "head"), Revision(name=tree.name, commit="", tree=tree))


def record(tree: Path, names: list[str], num_pairs: int, out: Path, load: bool, say: Progress) -> None:
    """Add pairs of workers of the one tree to the file `out` until it holds `num_pairs`, times in microseconds."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = len(out.read_text().splitlines()) if out.is_file() else 0
    with neighbour(load), out.open("a", encoding="utf-8") as file:
        for index in range(done, num_pairs):
            pair = run_pair(twice(tree), names, index=index, count=False, say=partial(say, index, num_pairs))
            if pair.failed:
                raise Refusal(f"a benchmark failed: {pair.failed}")
            times = {name: [[round(1e6 * s) for s in side] for side in (r.base_s, r.head_s)] for name, r in pair.rounds.items()}
            file.write(json.dumps(times) + "\n")
            file.flush()


def read_recording(path: Path) -> Recording:
    """The pairs in a file, .jsonl or .jsonl.gz. Rounds are cut to the fewest that a pair has."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    pairs = [json.loads(line) for line in text.splitlines()]
    times = {}
    for name in pairs[0]:
        rounds = min(len(side) for pair in pairs for side in pair[name])
        times[name] = np.array([[side[:rounds] for side in pair[name]] for pair in pairs]) / 1e6
    return Recording(name=path.name.partition(".")[0], times_s=times)


@contextmanager
def neighbour(load: bool) -> Iterator[None]:
    """A busy neighbour while the block runs, where `load` says so."""
    if not load:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(random.randrange(2**31))])
    try:
        yield
    finally:
        process.kill()
        process.wait()
