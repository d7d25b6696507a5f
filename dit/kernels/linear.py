"""Linear layers by the faster of two libraries of float32 products on a CPU.

Torch gives float32 products to MKL, which leaves half of the vector unit idle on some processors, where it takes twice as long as oneDNN,
and is the faster on others: `bench.backbone.PRODUCTS` says which is meant to multiply. bfloat16 ones torch gives to oneDNN. oneDNN's
float32 product has no derivative in torch; this file adds it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.backbone import PRODUCTS, Operation
from dit.kernels import private


def onednn_linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` by oneDNN, rows (..., in), weight (out, in) -> (..., out).

    `torch.backends.mkldnn.flags(enabled=False)` gives torch's own product back.
    """
    if takes_onednn(rows) and weight.dtype == torch.float32 and "onednn" in PRODUCTS.values():
        return ChosenLinear.apply(rows.flatten(0, -2), weight, bias).unflatten(0, rows.shape[:-1])
    return F.linear(rows, weight, bias)


def takes_onednn(rows: Tensor) -> bool:
    """Whether a product of these rows runs in float32 on a CPU that has oneDNN. A compiler makes its own choice."""
    return (
        not torch.compiler.is_compiling()
        and rows.device.type == "cpu"
        and rows.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and private.LINEAR is not None
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (N, in) @ weight (out, in)^T + bias (out,) -> (N, out)."""
    return private.LINEAR(rows, weight, bias, "none", [], "")


class ChosenLinear(torch.autograd.Function):
    """`F.linear` and its derivative, two more products and a sum, each product by its library."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return product(rows, weight, bias) if PRODUCTS["forward"] == "onednn" else F.linear(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad
        grad_rows = grad_weight = None
        if wants_rows:
            grad_rows = product(grad, weight.t()) if PRODUCTS["of_rows"] == "onednn" else grad @ weight
        if wants_weight and PRODUCTS["of_weights"] == "torch":
            grad_weight = grad.t() @ rows
        elif wants_weight:  # the first factor is copied into rows, so let it be the smaller one
            narrow_out = grad.shape[1] < rows.shape[1]
            grad_weight = product(grad.t(), rows.t()) if narrow_out else product(rows.t(), grad.t()).t()
        return grad_rows, grad_weight, grad.sum(0) if wants_bias else None


linear = Operation(F.linear, onednn_linear)
