"""The plain code of every change is the same mathematics: the gain that is measured is of speed alone."""

import importlib
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from bench.backbone import load_backbone
from tests.tiny import SPEC

BACKBONES = ("dit:DiT-XS/2", "baselines:UNet-XS")
CASES = [(name, change) for name in BACKBONES for change in importlib.import_module(f"{name.partition(':')[0]}.changes").PLAIN]


def gradients(backbone: Any, precision: torch.dtype) -> list[torch.Tensor]:
    backbone.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(1)
    latents = [torch.randn(4, 3, 4, 6, generator=generator) for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        out = torch.stack(backbone(latents, torch.tensor([0.2, 0.8]), torch.tensor([0, 3]))).float()
    out.square().mean().backward()
    return [out.detach(), *(weight.grad for weight in backbone.parameters())]


@pytest.mark.parametrize(("name", "change"), CASES)
def test_plain_code_gives_the_same(name: str, change: str) -> None:
    half = "bfloat16" in change or "precision" in change  # these are off in float32
    precision = torch.bfloat16 if half else torch.float32
    torch.manual_seed(0)
    backbone: Any = load_backbone(name, SPEC)
    for weight in backbone.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    fast = gradients(backbone, precision)
    with importlib.import_module(f"{name.partition(':')[0]}.changes").PLAIN[change]():
        plain = gradients(backbone, precision)
    for a, b in zip(fast, plain, strict=True):
        scale = float(b.abs().max()) or 1.0
        assert_close(a / scale, b / scale, rtol=0, atol=0.06 if half else 1e-4)
