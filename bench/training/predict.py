"""Peak memory of a step on a device that need not be here: the same code, run on tensors that have a shape and no contents."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_map_only

from bench.backbone import check_latents, load_backbone
from bench.meters.storage import StorageMeter
from bench.meters.text import stand_in_text
from bench.records.record import Memory
from bench.shapes import LatentSpec, Refusal
from bench.study.cell import Acceleration
from bench.training.acceleration import accelerate
from bench.training.draws import Drawn
from bench.training.step import OPTIONS, Stepper, StepPoint, make_batch, tensors_of

PLAIN = Acceleration()


def code_path(device_type: str) -> str:
    """The device whose code a prediction runs. A torch built without CUDA cannot differentiate on a fake CUDA device."""
    return "cpu" if torch.version.cuda is None else device_type


class Predictor:
    """Predicts the peaks of one backbone at any batch and shape. Its tensors are its own: nothing of them is left behind."""

    def __init__(self, name: str, spec: LatentSpec, precision: str, device_type: str, acceleration: Acceleration = PLAIN):
        """`acceleration`: whether blocks are computed again; all else that it asks changes no tensor that lives for long."""
        self.name, self.spec = name, spec
        self.device = torch.device(code_path(device_type))
        # On a CPU that stands in for a GPU float16: as large as bfloat16, and no CPU's own way of doing bfloat16.
        half = torch.bfloat16 if self.device.type == device_type else torch.float16
        self._mode = FakeTensorMode()
        with torch.device("meta"):
            backbone: Any = load_backbone(name, spec)
        accelerate(backbone, acceleration.model_copy(update={"compile": "none"}))
        with self._mode:
            _make_fake(backbone, self.device)
            self._stepper = Stepper(backbone, self.device, precision, trains=True, half=half)
        self.num_params = sum(weight.numel() for weight in backbone.parameters() if weight.requires_grad)
        self.num_tokens, self.check = backbone.num_tokens, functools.partial(check_latents, backbone)
        self._update_bytes: int | None = None  # peak of clipping, optimiser and average, less the batch
        self.peak_bytes = functools.cache(self._peak_bytes)

    def peak(self, phase: str, point: StepPoint) -> Memory:
        """The whole step, and what is alive at its peak."""
        self.check(point.shape)
        self._stepper.backbone.train(phase == "training")
        with self._running():
            batch = make_batch(self.spec, point, phase, self.device)
            with self._stepper.meter(phase, batch) as meter:
                self._stepper.step(phase, batch)
        return to_memory(meter)

    def peak_drawn(self, drawn: Drawn) -> Memory:
        """Of the trainer's step on a batch of such tensors, wherever they are, and what is alive at its peak."""
        train_step = self._stepper.train_step
        assert train_step is not None
        self._stepper.backbone.train()
        with self._running():
            batch = replace(drawn, **{name: tree_map_only(Tensor, self._like, value) for name, value in vars(drawn).items()})
            past = {name: value for name, value in batch.told.items() if name == "clean"}
            batch = replace(batch, told=past | stand_in_text(self.spec, len(batch.latents), self.device))  # no encoder is here
            with self._stepper.meter("training", batch) as meter:
                train_step(batch.loss, OPTIONS.warmup_steps, 0.0)
        return to_memory(meter)

    def _like(self, tensor: Tensor) -> Tensor:
        device = tensor.device if tensor.device.type == "cpu" else self.device  # which tokens are kept is known on the host
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    def _peak_bytes(self, phase: str, point: StepPoint) -> int:
        """The number of bytes alone, for searches: what follows the backward pass is run once only, as it costs the same at every shape.

        Off by what the backbone keeps for a shape, such as positions, where the peak is in that part.
        """
        if phase == "sampling":
            return self.peak(phase, point).num_bytes
        self.check(point.shape)
        stepper = self._stepper
        stepper.backbone.train()
        with self._running():
            batch = make_batch(self.spec, point, phase, self.device)
            with stepper.meter(phase, batch) as meter:
                loss = stepper.backward(batch)
            given = [*batch.latents, *batch.targets, batch.timesteps, *tensors_of(batch.told)]
            given += [] if batch.labels is None else [batch.labels]
            inputs_bytes = sum(tensor.nbytes for tensor in given)
            if self._update_bytes is None:
                with stepper.meter(phase, batch, loss, [weight.grad for weight in stepper.params]) as after:
                    stepper.update(loss)
                self._update_bytes = after.peak_bytes - inputs_bytes
            for weight in stepper.params:
                weight.grad = None
        return max(meter.peak_bytes, self._update_bytes + inputs_bytes)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        try:
            with self._mode:
                yield
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Refusal(f"{self.name} cannot be predicted: its code depends on what a tensor holds ({error})") from error
        finally:
            self._stepper.read_timers()  # they mean nothing here


def to_memory(meter: StorageMeter) -> Memory:
    """What a meter saw."""
    modules: dict[str, int] = {}
    for name, num_bytes in meter.by_module().items():
        modules[_part(name)] = modules.get(_part(name), 0) + num_bytes
    return Memory(num_bytes=meter.peak_bytes, split=meter.split(), by_module=dict(sorted(modules.items(), key=lambda item: -item[1])))


def _part(name: str) -> str:
    """The module's name up to its first index: 'unet.down_blocks.1.resnets.0.conv1' -> 'unet.down_blocks.1'."""
    words = name.split(".")
    index = next((place for place, word in enumerate(words) if word.isdigit()), len(words) - 1)
    return ".".join(words[: index + 1])


def _make_fake(backbone: nn.Module, device: torch.device) -> None:
    """Put fake tensors on `device` in the place of those on `meta`: weights, buffers, and those that are plain attributes."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:  # a tied weight stays tied
            other = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
            made[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else other
        return made[id(tensor)]

    for module in backbone.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            held.update({key: fake(value) for key, value in held.items() if isinstance(value, Tensor)})  # type: ignore[misc]
