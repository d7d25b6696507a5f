"""What keeping freed memory gains: training steps of two processes in turn, one that keeps it and one as glibc has it.

On all threads: while pages are fetched, one works and the others wait.
"""

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def stepper(case: str, *, keep: bool, resident: dict[str, int], name: str) -> Iterator[Callable[[], float]]:
    """A process that takes a step when it is called, and gives the seconds; the peak of its resident memory so far goes to `resident`."""
    *setting, _ = CASES[case]
    command = [sys.executable, "-c", STEPPER, json.dumps((*setting, keep))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        into, out = process.stdin, process.stdout
        assert into is not None and out is not None

        def step() -> float:
            print(file=into, flush=True)
            taken_s, num_bytes = out.readline().split()
            resident[name] = int(num_bytes)
            return float(taken_s)

        step()  # makes the optimiser's state
        yield step


@pytest.mark.perf
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
@pytest.mark.parametrize("case", CASES)
def test_gain_of_kept_memory(benchmark: Any, case: str) -> None:
    resident: dict[str, int] = {}
    with (
        stepper(case, keep=True, resident=resident, name="resident_bytes") as kept,
        stepper(case, keep=False, resident=resident, name="resident_without_bytes") as plain,
    ):
        ratios = alternate(benchmark, CASES[case][-1], {"kept": kept, "handed back": plain})
    report(benchmark, "allocator", case, ratios, **resident)
