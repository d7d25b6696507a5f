"""Weights are cast once a step, and what is computed is what autocast computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.backbone import load_backbone
from bench.meters.operators import OperatorCounter
from bench.study.cell import Acceleration, Optimizer
from bench.training.acceleration import accelerate
from bench.training.half_weights import ALIGNMENT, side_by_side
from bench.training.objective import mean_square
from bench.training.step import TrainStep
from tests.tiny import SPEC

CPU = torch.device("cpu")
BACKBONES = ["dit:DiT-XS/2", "baselines:UNet-XS"]


def awake(name: str) -> Any:
    """The backbone with weights that are not zero, the same on every call."""
    torch.manual_seed(0)
    backbone: Any = load_backbone(name, SPEC)
    for weight in backbone.parameters():
        if not bool(weight.any()):
            nn.init.normal_(weight, std=0.05)
    return backbone.train()


def course(backbone: nn.Module, *, by_autocast: bool, num_steps: int = 3) -> tuple[list[float], list[Tensor], TrainStep]:
    """Losses of some steps in bfloat16, the gradients of the last, and the step."""
    step = TrainStep(backbone, Optimizer(warmup_steps=0), CPU, torch.bfloat16)
    if by_autocast:
        step._half_weights = None
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(4, 3, 4, 4, generator=generator) for _ in range(2)]
    times, labels = torch.tensor([0.2, 0.8]), torch.tensor([0, 3])
    losses = []
    for number in range(num_steps):
        loss = mean_square(step.predict(latents, times, labels), latents)
        step.backward(loss)
        grads = [weight.grad.clone() for weight in step.params if weight.grad is not None]
        step.update(number, 0.0)
        losses.append(loss.item())
    return losses, grads, step


def assert_same(make: Callable[[], nn.Module]) -> TrainStep:
    """Both ways compute the same to the bit; the step that casts once."""
    losses, grads, _ = course(make(), by_autocast=True)
    same_losses, same_grads, step = course(make(), by_autocast=False)
    assert losses == same_losses
    assert all(torch.equal(a, b) for a, b in zip(grads, same_grads, strict=True))
    assert all(grad.dtype == torch.float32 for grad in same_grads)
    return step


def num_cast(step: TrainStep) -> int:
    """Weights that are cast together."""
    assert step._half_weights is not None and step._half_weights._weights is not None
    return len(step._half_weights._weights)


@pytest.mark.parametrize("name", BACKBONES)
def test_losses_and_gradients_are_those_of_autocast_bit_for_bit(name: str) -> None:
    step = assert_same(lambda: awake(name))
    names = {id(weight): name for name, weight in step.backbone.named_parameters()}
    cast = {names[id(weight)] for weight in step._half_weights._weights}  # type: ignore[union-attr, arg-type]
    assert len(cast) > 0.4 * len(names)
    assert not {name for name in cast if "norm" in name or "modulation" in name}


@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_that_are_recomputed_find_the_same_weights(name: str) -> None:
    def recomputed() -> nn.Module:
        backbone = awake(name)
        accelerate(backbone, Acceleration(checkpointing="blocks"))
        return backbone

    assert num_cast(assert_same(recomputed)) > 0
    assert course(recomputed(), by_autocast=False)[0] == course(awake(name), by_autocast=False)[0]


class Plugin(nn.Module):
    """Somebody's network of one convolution between two linear layers, (C, T, H, W) a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.unused = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 4)
        self.norm, self.mix = nn.LayerNorm(8), nn.Conv1d(8, 8, 1)

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        rows = torch.stack(latents).flatten(2).transpose(1, 2) + self.time(timesteps)
        return list(self.out(self.middle(self.into(rows))).transpose(1, 2).view(len(latents), *latents[0].shape))

    def time(self, timesteps: Tensor) -> Tensor:
        return timesteps[:, None, None]

    def middle(self, rows: Tensor) -> Tensor:
        return self.mix(self.norm(rows).transpose(1, 2)).transpose(1, 2)


class TiedAndExact(Plugin):
    """One weight in two places, and one that stays in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.exact = nn.Linear(8, 8)
        self.again = nn.Linear(8, 4)
        self.again.weight = self.out.weight

    def middle(self, rows: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            rows = self.exact(rows.float())
        return super().middle(rows + torch.nn.functional.pad(self.again(rows), (0, 4)))


class ReadInBothTypes(Plugin):
    """A weight that is cast, and also read as it is."""

    def middle(self, rows: Tensor) -> Tensor:
        return super().middle(rows) + self.mix.weight.sum()


class DropoutAndRunningMean(Plugin):
    """Randomness, and a buffer that a pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.running = nn.BatchNorm1d(8)

    def middle(self, rows: Tensor) -> Tensor:
        return super().middle(self.running(torch.nn.functional.dropout(rows, 0.5).transpose(1, 2)).transpose(1, 2))


class AsksForTheType(Plugin):
    """Computes in the type of its weights, as diffusers' models do: in float32 under autocast, and in what else would stand there."""

    def time(self, timesteps: Tensor) -> Tensor:
        return (1000 * timesteps.to(self.into.weight.dtype)[:, None, None]).sin()


# Layers whose weight and bias are cast: into, out, mix.
@pytest.mark.parametrize(("plugin", "num"), [(Plugin, 6), (TiedAndExact, 7), (ReadInBothTypes, 5), (DropoutAndRunningMean, 6)])
def test_any_backbone_is_served(plugin: type[Plugin], num: int) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return plugin()

    step = assert_same(make)
    assert num_cast(step) == num
    assert step.backbone.unused.weight.grad is None


class LeavesOut(Plugin):
    """A layer that not every pass goes through."""

    through = True

    def middle(self, rows: Tensor) -> Tensor:
        return super().middle(rows) if self.through else rows


def test_a_weight_that_a_pass_left_out_has_no_gradient() -> None:
    *_, step = course(LeavesOut(), by_autocast=False)
    step.backbone.through = False
    clip = [torch.ones(4, 1, 2, 2)]
    step.backward(mean_square(step.predict(clip, torch.ones(1), None), clip))
    assert step.backbone.mix.weight.grad is None
    assert step.backbone.out.weight.grad is not None


def test_a_backbone_that_asks_for_the_type_of_its_weights_keeps_autocast() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return AsksForTheType()

    assert num_cast(assert_same(make)) == 0


def test_a_buffer_is_as_if_no_trial_had_been() -> None:
    means = []
    for by_autocast in (True, False):
        torch.manual_seed(0)
        backbone = DropoutAndRunningMean()
        course(backbone, by_autocast=by_autocast)
        means.append((backbone.running.running_mean, backbone.running.num_batches_tracked, torch.rand(1)))
    assert all(torch.equal(a, b) for a, b in zip(*means, strict=True))


def test_the_float32_weights_stand_in_their_places_after_a_step_and_after_a_failure() -> None:
    torch.manual_seed(0)
    backbone = Plugin()
    weights = dict(backbone.named_parameters())
    *_, step = course(backbone, by_autocast=False)
    assert all(weights[name] is weight for name, weight in backbone.named_parameters())
    with pytest.raises(RuntimeError):
        step.predict([torch.ones(5, 1, 2, 2)], torch.ones(1), None)
    assert all(weights[name] is weight for name, weight in backbone.named_parameters())


def test_copies_are_gone_before_gradients_are_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else weights, copies and both kinds of gradients would be alive at once."""
    *_, step = course(Plugin(), by_autocast=False)
    clip = [torch.ones(4, 1, 2, 2)]
    loss = mean_square(step.predict(clip, torch.ones(1), None), clip)
    types = []
    copy = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda *lists: (types.append(step.backbone.into.weight.dtype), copy(*lists))[1])
    assert step.backbone.into.weight.dtype == torch.bfloat16
    step.backward(loss)
    assert types == [torch.float32]


def test_copies_lie_side_by_side_in_the_layouts_of_the_weights() -> None:
    """So that weights of one product are joined where they lie; each starts where a kernel that reads many values at a time may."""
    weights = [torch.randn(4, 64), torch.randn(3), torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last)]
    copies = side_by_side(weights, torch.bfloat16)
    assert [(copy.shape, copy.stride()) for copy in copies] == [(weight.shape, weight.stride()) for weight in weights]
    assert [copy.storage_offset() for copy in copies] == [0, 256, 256 + ALIGNMENT]
    assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 1 and not any(copy._is_view() for copy in copies)


def test_float32_has_no_copies() -> None:
    assert TrainStep(Plugin(), Optimizer(), CPU, None)._half_weights is None


def test_the_casts_are_two_operators() -> None:
    step = course(Plugin(), by_autocast=False, num_steps=1)[2]
    clip = [torch.ones(4, 1, 2, 2)]
    counts = {}
    for way, half_weights in (("together", step._half_weights), ("autocast", None)):
        step._half_weights = half_weights
        step.backbone.zero_grad()
        with OperatorCounter() as counter:
            step.backward(mean_square(step.predict(clip, torch.ones(1), None), clip))
        counts[way] = counter.num_launches
    assert counts["autocast"] - counts["together"] == 2 * 6 - 2
