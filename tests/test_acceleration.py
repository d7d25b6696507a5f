"""Faster or smaller, the same mathematics."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bench.backbone import load_backbone
from bench.meters.storage import StorageMeter
from bench.study.cell import Acceleration
from bench.training.acceleration import accelerate
from bench.training.trainer import Trainer
from tests.tiny import SPEC, latent_set, tiny_cell

BACKBONES = ["dit:DiT-XS/2", "baselines:UNet-XS"]
RECOMPUTE = Acceleration(checkpointing="blocks")


def gradients(backbone: Any) -> tuple[Tensor, list[Tensor], int]:
    """Prediction, gradients and storage peak of one forward and backward with weights that are not zero."""
    torch.manual_seed(0)
    for weight in backbone.parameters():
        nn.init.normal_(weight, std=0.05)
    latents = [torch.randn(4, 8, 16, 16) for _ in range(2)]  # activations outweigh the weights
    with StorageMeter(list(backbone.parameters())) as meter:
        out = torch.stack(backbone(latents, torch.tensor([0.2, 0.8]), torch.tensor([0, 3])))
        out.square().mean().backward()
    return out.detach(), [weight.grad for weight in backbone.parameters()], meter.peak_bytes


@pytest.mark.parametrize("name", BACKBONES)
def test_recomputed_blocks_give_the_same_and_hold_less(name: str) -> None:
    plain: Any = load_backbone(name, SPEC)
    recomputed = copy.deepcopy(plain)
    accelerate(recomputed, RECOMPUTE)
    out, grads, peak_bytes = gradients(plain)
    same_out, same_grads, less_bytes = gradients(recomputed)
    assert torch.equal(out, same_out)
    assert all(torch.equal(a, b) for a, b in zip(grads, same_grads, strict=True))
    assert less_bytes < 0.75 * peak_bytes
    call = [out[0]], torch.ones(1), torch.zeros(1, dtype=torch.long)
    with torch.inference_mode():  # as in sampling
        assert torch.equal(plain(*call)[0], recomputed(*call)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
@pytest.mark.parametrize("name", BACKBONES)
def test_compiled_blocks_give_the_same(name: str, checkpointing: Any) -> None:
    plain: Any = load_backbone(name, SPEC)
    compiled = copy.deepcopy(plain)
    accelerate(compiled, Acceleration(compile="blocks", checkpointing=checkpointing))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    out, grads, _ = gradients(plain)
    with torch.no_grad():  # a storage meter would keep the compiler out
        compiled([torch.randn(4, 8, 16, 16)] * 2, torch.tensor([0.2, 0.8]), torch.tensor([0, 3]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    same_out, same_grads, _ = gradients(compiled)
    assert_close(same_out, out, rtol=1e-4, atol=1e-5)
    for same, grad in zip(same_grads, grads, strict=True):
        assert_close(same, grad, rtol=1e-3, atol=1e-5)


def test_training_with_recomputed_blocks_is_the_same_course(tmp_path: Path) -> None:
    courses = []
    for acceleration in (Acceleration(), RECOMPUTE):
        cell = tiny_cell(acceleration=acceleration.model_dump(), budget={"steps": 4})
        torch.manual_seed(0)
        backbone: Any = load_backbone(cell.backbone, SPEC)
        accelerate(backbone, cell.acceleration)
        folder = tmp_path / acceleration.checkpointing
        folder.mkdir()
        data = latent_set(shape=(4, 4, 8, 8))
        trainer = Trainer(
            cell, backbone, train=data, val=data, inputs="x", folder=folder, flops_of=lambda shape: 1, device=torch.device("cpu")
        )
        courses.append(trainer.train().loss)
    assert courses[0] == courses[1]


def test_weights_keep_their_names() -> None:
    backbone: Any = load_backbone("dit:DiT-XS/2", SPEC)
    before = list(backbone.state_dict())
    accelerate(backbone, Acceleration(compile="blocks", checkpointing="blocks"))
    assert list(backbone.state_dict()) == before


def test_a_backbone_without_blocks_is_refused_with_the_remedy() -> None:
    accelerate(nn.Linear(2, 2), Acceleration())
    with pytest.raises(ValueError, match=r"Linear has none; use acceleration\.compile=none"):
        accelerate(nn.Linear(2, 2), RECOMPUTE)
