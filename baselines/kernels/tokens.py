"""Attention over time and the gated GELU of a transformer's feed-forward layer, in fewer and larger steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from baselines import operators
from bench.backbone import Operation

MOST_PROBLEMS = 65535  # small attentions in one launch of a fused kernel: CUDA's grids end there (pytorch/pytorch issue 142228)


def attention_by_products(query: Tensor, key: Tensor, value: Tensor, most_problems: int = MOST_PROBLEMS) -> Tensor:
    """`operators.attention_over_time`, (B, T, S, K, E) each -> same shape; in a fused kernel, `most_problems` at a time."""
    batch, num_frames, voxels, heads, width = query.shape
    query, key, value = (each.permute(0, 2, 3, 1, 4).reshape(-1, num_frames, width) for each in (query, key, value))  # (B S K, T, E)
    if query.device.type == "cpu" and num_frames <= width:
        # Many tiny problems: the fused kernel pays for each, several times over on two threads. Keys come first, as a softmax over
        # the last of so few columns is slow. The weights take no more memory than the queries.
        scores = torch.baddbmm(query.new_empty(1, 1, 1), key, query.transpose(1, 2), beta=0, alpha=width**-0.5)  # (B S K, T keys, T)
        mixed = scores.softmax(dim=1).transpose(1, 2) @ value
    else:
        query, key, value = (each.unflatten(0, (-1, heads)) for each in (query, key, value))  # (B S, K, T, E)
        parts = zip(*(each.split(most_problems) for each in (query, key, value)), strict=True)
        outputs = [F.scaled_dot_product_attention(*part) for part in parts]
        mixed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return mixed.view(batch, voxels, heads, num_frames, width).permute(0, 3, 1, 2, 4)


class GatedGELU(torch.autograd.Function):
    """`operators.gated_gelu` that keeps its input alone, and writes both halves of the gradient where they belong."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:
        ctx.save_for_backward(projected)
        value, gate = projected.chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (projected,), (grad,) = ctx.saved_tensors, grads
        value, gate = projected.chunk(2, dim=-1)
        result = torch.empty_like(projected)
        grad_value, grad_gate = result.chunk(2, dim=-1)
        # Not by `out=`, which torch.compile refuses for a slice.
        torch.ops.aten.gelu_(grad_value.copy_(gate)).mul_(grad)
        grad_gate.copy_(torch.ops.aten.gelu_backward(grad_gate.copy_(grad).mul_(value), gate))
        return result


attention_over_time = Operation(operators.attention_over_time, attention_by_products)
gated_gelu = Operation(operators.gated_gelu, GatedGELU.apply)
