"""Canaries: they pass for sound backbones and catch broken ones."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.backbone import load_backbone
from bench.data.policy import order
from bench.training.canary import batch_against_single, resumed_against_uninterrupted, run_canaries
from bench.training.trainer import Trainer
from tests.tiny import SPEC, Linear, latent_set, tiny_cell

CPU = torch.device("cpu")
SHAPE = (3, 4, 2)


class Leaky(Linear):
    """Lets clips of a batch see each other."""

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        mean = torch.stack([clip.mean() for clip in latents]).mean()
        return [clip + mean for clip in super().forward(latents, timesteps, labels)]


def test_a_sound_backbone_passes() -> None:
    cell = tiny_cell(backbone="tests.tiny:Linear")
    canaries = run_canaries(tiny_cell(), Linear(), SPEC, SHAPE, latent_set(), latent_set(4), CPU)
    assert {canary.name for canary in canaries} >= {"batch equals one at a time", "resumed equals uninterrupted"}
    assert all(canary.passed for canary in canaries), canaries
    assert cell.backbone == "tests.tiny:Linear"


def test_a_large_set_is_not_permuted_for_a_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    window_clips = order.window_clips
    monkeypatch.setattr(order, "window_clips", lambda *given: [asked.append(given[-1]), window_clips(*given)][1])
    cell = tiny_cell(batching={"batch_size": 2, "shuffle_window": 4})
    assert resumed_against_uninterrupted(cell, Linear(), latent_set(), latent_set(4), CPU) == 0.0
    assert set(asked) == {4}


@pytest.mark.parametrize("name", ["dit:DiT-XS/2", "baselines:UNet-XS"])
def test_bfloat16_resumes_bit_for_bit(name: str) -> None:
    """The weights to cast are looked for anew; what is computed is the same."""
    cell = tiny_cell(backbone=name, precision="bf16")
    torch.manual_seed(0)
    data = latent_set(shape=(4, 3, 4, 4))
    backbone: Any = load_backbone(name, SPEC)
    assert resumed_against_uninterrupted(cell, backbone, data, data, CPU) == 0.0


def test_a_leak_between_clips_is_caught() -> None:
    assert batch_against_single(Linear(), SPEC, SHAPE, CPU) < 1e-5
    assert batch_against_single(Leaky(), SPEC, SHAPE, CPU) > 1e-2
    canaries = run_canaries(tiny_cell(), Leaky(), SPEC, SHAPE, latent_set(), latent_set(4), CPU)
    assert [canary.passed for canary in canaries if canary.name == "batch equals one at a time"] == [False]


def test_a_checkpoint_that_forgets_is_caught(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    assert resumed_against_uninterrupted(tiny_cell(), Linear(), latent_set(), latent_set(4), CPU) == 0.0
    save = Trainer.save

    def forgetful(self: Trainer) -> None:
        for state in self.train_step.optimizer.state.values():
            state["exp_avg"].zero_()
        save(self)

    monkeypatch.setattr(Trainer, "save", forgetful)
    assert resumed_against_uninterrupted(tiny_cell(), Linear(), latent_set(), latent_set(4), CPU) > 0.0


def test_the_backbone_is_left_as_it_was() -> None:
    backbone = Linear()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    run_canaries(tiny_cell(), backbone, SPEC, SHAPE, latent_set(), latent_set(4), CPU)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
