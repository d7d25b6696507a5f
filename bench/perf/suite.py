"""What the performance suite times: a name, what decides its step, and how it is opened. Knows no torch.

pytest-benchmark (`test_suite.py`) and the gate (`bench/perf/gate/`) run the same benchmarks. Two revisions are compared on those whose
definition is equal in both; raise `version` in a definition when its step starts to do something else.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backbone import find_factory
from bench.study.matrix import NamedCell, load_study

if TYPE_CHECKING:
    from bench.perf.workload import Workload

SUITE_VERSION = 1  # of the definitions and of what the workers say; suites of different versions are not compared
# Of a cell, what a step depends on.
STEP_FIELDS = ("backbone", "data", "batching", "objective", "optimizer", "sampler", "precision", "acceleration")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark, not yet opened."""

    definition: dict[str, Any]  # JSON values: everything that decides what a step does
    open: Callable[[Path], "Workload"]  # built and ready to step; the folder is its own


def suite() -> dict[str, Benchmark]:
    """Every benchmark by name, in the order they run."""
    cells = {named.name.removesuffix("-seed0"): named for named in load_study("perf").cells}
    benchmarks = {}
    for name, named in cells.items():
        benchmarks[f"train/{name}"] = _of_cell("train_step", named)
    for name, named in cells.items():
        benchmarks[f"sample/{name}"] = _of_cell("sampling_step", named)
    for name, named in cells.items():
        if getattr(find_factory(named.cell.backbone), "ragged", False):
            benchmarks[f"packed/{name}"] = _of_cell("packed_step", named, version=3)
    return benchmarks | {
        "autoencoder": _plain("models", "autoencoder", version=1, frames=[16, 32, 32], width=64),
        "i3d": _plain("models", "i3d", version=1, clip=[10, 32, 32]),
        "frechet": _plain("host", "frechet", version=1, num_clips=256, num_features=400),
        "draw": _plain("host", "draw", version=2, batch_size=256, latents=[4, 8, 6, 6]),
        "decode-video": _plain("host", "decode_video", version=1, video=[64, 120, 160], clip=[16, 64, 64]),
        "command-line": _plain("host", "command_line", version=1, arguments=["ls"]),
    }


def _of_cell(function: str, named: NamedCell, version: int = 1) -> Benchmark:
    cell = named.cell.model_dump(mode="json")
    return _plain("models", function, version=version, **{field: cell[field] for field in STEP_FIELDS})


def _plain(module: str, function: str, **definition: Any) -> Benchmark:
    def open_(folder: Path) -> "Workload":
        return getattr(importlib.import_module(f"bench.perf.{module}"), function)(definition, folder)

    return Benchmark(definition={"step": function, **definition}, open=open_)
