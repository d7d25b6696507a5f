"""The parts of a tour, most valuable first: what each runs, for how long at most, and what it is the last line of."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.perf.tour.result import ROOT

PYTHON = (sys.executable, "-u")
STUDY = "gpu-quick"


@dataclass(frozen=True, kw_only=True)
class TourPlan:
    """A part: processes, one after the other."""

    name: str
    about: str
    limit_s: float
    commands: Callable[[Path, Path], list[tuple[str, ...]]]  # (folder of what is written, file of rows) -> each its arguments


# The study needs its whole time, so that it comes before the larger networks, which take what is left.
SIZES = {"S": 100.0, "B": 100.0, "L": 100.0}  # seconds that a backbone of a size may take
ORDER = ("tests", "S", "memory", "study", "B", "L")
DRY_STUDY = (
    "device=cpu", "precision=fp32", "seeds=[0]", "budget={steps: 2}", "data.num_frames=4", "data.height=16", "data.width=16",
    "data.num_train=8", "data.num_val=4", "data.num_test=4", "autoencoder.num_steps=2", "autoencoder.spatial_stride=4",
    "autoencoder.batch_size=4", "batching.batch_size=2", "sampler.num_steps=2", "sampler.batch_size=4", "evaluation.num_samples=4",
    "axes.backbone=[\"baselines:UNet-XS\", \"dit:DiT-XS/2\"]",
)  # fmt: skip


def plans(*, dry: bool) -> list[TourPlan]:
    """All parts, in their order. `dry`: the same on a CPU, as small as it can be."""
    made = {"tests": _tests, "memory": _memory, "study": _study}
    found: list[TourPlan] = []
    for word in ORDER:
        if word in made:
            found.append(made[word](dry))
        elif not (dry and word != "S"):
            names = (f"baselines:UNet-{word}", f"dit:DiT-{word}/2") if not dry else ("baselines:UNet-XS", "dit:DiT-XS/2")
            found += [_steps(name, SIZES[word], dry) for name in names]
    return found


def _tests(dry: bool) -> TourPlan:
    """What only a GPU can show; without one every test says so itself."""
    command = (*PYTHON, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests" / "test_gpu.py"))
    return TourPlan(name="tests", about="what only a GPU can show", limit_s=90.0, commands=lambda out, rows: [command])


def _steps(name: str, limit_s: float, dry: bool) -> TourPlan:
    def commands(out: Path, rows: Path) -> list[tuple[str, ...]]:
        return [(*PYTHON, "-m", "bench.perf.tour.steps", name, "--rows", str(rows), *(["--dry"] if dry else []))]

    return TourPlan(name=f"steps of {name}", about="against diffusers' network of its size", limit_s=limit_s, commands=commands)


def _memory(dry: bool) -> TourPlan:
    """Predicted beside measured. Without a GPU it is predicted alone."""
    size = ("--latents", "2x4x4", "--batch-size", "2") if dry else ("--latents", "16x8x8", "--batch-size", "32")
    names = ("baselines:UNet-XS", "dit:DiT-XS/2") if dry else ("baselines:UNet-S", "dit:DiT-S/2")

    def commands(out: Path, rows: Path) -> list[tuple[str, ...]]:
        device = ("--device", "cuda", "--precision", "bf16", "--out", str(out / "profile"))
        return [(*PYTHON, "-m", "bench", "profile", *names, *size, *device)]

    return TourPlan(name="memory", about="of a step, predicted beside measured", limit_s=90.0, commands=commands)


def _study(dry: bool) -> TourPlan:
    """A comparison and its report. It goes on by itself where it was stopped."""
    overrides = DRY_STUDY if dry else ()

    def commands(out: Path, rows: Path) -> list[tuple[str, ...]]:
        results = ("--results", str(out / "results"))
        return [
            (*PYTHON, "-m", "bench", "run", STUDY, *overrides, *results),
            (*PYTHON, "-m", "bench", "report", STUDY, *results, "--out", str(out / STUDY)),
        ]

    return TourPlan(name="study", about=f"`{STUDY}`, with its report", limit_s=330.0, commands=commands)
