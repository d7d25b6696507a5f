"""What the performance suite times: a name, what decides its step, and how it is opened. Knows no torch.

pytest-benchmark (`test_suite.py`) and the gate (`bench/perf/gate/`) run the same benchmarks. Two revisions are compared on those whose
definition is equal in both; raise `version` in a definition when its step starts to do something else.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backbone import find_factory
from bench.study.matrix import load_study

if TYPE_CHECKING:
    from bench.perf.workload import Workload

SUITE_VERSION = 1  # of the definitions and of what the workers say; suites of different versions are not compared
# Of a cell, what a step depends on.
STEP_FIELDS = {"backbone", "data", "batching", "objective", "optimizer", "sampler", "precision", "acceleration"}
# Kind of step -> its function in `models.py`, the version of that.
KINDS = {"train": ("train_step", 1), "sample": ("sampling_step", 1), "packed": ("packed_step", 3)}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, not yet opened."""

    module: str  # of this package, with a function `step`
    definition: dict[str, Any]  # JSON values: everything that decides what a step does

    def open(self, folder: Path) -> "Workload":
        """Built and ready to step; the folder is its own."""
        return getattr(importlib.import_module(f"bench.perf.{self.module}"), self.definition["step"])(self.definition, folder)


def suite() -> dict[str, Benchmark]:
    """Every benchmark by name, in the order they run."""
    cells = {named.name.removesuffix("-seed0"): named.cell for named in load_study("perf").cells}
    benchmarks = {}
    for kind, (step, version) in KINDS.items():
        for name, cell in cells.items():
            if kind != "packed" or getattr(find_factory(cell.backbone), "ragged", False):
                fields = cell.model_dump(mode="json", include=STEP_FIELDS)
                benchmarks[f"{kind}/{name}"] = Benchmark("models", {"step": step, "version": version, **fields})
    return benchmarks | {
        "autoencoder": Benchmark("models", {"step": "autoencoder", "version": 1, "frames": [16, 32, 32], "width": 64}),
        "i3d": Benchmark("models", {"step": "i3d", "version": 1, "clip": [10, 32, 32]}),
        "frechet": Benchmark("host", {"step": "frechet", "version": 1, "num_clips": 256, "num_features": 400}),
        "draw": Benchmark("host", {"step": "draw", "version": 2, "batch_size": 256, "latents": [4, 8, 6, 6]}),
        "decode-video": Benchmark("host", {"step": "decode_video", "version": 1, "video": [64, 120, 160], "clip": [16, 64, 64]}),
        "command-line": Benchmark("host", {"step": "command_line", "version": 1, "arguments": ["ls"]}),
    }
