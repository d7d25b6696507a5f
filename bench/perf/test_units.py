"""The autoregressive models beside the DiT of their size: a training step, and clips sampled, on one thread."""

import time
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.backbone import load_backbone
from bench.perf.turns import SPEC, RandomClips, alternate, dit, randomised, report, step_s
from bench.shapes import Shape
from bench.study.cell import Cell, Sampler
from bench.training.sampling import SamplePlan, sample
from dit.kernels import OPERATIONS

pytestmark = [pytest.mark.perf, pytest.mark.usefixtures("one_thread")]

# --- autoregressive over units

CLIP: Shape = (10, 6, 6)  # latents of `quick`'s clips: 90 tokens, 9 a frame
TRAINED, SAMPLED, ROUNDS = 24, 64, 7
UNITS = ("frame", "patch")


def by_unit(unit: str) -> Any:
    """AR-XS/2 of these units, with random weights."""
    return randomised(load_backbone(f"dit:AR-XS/2-{unit}", SPEC))


class ClipsByUnit(RandomClips):
    """Random clips with a time for each unit, and themselves for their past."""

    def __init__(self, units: int) -> None:
        super().__init__([CLIP] * TRAINED)
        self.timesteps = torch.rand(TRAINED, units, generator=torch.Generator().manual_seed(1))

    def loss(self, model: Any, **kwargs: Any) -> Tensor:
        """As of clips without units."""
        return super().loss(model, clean=self.latents, **kwargs)


@pytest.mark.parametrize("unit", UNITS)
def test_step_by_unit(benchmark: Any, unit: str) -> None:
    """The DiT's step first: a ratio is how many times as long the other takes. With one mask of all tokens, too."""
    model = by_unit(unit)
    batch = ClipsByUnit(len(model.units(CLIP)))

    def masked() -> float:
        with OPERATIONS.plain("attend_units"):
            return step_s(model, batch)

    calls = {"DiT": partial(step_s, dit("XS/2"), RandomClips([CLIP] * TRAINED)), f"AR-{unit}": partial(step_s, model, batch)}
    ratios = alternate(benchmark, ROUNDS, {**calls, f"AR-{unit}, one mask": masked})
    report(benchmark, "units", f"training step, AR-XS/2-{unit}", ratios, threads=1, batch=TRAINED)


@pytest.mark.parametrize("unit", UNITS)
def test_sampling_by_unit(benchmark: Any, unit: str) -> None:
    """64 clips in 25 steps a unit, with the cache, over the DiT's in 25."""
    ratios = alternate(benchmark, 3, {"DiT": partial(sampled_s, dit("XS/2")), f"AR-{unit}": partial(sampled_s, by_unit(unit))})
    report(benchmark, "units", f"sampling, AR-XS/2-{unit}", ratios, threads=1, clips=SAMPLED)


def sampled_s(model: Any) -> float:
    """Seconds of sampling the clips in one batch."""
    cell = Cell.model_validate(
        {
            "backbone": "dit:DiT-XS/2",
            "data": {"source": "worlds", "num_frames": 10, "height": 24, "width": 24, "num_train": 24, "num_val": 64, "num_test": 64},
            "batching": {"batch_size": TRAINED},
            "autoencoder": {"kind": "trained", "num_steps": 1},
            "budget": {"steps": 1},
            "sampler": Sampler(num_steps=25, batch_size=SAMPLED),
        }
    )
    plan = SamplePlan(cell=cell, spec=SPEC, shapes=[CLIP] * SAMPLED, labels=[0] * SAMPLED)
    start_s = time.perf_counter()
    sample(model.eval(), plan, torch.device("cpu"))
    return time.perf_counter() - start_s
