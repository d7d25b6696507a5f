"""What keeping freed memory gains: training steps of two processes in turn, one that keeps it and one as glibc has it.

On all threads: while pages are fetched, one works and the others wait.
"""

import ctypes
import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from bench.perf.speed import of_pairs

# case -> backbone, latents, batch, rounds
CASES = {
    "DiT-XS/2": ("dit:DiT-XS/2", (10, 6, 6), 12, 25),
    "DiT-S/2": ("dit:DiT-S/2", (16, 32, 32), 2, 5),
    "UNet-XS": ("baselines:UNet-XS", (10, 6, 6), 12, 25),
    "UNet-S": ("baselines:UNet-S", (16, 32, 32), 2, 5),
}
STEPPER = """
import json, sys, time
import torch
from bench.meters.process import keep_freed_memory
from bench.backbone import load_backbone
from bench.meters.memory import PhaseMemory
from bench.training.step import Point, make_batch
from bench.shapes import LatentSpec

name, shape, batch_size, keep = json.loads(sys.argv[1])
if keep:
    assert keep_freed_memory()
spec = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)
model = load_backbone(name, spec)
batch = make_batch(spec, Point(batch_size=batch_size, shape=tuple(shape)), "training", torch.device("cpu"))
optimizer = torch.optim.AdamW(model.parameters())
memory = PhaseMemory(torch.device("cpu"))
memory.start()
for _ in sys.stdin:
    start_s = time.perf_counter()
    predictions = model(batch.latents, batch.timesteps, batch.labels)
    torch.stack([clip.square().mean() for clip in predictions]).mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    end_s = time.perf_counter()
    print(end_s - start_s, memory.peaks()["peak_rss_bytes"], flush=True)
"""


class Stepper:
    """A process that takes a step when it is told to."""

    def __init__(self, case: str, *, keep: bool):
        name, shape, batch_size, _ = CASES[case]
        command = [sys.executable, "-c", STEPPER, json.dumps((name, shape, batch_size, keep))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> tuple[float, int]:
        """Seconds, and the peak of resident memory so far in bytes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds, resident = self._process.stdout.readline().split()
        return float(seconds), int(resident)

    def __enter__(self) -> "Stepper":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # ends its input


@pytest.mark.perf
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
@pytest.mark.parametrize("case", CASES)
def test_gain_of_kept_memory(benchmark: Any, case: str) -> None:
    times_s: dict[str, list[float]] = {"kept": [], "handed back": []}
    resident: dict[str, int] = {}
    with Stepper(case, keep=True) as kept, Stepper(case, keep=False) as plain:

        def pair() -> None:
            for kind, stepper in (("kept", kept), ("handed back", plain)):
                seconds, resident[kind] = stepper.step()
                times_s[kind].append(seconds)

        for _ in range(2):
            pair()
        for series in times_s.values():
            series.clear()  # the warm-up
        benchmark.pedantic(pair, rounds=CASES[case][-1])
    ratios = [plain_s / kept_s for kept_s, plain_s in zip(times_s["kept"], times_s["handed back"], strict=True)]
    row = {"table": "allocator", "case": case, **of_pairs(ratios)}
    row |= {"resident_bytes": resident["kept"], "resident_without_bytes": resident["handed back"]}
    benchmark.extra_info.update(rows=[row], times_s=times_s, torch=torch.__version__)
