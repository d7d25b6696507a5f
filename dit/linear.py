"""A linear layer that takes the faster of two float32 matrix products on a CPU. Same weights and sums as `nn.Linear`.

Torch gives float32 products to MKL, which leaves half of the vector unit of other makers' processors idle (AVX-512 on AMD:
2.2 times slower), and bfloat16 ones to oneDNN, which does not. oneDNN's float32 product has no derivative in torch; this
file adds it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """`nn.Linear` with bias, for many rows. `torch.backends.mkldnn.flags(enabled=False)` gives torch's own product back."""

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if takes_onednn(rows) and self.weight.dtype == torch.float32:
            return _OneDNNLinear.apply(rows.flatten(0, -2), self.weight, self.bias).unflatten(0, rows.shape[:-1])
        return F.linear(rows, self.weight, self.bias)


def takes_onednn(rows: Tensor) -> bool:
    """Whether a product of these rows runs in float32 on a CPU that has oneDNN. A compiler makes its own choice."""
    return (
        not torch.compiler.is_compiling()
        and rows.device.type == "cpu"
        and rows.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (N, in) @ weight (out, in)^T + bias (out,) -> (N, out)."""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    """`product` and its derivative: two more products and a sum."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad
        grad_weight = None
        if wants_weight:  # the first factor is copied into rows, so let it be the smaller one
            narrow_out = grad.shape[1] < rows.shape[1]
            grad_weight = product(grad.t(), rows.t()) if narrow_out else product(rows.t(), grad.t()).t()
        return product(grad, weight.t()) if wants_rows else None, grad_weight, grad.sum(0) if wants_bias else None
