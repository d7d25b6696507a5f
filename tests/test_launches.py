"""How much a training step launches: counts are the same on every run, so that a limit is a fair test."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.backbone import load_backbone
from bench.meters.operators import OperatorCounter
from bench.study.cell import Optimizer
from bench.training.objective import mean_square
from bench.training.step import TrainStep
from tests.tiny import SPEC

# Autocast on CUDA casts around more norms: not counted here.
LIMITS = {  # launches of forward and backward, on a CPU and as on a GPU
    ("baselines:UNet-S", torch.bfloat16): (2498, 2848),
    ("baselines:UNet-S", None): (3263, 2878),  # gradients of weights by oneDNN copy a factor that does not lie in rows
    ("dit:DiT-S/2", torch.bfloat16): (893, 785),
    ("dit:DiT-S/2", None): (812, 812),
}
UPDATE = 12  # clipping, AdamW and average, of all weights together


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Some products are chosen by the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "half"), LIMITS)
def test_a_step_launches_no_more_than(name: str, half: torch.dtype | None) -> None:
    kernels = importlib.import_module(f"{name.partition(':')[0]}.kernels")
    elsewhere = kernels.OPERATIONS.plain(*kernels.OF_A_CPU)
    backbone: Any = load_backbone(name, SPEC)
    step = TrainStep(backbone.train(), Optimizer(), torch.device("cpu"), half)
    latents = [torch.zeros(4, 2, 8, 8) for _ in range(2)]
    times, labels = torch.ones(2), torch.zeros(2, dtype=torch.long)
    step(lambda predict: mean_square(predict(latents, times, labels), latents), 0, 0.0)  # looks for the weights to cast
    for way, limit in zip((contextlib.nullcontext(), elsewhere), LIMITS[name, half], strict=True):
        with way, OperatorCounter() as counter:
            step.backward(mean_square(step.predict(latents, times, labels), latents))
        with OperatorCounter() as update:
            step.update(1, 0.0)
        assert counter.num_launches <= limit
        assert update.num_launches <= UPDATE
