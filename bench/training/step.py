"""The one optimiser step of the suite, and a stepper that takes it on constant latents, on real tensors and on fake ones alike."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from bench.meters.clock import StepTimer
from bench.meters.storage import StorageMeter, optimizer_state
from bench.meters.text import stand_in_text
from bench.shapes import LatentSpec, Shape
from bench.study.cell import COOLDOWN, Optimizer
from bench.training.acceleration import HALF, autocast
from bench.training.captured import CapturedPass
from bench.training.half_weights import HalfWeights
from bench.training.objective import mean_square

SCHEDULES: dict[str, Callable[[float], float]] = {  # part of the budget that is used -> part of the peak
    "constant": lambda used: 1.0,
    "linear": lambda used: max(0.0, 1.0 - used),
    "cooldown": lambda used: min(1.0, max(0.0, 1.0 - used) / COOLDOWN),
}
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

    latents: list[Tensor]  # B of (C, T_i, H_i, W_i), with what is given of known frames
    targets: list[Tensor]  # the same without it; empty for a sampling step
    timesteps: Tensor  # (B,)
    labels: Tensor | None  # (B,)
    told: dict[str, Any] = field(default_factory=dict)  # what else the backbone is called with: `captions` (B,), `text`, or `clean` clips


def make_batch(spec: LatentSpec, point: StepPoint, phase: str, device: torch.device) -> StepBatch:
    """Constant latents: what they hold changes neither time nor memory."""
    num, num_targets = point.batch_size, point.batch_size if phase == "training" else 0
    return StepBatch(
        latents=[torch.full((spec.input_channels, *point.shape), 0.5, device=device) for _ in range(num)],
        targets=[torch.full((spec.latent_channels, *point.shape), 0.1, device=device) for _ in range(num_targets)],
        timesteps=torch.full((num,), 0.5, device=device),
        labels=torch.zeros(num, dtype=torch.long, device=device) if spec.num_labels else None,
        told=stand_in_text(spec, num, device),
    )


def tensors_of(told: dict[str, Any]) -> list[Tensor]:
    """Those of what a backbone is told of its clips."""
    return [tensor for value in told.values() for tensor in ([value] if isinstance(value, Tensor) else vars(value).values())]


def here(weight: Tensor) -> Tensor:
    """What this process has of a weight: all, or its part, in the same memory."""
    return weight.to_local().detach().requires_grad_() if isinstance(weight, DTensor) else weight


class TrainStep:
    """The one optimiser step: forward under autocast, loss, backward, gradient clip, AdamW on its schedule, average of the weights.

    After `backward` every weight has its gradient in float32, and the backbone its float32 weights.
    """

    def __init__(self, backbone: nn.Module, options: Optimizer, device: torch.device, half: torch.dtype | None):
        """`backbone` is on `device`; autocast casts to `half`."""
        self.backbone: Any = backbone
        self.module: Any = backbone.module if isinstance(backbone, DistributedDataParallel) else backbone  # as one process has it
        self.options, self.device, self.half = options, device, half
        self.params = [weight for weight in backbone.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            backbone.parameters(), lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay, fused=True
        )
        # Of weights that several processes share, what is here.
        self.own = [here(weight) for weight in self.params]
        # diffusers' warm-up is ours: decay = min(ema_decay, (1 + n) / (10 + n)) at step n.
        self.ema: Any = EMAModel(self.own, decay=options.ema_decay, foreach=True)
        is_sharded = any(isinstance(weight, DTensor) for weight in self.params)  # then the sharding itself casts
        self._half_weights = HalfWeights(self.module, half) if half is not None and not is_sharded else None
        self._captured: CapturedPass | None = None

    def __call__(self, loss_of: Callable[[Callable[..., list[Tensor]]], Tensor], step: int, used: float) -> tuple[Tensor, Tensor]:
        """Step `step`, from 0, with a part `used` of the budget behind it; `loss_of` is given `predict`. Loss and gradient norm."""
        loss = loss_of(self.predict)
        self.backward(loss)
        return loss.detach(), self.update(step, used)

    def predict(self, *batch: Any, **more: Any) -> list[Tensor]:
        """The backbone's predictions, in the run's precision, for `backward`."""
        # What watches every operator sees none of a graph, so it is given the pass as it is.
        if self._captured is not None and not is_in_torch_dispatch_mode():
            return self._captured(*batch, **more)
        return self._pass(*batch, **more)

    def capture(self, batch: StepBatch) -> None:
        """From now on passes are a CUDA graph, of batches of these shapes."""
        self.release()
        self.prepare(batch)
        try:
            self._captured = CapturedPass(self.backbone, self._pass, batch.latents, batch.timesteps, batch.labels, batch.told)
        finally:
            self._restore()

    def prepare(self, batch: StepBatch) -> None:
        """What the first step does beside stepping, done before."""
        if self._half_weights is not None:
            given = (batch.latents, batch.timesteps, batch.labels)
            self._half_weights.prepare(functools.partial(self._through, self.module, *given, **batch.told))

    def release(self) -> None:
        """Passes as they are."""
        self._captured = None

    def _restore(self) -> None:
        if self._half_weights is not None:
            self._half_weights.restore()

    def _pass(self, *batch: Any, **more: Any) -> list[Tensor]:
        if self._half_weights is None:
            return self._through(self.backbone, *batch, **more)
        # What is only looked at has no backward pass, for which a spread backbone would wait.
        look = functools.partial(self._through, self.module, *batch, **more)
        return self._half_weights.forward(functools.partial(self._through, self.backbone, *batch, **more), look)

    def _through(self, backbone: Any, *batch: Any, **more: Any) -> list[Tensor]:
        with autocast(self.device, self.half):
            return backbone(*batch, **more)

    def backward(self, loss: Tensor) -> None:
        """Gradients of every weight; a method, so that it can be timed apart."""
        try:
            loss.backward()
        finally:
            self._restore()

    def update(self, step: int, used: float) -> Tensor:
        """What follows the backward pass; the norm of the gradient before it was clipped, still on the device."""
        options = self.options
        rate = options.learning_rate * min(1.0, (step + 1) / max(1, options.warmup_steps)) * SCHEDULES[options.schedule](used)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        grad_norm = torch.nn.utils.clip_grad_norm_(self.params, options.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.own)
        return grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the place of the trained ones, in evaluation mode."""
        self.ema.store(self.own)
        self.ema.copy_to(self.own)
        self._let_go()
        self.backbone.eval()
        try:
            yield
        finally:
            self.backbone.train()
            self.ema.restore(self.own)
            self._let_go()

    def _let_go(self) -> None:
        """Of what was gathered of weights that lie in parts, before they changed."""
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def prepare_optimizer(self) -> None:
        """Put the optimiser's state in place, as of no step; the weights stay."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for weight in self.params:
            weight.grad = torch.zeros_like(weight)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, Tensor]:
        """The backbone's weights as one process has them: those that lie in parts are put together, where all ask for it."""
        found = self.module.state_dict()
        return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in found.items()}

    def alive(self) -> dict[str, Any]:
        """What training keeps beside the weights, by the kinds of a storage meter."""
        return {"optimiser": optimizer_state(self.optimizer), "average": self.ema.shadow_params}


class Stepper:
    """A backbone with what training keeps beside it, ready to step."""

    def __init__(self, backbone: nn.Module, device: torch.device, precision: str, *, trains: bool, half: torch.dtype = torch.bfloat16):
        self.backbone, self.device = backbone, device
        self.half = half if HALF[precision] else None  # what autocast casts to
        self.params = [weight for weight in backbone.parameters() if weight.requires_grad]
        self.timers = {part: StepTimer(device) for part in PARTS}
        self.train_step: TrainStep | None = None
        if trains:
            self.train_step = TrainStep(backbone, OPTIONS, device, self.half)
            for weight in self.params:  # a step without gradients, so that the optimiser's state is in place
                weight.grad = torch.zeros_like(weight)
            self.train_step.optimizer.step()
            self.train_step.optimizer.zero_grad(set_to_none=True)

    def step(self, phase: str, batch: StepBatch) -> None:
        """One step of the phase."""
        if phase == "training":
            self.update(self.backward(batch))
        else:
            self.sample(batch)

    def backward(self, batch: StepBatch) -> Tensor:
        """Forward and backward of a training step; the loss."""
        assert self.train_step is not None
        with self.timers["forward"].step():
            loss = mean_square(self.train_step.predict(batch.latents, batch.timesteps, batch.labels, **batch.told), batch.targets)
        # On this thread: where a fake device has no driver, torch has no thread for it.
        with self.timers["backward"].step(), torch.autograd.set_multithreading_enabled(False):
            self.train_step.backward(loss)
        return loss.detach()

    def update(self, loss: Tensor) -> None:
        """The rest of it. `loss` is alive for as long as in the trainer."""
        assert self.train_step is not None
        with self.timers["optimiser"].step():
            self.train_step.update(OPTIONS.warmup_steps, 0.0)

    @torch.no_grad()
    def sample(self, batch: StepBatch) -> None:
        """One evaluation of a sampler without guidance; the solver's own arithmetic is left out."""
        with autocast(self.device, self.half):
            self.backbone(batch.latents, batch.timesteps, batch.labels, **batch.told)

    def meter(self, phase: str, batch: StepBatch, *more: Any) -> StorageMeter:
        """A storage meter that knows what is alive before the step, `more` among it."""
        kinds: dict[str, Any] = {"buffers": [list(self.backbone.buffers()), list(_tables(self.backbone))]}
        if phase == "training":
            assert self.train_step is not None
            self.train_step.prepare(batch)
            kinds |= self.train_step.alive()
        given = (batch.latents, batch.targets, batch.timesteps, batch.labels, tensors_of(batch.told), more)
        return StorageMeter(*given, model=self.backbone, **kinds)

    def read_timers(self) -> dict[str, float]:
        """Seconds of each part since the last read; parts that did not run are left out."""
        return {part: sum(times) for part, timer in self.timers.items() if (times := timer.read())}


def _tables(backbone: nn.Module) -> Iterator[Tensor]:
    """Tensors that a module keeps as plain attributes, such as positions of the last shape."""
    for module in backbone.modules():
        for value in vars(module).values():
            yield from (leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor) and leaf.grad_fn is None)
