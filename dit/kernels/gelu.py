"""GELU in its tanh form from the fast sigmoid, where torch's own kernel is slow: on a CPU, in float32.

With z = 2 sqrt(2/pi) (x + 0.044715 x^3), tanh(z/2) = 2 sigmoid(z) - 1, so that x/2 (1 + tanh(z/2)) = x sigmoid(z).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.backbone import Operation

LINEAR = 2 * math.sqrt(2 / math.pi)  # z = x (LINEAR + CUBIC x^2)
CUBIC = 0.044715 * LINEAR
CHUNK = 2**17  # values at a time in backward, so that its temporaries stay in the cache
MOST_CHUNKS = 512  # each costs a few calls


def tanh_gelu(x: Tensor) -> Tensor:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), of any shape."""
    return F.gelu(x, approximate="tanh")


def sigmoid_gelu(x: Tensor) -> Tensor:
    """x sigmoid(z), of any shape."""
    if not torch.compiler.is_compiling() and x.device.type == "cpu" and x.dtype == torch.float32:
        return SigmoidGELU.apply(x.contiguous())
    return tanh_gelu(x)


class SigmoidGELU(torch.autograd.Function):
    """Passes over memory that the cache holds, in place where they can be: half the time of one pass of tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return exponent(x).sigmoid_().mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """With s = sigmoid(z): d(x s)/dx = s + s (1 - s) x dz/dx, and x dz/dx = 3 z - 2 LINEAR x."""
        (x,) = ctx.saved_tensors
        slopes = x.new_empty(x.shape)
        chunk = max(CHUNK, -(-x.numel() // MOST_CHUNKS))
        for values, out, grad_out in zip(*(part.view(-1).split(chunk) for part in (x, slopes, grad.contiguous())), strict=True):
            z = exponent(values)
            gate = torch.sigmoid(z, out=out)
            slope = z.add_(values, alpha=-2 / 3 * LINEAR)  # x dz/dx / 3
            torch.ops.aten.sigmoid_backward.grad_input(slope, gate, grad_input=slope)  # times s (1 - s)
            gate.add_(slope, alpha=3).mul_(grad_out)
        return slopes


def exponent(x: Tensor) -> Tensor:
    """z, see the module's docstring."""
    return torch.addcmul(x.new_tensor(LINEAR), x, x, value=CUBIC).mul_(x)


gelu = Operation(tanh_gelu, sigmoid_gelu)
