"""The product that oneDNN does: torch's numbers, taken where it is meant to be and nowhere else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from dit.model import Linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


class Operators(TorchDispatchMode):
    """Names of all operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def gradients(output: Tensor, of: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad((output * weights).sum(), of))


@pytest.mark.parametrize(("num_in", "num_out"), [(24, 40), (40, 24), (16, 16)])
@pytest.mark.parametrize("rows_shape", [(7,), (3, 5), (1, 11)])
def test_is_nn_linear(rows_shape: tuple[int, ...], num_in: int, num_out: int) -> None:
    layer, rows = Linear(num_in, num_out), torch.randn(*rows_shape, num_in, requires_grad=True)
    nn.init.normal_(layer.bias)
    output, expected = layer(rows), F.linear(rows, layer.weight, layer.bias)
    assert_close(output, expected)
    wanted = [rows, layer.weight, layer.bias]
    for gradient, theirs in zip(gradients(output, wanted), gradients(expected, wanted), strict=True):
        assert_close(gradient, theirs)


def test_frozen_parts_get_no_gradient() -> None:
    layer, rows = Linear(8, 4), torch.randn(3, 8)
    layer.bias.requires_grad_(False)
    layer(rows).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is None and rows.grad is None


@needs_onednn
def test_runs_on_onednn_in_float32_only() -> None:
    layer, rows = Linear(8, 4), torch.randn(3, 8)

    def taken() -> bool:
        with Operators() as seen:
            layer(rows)
        return any("mkldnn" in name for name in seen.names)

    assert taken()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not taken()
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert not taken()
    layer, rows = layer.double(), rows.double()
    assert not taken()
