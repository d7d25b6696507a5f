"""What keeping freed memory gains: training steps of two processes in turn, one that keeps it and one as glibc has it.

On all threads: while pages are fetched, one works and the others wait.
"""

import ctypes
import json
import subprocess
import sys
from contextlib import AbstractContextManager
from typing import Any

import pytest

from bench.perf.turns import alternate, report

# case -> backbone, latents, batch, rounds
CASES = {
    "DiT-XS/2": ("dit:DiT-XS/2", (10, 6, 6), 12, 25),
    "DiT-S/2": ("dit:DiT-S/2", (16, 32, 32), 2, 5),
    "UNet-XS": ("baselines:UNet-XS", (10, 6, 6), 12, 25),
    "UNet-S": ("baselines:UNet-S", (16, 32, 32), 2, 5),
}
STEPPER = """
import json, sys
import torch
from bench.backbone import load_backbone
from bench.meters.memory import PhaseMemory
from bench.meters.process import keep_freed_memory
from bench.perf.turns import CPU, SPEC, RandomClips, seconds

name, shape, batch_size, keep = json.loads(sys.argv[1])
if keep:
    assert keep_freed_memory()
model = load_backbone(name, SPEC)
batch = RandomClips([tuple(shape)] * batch_size)
optimizer = torch.optim.AdamW(model.parameters())
memory = PhaseMemory(CPU)
memory.start()

def step():
    batch.loss(model).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

for _ in sys.stdin:
    print(seconds(step), memory.peaks()["peak_rss_bytes"], flush=True)
"""


class Stepper(AbstractContextManager["Stepper"]):
    """A process that takes a step when it is told to."""

    def __init__(self, case: str, *, keep: bool):
        name, shape, batch_size, _ = CASES[case]
        command = [sys.executable, "-c", STEPPER, json.dumps((name, shape, batch_size, keep))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.resident_bytes = 0  # the peak so far

    def step(self) -> float:
        """Its seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        taken_s, resident = self._process.stdout.readline().split()
        self.resident_bytes = int(resident)
        return float(taken_s)

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # ends its input


@pytest.mark.perf
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
@pytest.mark.parametrize("case", CASES)
def test_gain_of_kept_memory(benchmark: Any, case: str) -> None:
    with Stepper(case, keep=True) as kept, Stepper(case, keep=False) as plain:
        for stepper in (kept, plain):
            stepper.step()  # a warm-up more: it makes the optimiser's state
        ratios = alternate(benchmark, CASES[case][-1], {"kept": kept.step, "handed back": plain.step})
    resident = {"resident_bytes": kept.resident_bytes, "resident_without_bytes": plain.resident_bytes}
    report(benchmark, "allocator", case, ratios, **resident)
