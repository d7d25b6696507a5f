"""One training step and one sampling step of a backbone, as a cell takes them, on real tensors and on fake ones alike."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from bench.meters.clock import StepTimer
from bench.meters.storage import StorageMeter, optimizer_state
from bench.shapes import LatentSpec, Shape
from bench.study.cell import Optimizer
from bench.training.objective import mean_square

PARTS = ("forward", "backward", "optimiser")
OPTIONS = Optimizer()  # of a cell that says nothing else


@dataclass(frozen=True, kw_only=True)
class StepPoint:
    """What is asked of a step."""

    batch_size: int
    shape: Shape  # latents (T, H, W) of each clip


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """What a step is given."""

    latents: list[Tensor]  # B of (C, T, H, W)
    targets: list[Tensor]  # the same; empty for a sampling step
    timesteps: Tensor  # (B,)
    labels: Tensor | None  # (B,)


def make_batch(spec: LatentSpec, point: StepPoint, phase: str, device: torch.device) -> StepBatch:
    """Constant latents: what they hold changes neither time nor memory."""
    size, num = (spec.latent_channels, *point.shape), point.batch_size
    return StepBatch(
        latents=[torch.full(size, 0.5, device=device) for _ in range(num)],
        targets=[torch.full(size, 0.1, device=device) for _ in range(num if phase == "training" else 0)],
        timesteps=torch.full((num,), 0.5, device=device),
        labels=torch.zeros(num, dtype=torch.long, device=device) if spec.num_labels else None,
    )


class Stepper:
    """A backbone with what training keeps beside it, ready to step."""

    def __init__(self, backbone: nn.Module, device: torch.device, precision: str, *, trains: bool, half: torch.dtype = torch.bfloat16):
        self.backbone, self.device = backbone, device
        self.half = half if precision == "bf16" else None  # what autocast casts to
        self.params = [weight for weight in backbone.parameters() if weight.requires_grad]
        self.timers = {part: StepTimer(device) for part in PARTS}
        self.optimizer: torch.optim.Optimizer | None = None
        self.ema: Any = None
        if trains:
            self.optimizer = torch.optim.AdamW(
                backbone.parameters(), lr=OPTIONS.learning_rate, betas=OPTIONS.betas, weight_decay=OPTIONS.weight_decay, foreach=True
            )
            self.ema = EMAModel(self.params, decay=OPTIONS.ema_decay, foreach=True)
            for weight in self.params:  # a step without gradients, so that the optimiser's state is in place
                weight.grad = torch.zeros_like(weight)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def step(self, phase: str, batch: StepBatch) -> None:
        """One step of the phase."""
        if phase == "training":
            self.update(self.backward(batch))
        else:
            self.sample(batch)

    def backward(self, batch: StepBatch) -> Tensor:
        """Forward and backward of a training step, as `bench.training.trainer.Trainer.update` takes them; the loss."""
        with self.timers["forward"].step():
            with _autocast(self.device, self.half):
                predictions = self.backbone(batch.latents, batch.timesteps, batch.labels)
            loss = mean_square(predictions, batch.targets)
        with self.timers["backward"].step():
            del predictions
            # On this thread: where a fake device has no driver, torch has no thread for it.
            with torch.autograd.set_multithreading_enabled(False):
                loss.backward()
        return loss.detach()

    def update(self, loss: Tensor) -> None:
        """The rest of it: clipping, optimiser, weight average. `loss` is alive for as long as in the trainer."""
        assert self.optimizer is not None
        with self.timers["optimiser"].step():
            torch.nn.utils.clip_grad_norm_(self.params, OPTIONS.grad_clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.ema.step(self.params)

    @torch.no_grad()
    def sample(self, batch: StepBatch) -> None:
        """One evaluation of a sampler without guidance; the solver's own arithmetic is left out."""
        with _autocast(self.device, self.half):
            self.backbone(batch.latents, batch.timesteps, batch.labels)

    def meter(self, phase: str, batch: StepBatch, *more: Any) -> StorageMeter:
        """A storage meter that knows what is alive before the step, `more` among it."""
        kinds: dict[str, Any] = {"buffers": [list(self.backbone.buffers()), list(_tables(self.backbone))]}
        if phase == "training":
            assert self.optimizer is not None
            kinds |= {"optimiser": optimizer_state(self.optimizer), "average": self.ema.shadow_params}
        given = (batch.latents, batch.targets, batch.timesteps, batch.labels, more)
        return StorageMeter(*given, model=self.backbone, **kinds)

    def read_timers(self) -> dict[str, float]:
        """Seconds of each part since the last read; parts that did not run are left out."""
        return {part: sum(times) for part, timer in self.timers.items() if (times := timer.read())}


def _tables(backbone: nn.Module) -> Iterator[Tensor]:
    """Tensors that a module keeps as plain attributes, such as positions of the last shape."""
    for module in backbone.modules():
        for value in vars(module).values():
            yield from (leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor) and leaf.grad_fn is None)


@contextlib.contextmanager
def _autocast(device: torch.device, half: torch.dtype | None) -> Iterator[None]:
    """Autocast as a cell has it, or none. Where a fake CUDA device has no driver `torch.autocast` would switch itself off."""
    kind = device.type
    if half is None:
        yield
    elif kind == "cpu" or torch.cuda.is_available():
        with torch.autocast(kind, dtype=half):
            yield
    else:
        torch.set_autocast_enabled(kind, True)
        torch.set_autocast_dtype(kind, half)
        try:
            yield
        finally:
            torch.set_autocast_enabled(kind, False)
            torch.clear_autocast_cache()
