"""Canaries: self-checks that run inside every cell, so that a broken build cannot print a normal-looking number."""

import contextlib
import copy
import gc
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.backbone import check_latents, find_factory
from bench.data.latents.latents import LatentSet
from bench.data.policy.config import Batching
from bench.data.seeds import stream_seed
from bench.meters.storage import optimizer_state
from bench.records.record import Canary
from bench.shapes import LatentSpec, Refusal, Shape, num_voxels
from bench.study.budget import Budget
from bench.study.cell import Cell, Parallel
from bench.training.captioned import Captioned
from bench.training.objective import draw_noise
from bench.training.trainer import Interrupted, Trainer

TOLERANCE = 1e-4  # largest difference, relative to the largest output, in float32
TOLERANCE_CUDA = 2e-2  # half-precision and non-deterministic kernels are in play there


def run_canaries(
    cell: Cell, backbone: nn.Module, spec: LatentSpec, shape: Shape, train: LatentSet, val: LatentSet, device: torch.device
) -> list[Canary]:
    """Every canary for this backbone; `backbone` itself is left as it is."""
    on_cpu = device.type == "cpu"
    tolerance = TOLERANCE if on_cpu else TOLERANCE_CUDA
    canaries = [_check("batch equals one at a time", lambda: batch_against_single(_wake(backbone, device), spec, shape, device), tolerance)]
    for name, error in getattr(find_factory(cell.backbone), "canaries", lambda spec: {})(spec).items():
        canaries.append(_check(name, error, TOLERANCE))
    if not cell.budget.amount:  # nothing is trained, and nothing need be resumed
        return canaries
    exactness = 0.0 if on_cpu else tolerance
    resume = _check("resumed equals uninterrupted", lambda: resumed_against_uninterrupted(cell, backbone, train, val, device), exactness)
    return [*canaries, resume]


@torch.no_grad()
def batch_against_single(backbone: Any, spec: LatentSpec, shape: Shape, device: torch.device) -> float:
    """Largest relative difference between clips in one batch, of mixed shapes where the backbone takes them, and alone."""
    shapes, (frames, height, width) = [shape, shape], shape
    smaller = [(max(1, frames // 2), height, width), (frames, height, max(1, width // 3 * 2)), (1, height, width)]
    for other in smaller if backbone.ragged else []:
        with contextlib.suppress(Refusal):
            check_latents(backbone, other)
            shapes.append(other)
    latents = [draw_noise(0, "canary", index, (spec.input_channels, *each)).to(device) for index, each in enumerate(shapes)]
    timesteps = torch.linspace(0.1, 0.9, len(shapes), device=device)
    labels = torch.arange(len(shapes), device=device) % spec.num_labels if spec.num_labels else None
    told = {}
    if isinstance(backbone, Captioned):  # another caption for each clip, as far as there are
        told = {"captions": torch.arange(len(shapes), device=device) % len(backbone.mask)}
    together = backbone(latents, timesteps, labels, **told)
    worst = 0.0
    for index, clip in enumerate(latents):
        label = None if labels is None else labels[index : index + 1]
        own = {name: captions[index : index + 1] for name, captions in told.items()}
        alone = backbone([clip], timesteps[index : index + 1], label, **own)[0]
        worst = max(worst, float((together[index] - alone).abs().max() / alone.abs().max()))
    return worst


def resumed_against_uninterrupted(cell: Cell, backbone: nn.Module, train: LatentSet, val: LatentSet, device: torch.device) -> float:
    """Largest relative difference between four steps in one go and with a stop after two; 0 on a CPU, bit for bit.

    What the checkpoint holds (weights, optimiser, average) must come back exactly on every device; later losses are compared.
    """
    optimizer = cell.optimizer.model_copy(update={"warmup_steps": 0})  # steps large enough to tell
    own = cell.batching
    batching = Batching(batch_size=2, shuffle_window=own.shuffle_window, stills=own.stills)  # nor is a large set permuted here
    if len(set(train.shapes)) > 1:  # the policy's own batches, as small as they can be
        batching = cell.batching.model_copy(update={"voxel_budget": max(map(num_voxels, train.shapes))})
    plain = cell.acceleration.model_copy(update={"compile": "none"})  # what is fastest is not asked for four steps
    small = cell.model_copy(
        update={"budget": Budget(steps=4), "batching": batching, "optimizer": optimizer, "acceleration": plain, "parallel": Parallel()}
    )
    few = replace(
        val,
        latents=val.latents[:2],
        labels=None if val.labels is None else val.labels[:2],
        captions=None if val.captions is None else val.captions[:2],
    )

    def trainer(folder: str, should_stop: Callable[[], bool]) -> Trainer:
        network = copy.deepcopy(backbone)
        options: dict[str, Any] = {"inputs": "canary", "flops_of": lambda shape: 1, "device": device, "should_stop": should_stop}
        return Trainer(small, network, train=train, val=few, folder=Path(folder), **options)

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        whole = trainer(first, lambda: False).train()
        gc.collect()  # a large model must not be here three times
        half = trainer(second, lambda: True)
        for _ in range(2):
            with contextlib.suppress(Interrupted):
                half.train()
        kept = [tensor.detach().cpu().clone() for tensor in _held(half)]
        del half
        gc.collect()
        resumed = trainer(second, lambda: False)
        if resumed.state.step != 2:
            raise AssertionError(f"the checkpoint is at step {resumed.state.step}, expected 2")
        if not all(torch.equal(a, b.detach().cpu()) for a, b in zip(kept, _held(resumed), strict=True)):
            raise AssertionError("weights, optimiser state or their average did not come back from the checkpoint")
        again = resumed.train()
    return max(abs(a - b) / abs(a) for a, b in zip(whole.loss, again.loss, strict=True))


def _held(trainer: Trainer) -> list[torch.Tensor]:
    """Every tensor that training goes on from."""
    step = trainer.train_step
    return [*step.params, *optimizer_state(step.optimizer), *step.ema.shadow_params]


def _check(name: str, error: Callable[[], float], tolerance: float) -> Canary:
    value = error()
    return Canary(name=name, passed=value <= tolerance, detail=f"largest relative difference {value:.2g}, allowed {tolerance:g}")


def _wake(backbone: nn.Module, device: torch.device) -> Any:
    """A copy with its zero-initialised weights made random: gates and outputs of zero would agree with anything."""
    woken = copy.deepcopy(backbone)
    generator = torch.Generator().manual_seed(stream_seed(0, "canary_weights", 0))
    with torch.no_grad():
        for weight in woken.parameters():
            if not bool(weight.any()):
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return woken.to(device).eval()
