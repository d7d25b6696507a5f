"""The plain formula of every operation is the same mathematics as the fast way: the gain that is measured is of speed alone."""

import importlib
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from bench.backbone import Operations, load_backbone
from tests.tiny import SPEC


def table(name: str) -> Operations:
    return importlib.import_module(f"{name.partition(':')[0]}.kernels").OPERATIONS


BACKBONES = ("dit:DiT-XS/2{depth: 2}", "baselines:UNet-XS{block_channels: [32, 64]}")
CASES = [(name, operation) for name in BACKBONES for operation in table(name)]
CLIPS = {True: [(3, 4, 6), (2, 4, 4), (3, 4, 6), (1, 8, 6)], False: [(3, 4, 6)] * 2}  # of a ragged backbone, and of another


def gradients(backbone: Any, precision: torch.dtype) -> list[torch.Tensor]:
    """Predictions, and gradients of the weights."""
    backbone.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(1)
    latents = [torch.randn(4, *shape, generator=generator) for shape in CLIPS[backbone.ragged]]
    labels = torch.arange(len(latents)) % 4
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        outputs = [output.float() for output in backbone(latents, torch.linspace(0.2, 0.8, len(latents)), labels)]
    torch.stack([output.square().mean() for output in outputs]).mean().backward()
    return [*(output.detach() for output in outputs), *(weight.grad for weight in backbone.parameters())]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "operation"), [*CASES, *((name, "all of them") for name in BACKBONES)])
def test_the_formula_gives_the_same(name: str, operation: str, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    backbone: Any = load_backbone(name, SPEC)
    for weight in backbone.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    fast = gradients(backbone, precision)
    with table(name).plain(*(table(name) if operation == "all of them" else [operation])):
        plain = gradients(backbone, precision)
    if precision == torch.bfloat16:  # single gradients are mostly rounding
        fast, plain = ([torch.cat([tensor.flatten() for tensor in tensors])] for tensors in (fast, plain))
        assert (fast[0] - plain[0]).norm() < 0.03 * plain[0].norm()
        return
    for a, b in zip(fast, plain, strict=True):
        scale = float(b.abs().max()) or 1.0
        assert_close(a / scale, b / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_chooses_by_name_and_lets_go(name: str) -> None:
    operations = table(name)
    first, second, *_ = operations
    with operations.plain(first):
        assert operations[first].chosen is operations[first].plain is not operations[first].fast
        assert operations[second].chosen is operations[second].fast
        with pytest.raises(ZeroDivisionError), operations.plain(first, second):
            assert operations[second].chosen is operations[second].plain
            raise ZeroDivisionError
        assert operations[first].chosen is operations[first].plain
    assert all(operation.chosen is operation.fast for operation in operations.values())
    with pytest.raises(ValueError, match=r"unknown operation 'lienar'.*; there are "), operations.plain("lienar"):
        pass
