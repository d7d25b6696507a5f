"""What packing is measured against computes the same, or its times would say nothing."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from bench.perf.controls import KERNELS, Padded
from bench.shapes import Shape
from tests.small_dit import MIXED, SAME_LENGTH, UNIFORM, batch, losses, small_dit


@pytest.mark.parametrize("shapes", [MIXED, UNIFORM, SAME_LENGTH, MIXED[:1], [(2, 4, 6), (1, 2, 2), (2, 4, 6)]])
def test_padded_clips_are_predicted_as_packed_ones(shapes: list[Shape]) -> None:
    model = small_dit()
    results = []
    for network in (model, Padded(model)):
        outputs = network(*batch(shapes))
        results.append([*outputs, *torch.autograd.grad(losses(outputs), list(model.parameters()))])
    for packed, padded in zip(*results, strict=True):
        assert_close(padded, packed, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_attend_alike(kernel: str) -> None:
    seqlens = (3, 9, 9, 1, 5)
    qkv = torch.randn(27, 3, 2, 8, requires_grad=True)
    upper = torch.randn(27, 2, 8)
    results = []
    for attend in (KERNELS[kernel], KERNELS["torch's kernel clip by clip"]):
        heads = attend(qkv, seqlens)
        results.append((heads, *torch.autograd.grad(heads, qkv, upper)))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, atol=1e-5, rtol=1e-5)
