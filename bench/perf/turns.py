"""Contenders that take turns: what the benchmarks of steps share. A ratio is of a pair within one round, so what else the machine does
falls on both.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.backbone import PRODUCTS, load_backbone
from bench.meters.clock import synchronize
from bench.meters.storage import StorageMeter
from bench.perf.mix import num_tokens
from bench.perf.speed import of_pairs
from bench.records.environment import cpu_id
from bench.shapes import LatentSpec, Shape
from bench.training.acceleration import autocast
from bench.training.objective import mean_square

SPEC = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=10)
CPU = torch.device("cpu")

Calls = Mapping[str, Callable[[], float]]  # contender -> what takes its step and gives the seconds; ours comes first
Ratios = dict[str, list[float]]  # rival -> of every round, its seconds over those of ours


class RandomClips:
    """Random clips and what to predict of them, B of (C, T_i, H_i, W_i) each, and a precision: on a GPU bfloat16 under autocast."""

    def __init__(self, shapes: Sequence[Shape], device: torch.device = CPU, half: torch.dtype | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        channels = SPEC.latent_channels
        self.latents, self.targets = ([torch.randn(channels, *shape, generator=generator).to(device) for shape in shapes] for _ in range(2))
        self.timesteps = torch.rand(len(shapes), generator=generator).to(device)
        self.labels = (torch.arange(len(shapes)) % SPEC.num_labels).to(device)
        self.device, self.half = device, torch.bfloat16 if device.type == "cuda" else half
        self.num_tokens = sum(map(num_tokens, shapes))

    def loss(self, model: Callable[..., list[Tensor]], **kwargs: Any) -> Tensor:
        """Forward and mean square."""
        with autocast(self.device, self.half):
            predictions = model(self.latents, self.timesteps, self.labels, **kwargs)
        return mean_square(predictions, self.targets)


def randomised(model: Any) -> Any:
    """The model with random weights: those of a new one leave most gradients zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return model


def dit(name: str, device: torch.device = CPU) -> Any:
    """The patch transformer "S/2", with random weights."""
    return randomised(load_backbone(f"dit:DiT-{name}", SPEC)).to(device)


def seconds(call: Callable[[], Any], device: torch.device = CPU) -> float:
    """Of one call, the device waited for."""
    synchronize(device)
    start_s = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start_s


def step_s(model: nn.Module, batch: RandomClips, **kwargs: Any) -> float:
    """Seconds of forward, mean square and backward."""
    model.zero_grad(set_to_none=True)
    return seconds(lambda: batch.loss(model, **kwargs).backward(), batch.device)


def peak_bytes(model: nn.Module, batch: RandomClips) -> int:
    """Tensor storage at the peak of a step, weights and gradients among it."""
    model.zero_grad(set_to_none=True)
    with StorageMeter(list(model.parameters())) as meter:
        step_s(model, batch)
    return meter.peak_bytes


def alternate(benchmark: Any, rounds: int, calls: Calls | Callable[[int], Calls], *, warm: bool = False) -> Ratios:
    """Every contender once a round, another one first each time. `calls` may make those of a round from its number.

    With `warm` each is called twice and the second counts: for shapes that are new, the first looks for kernels or fills caches.
    """
    times_s: dict[str, list[float]] = {}

    def one_round() -> None:
        number = len(next(iter(times_s.values()), ()))
        made = list((calls(number) if callable(calls) else calls).items())
        first = number % len(made)
        for name, call in made[first:] + made[:first]:
            if warm:
                call()
            times_s.setdefault(name, []).append(call())

    one_round()
    times_s.clear()  # the warm-up
    benchmark.pedantic(one_round, rounds=rounds)
    benchmark.extra_info.update(times_s=times_s, torch=torch.__version__, cpu_id=cpu_id(), products=dict(PRODUCTS))
    ours, *rivals = times_s
    return {name: [other / own for other, own in zip(times_s[name], times_s[ours], strict=True)] for name in rivals}


def report(benchmark: Any, table: str, case: str, ratios: Ratios, **fields: Any) -> None:
    """A row of the table for each rival, for `speed.py` and on the console."""
    rows = [{"table": table, "case": case, "against": name, **fields, **of_pairs(values)} for name, values in ratios.items()]
    benchmark.extra_info.setdefault("rows", []).extend(rows)
    for row in rows:
        print("\n{table}: {case} against {against}: {ratio:.3f} [{low:.3f}, {high:.3f}]".format(**row), end="")
