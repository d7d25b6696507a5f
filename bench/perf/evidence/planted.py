"""Live checks of real commits: in a clone of the project something is planted in a backbone's code, and the gate is asked.

Half of the checks compare a commit with an empty one on top of it; the gate is right where it names exactly what was planted.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.data.progress import Progress
from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.gate import check_revisions
from bench.perf.gate.lockstep import run_pair
from bench.perf.gate.policy import Policy
from bench.perf.gate.revisions import Revision, checked_out
from bench.records.environment import git

SOURCES = {"UNet-XS": ("baselines/unet.py", "VideoUNet"), "DiT-XS_2": ("dit/model.py", "DiT")}  # of the suite -> file, class
LEAK_SHARE = 0.01  # of the peak of a training step

# What is appended to the file. In training only, so that a share of the training step is planted, and no more of the sampling step.
# Processor time, so that a busy machine stretches it as it stretches the rest.
CODE = """

def _plant():
    import functools
    import time

    import torch

    honest = {owner}.forward

    @functools.wraps(honest)
    def forward(self, *arguments, **keywords):
        if self.training:
            {statement}
        return honest(self, *arguments, **keywords)

    {owner}.forward = forward


_plant()
"""
STATEMENTS = {
    "slow-down": "end_s = time.thread_time() + {amount}\n            while time.thread_time() < end_s:\n                pass",
    "tensor kept": "if not hasattr(forward, 'kept'):\n                forward.kept = torch.ones({amount}, dtype=torch.uint8)",
    "operator": "torch.ones(())",
}

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
class Trial:
    """One live check."""

    load: bool
    plant: Literal["nothing", "slow-down", "tensor kept", "operator"] = "nothing"
    where: str = ""  # key of SOURCES
    share: float = 0.0  # of the training step

    @property
    def planted(self) -> str:
        """In words."""
        return {
            "nothing": "nothing",
            "slow-down": f"{100 * self.share:.0f} % slower: {self.where}",
            "tensor kept": f"a tensor of {100 * LEAK_SHARE:.0f} % of the peak kept: {self.where}",
            "operator": f"one operator more: {self.where}",
        }[self.plant]

    def chosen(self, benchmark: str) -> bool:
        """Counters are exact, so what they are to catch needs no other benchmark beside it."""
        return self.plant in ("nothing", "slow-down") or benchmark.startswith("train/")

    def is_right(self, blamed: Sequence[str]) -> bool:
        """Whether these benchmarks, and no others, had to be called worse. The packed step trains too; sampling does not."""
        hit = {f"train/{self.where}", f"packed/{self.where}"}
        return not blamed if self.plant == "nothing" else f"train/{self.where}" in blamed and set(blamed) <= hit


TRIALS = (
    *(Trial(load=load) for load in (False, False, True, True)),
    Trial(load=False, plant="slow-down", where="DiT-XS_2", share=0.10),
    Trial(load=False, plant="slow-down", where="UNet-XS", share=0.05),
    Trial(load=True, plant="slow-down", where="DiT-XS_2", share=0.05),
    Trial(load=True, plant="slow-down", where="UNet-XS", share=0.10),
    Trial(load=False, plant="tensor kept", where="DiT-XS_2"),
    Trial(load=False, plant="operator", where="UNet-XS"),
)


def twice(tree: Path) -> dict[str, Revision]:
    """A work tree, as it is, against itself."""
    return dict.fromkeys(("base", "head"), Revision(name=tree.name, commit="", tree=tree))


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


def run_trials(project: Path, out: Path, policy: Policy, say: Progress) -> list[dict[str, Any]]:
    """Every trial's row, also in `out` as JSON lines; those that `out` holds are not run again."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    for index in range(len(rows), len(TRIALS)):
        trial = TRIALS[index]
        say(index, len(TRIALS), trial.planted)
        with neighbour(trial.load), tempfile.TemporaryDirectory() as folder:
            rows.append(_row(trial, project, Path(folder) / "clone", policy, say))
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    return rows


def _row(trial: Trial, project: Path, clone: Path, policy: Policy, say: Progress) -> dict[str, Any]:
    _must(project, "clone", "--quiet", str(project), str(clone))
    if trial.plant != "nothing":
        file, owner = SOURCES[trial.where]
        statement = STATEMENTS[trial.plant].format(amount=_amount(trial, clone))
        with (clone / file).open("a", encoding="utf-8") as source:
            source.write(CODE.format(owner=owner, statement=statement))
    author = ("-c", "user.name=planted", "-c", "user.email=planted@localhost")
    _must(clone, *author, "commit", "--quiet", "--all", "--allow-empty", "-m", f"Planted: {trial.planted}")
    with checked_out(clone, {"base": "HEAD~1", "head": "HEAD"}) as revisions:
        result = check_revisions(revisions, policy, trial.chosen, say)
    blamed = {verdict.name: verdict.reason for verdict in result.verdicts if verdict.outcome == "regressed"}
    return {
        "machine": "loaded" if trial.load else "idle",
        "planted": trial.planted,
        "exit": int(result.exit),
        "right": trial.is_right(list(blamed)),
        "regressed": blamed,
        "inconclusive": [verdict.name for verdict in result.verdicts if verdict.outcome == "inconclusive"],
        "pairs": len(result.pairs),
        "minutes": round(result.seconds / 60, 1),
        "cpu": result.environment.cpu,
        "ratios": {verdict.name: round(verdict.ratio, 4) for verdict in result.verdicts if verdict.ratio is not None},
    }


def _amount(trial: Trial, tree: Path) -> float | int:
    """Seconds to waste, or bytes to keep: a share of the step as it is measured here and now."""
    name = f"train/{trial.where}"
    pair = run_pair(twice(tree), [name], index=0, count=True, say=lambda what: None)
    if trial.plant == "slow-down":
        return trial.share * statistics.median(pair.rounds[name].base_s + pair.rounds[name].head_s)
    return round(LEAK_SHARE * pair.counters[name]["base"]["peak_storage_bytes"])


def _must(folder: Path, *arguments: str) -> None:
    if git(folder, *arguments, timeout_s=None) is None:
        raise CheckRefused(Exit.DOES_NOT_BUILD, f"git {' '.join(arguments)} failed in {folder}; try it there by hand")
