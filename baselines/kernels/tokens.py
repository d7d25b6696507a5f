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


def attention_by_products(qkv: Tensor, most_problems: int = MOST_PROBLEMS) -> Tensor:
    """`operators.attention_over_time`, (B, T, S, 3, K, E) -> (B, T, S, K, E); in a fused kernel, `most_problems` at a time."""
    batch, num_frames, voxels, _, heads, width = qkv.shape
    if qkv.device.type == "cpu" and num_frames <= width:
        mixed = AttentionByProducts.apply(qkv)
    else:
        rows = qkv.permute(3, 0, 2, 4, 1, 5).reshape(3, -1, heads, num_frames, width)
        parts = zip(*(each.split(most_problems) for each in rows.unbind()), strict=True)  # (B S, K, T, E) each
        outputs = [F.scaled_dot_product_attention(*part) for part in parts]
        mixed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return mixed.view(batch, voxels, heads, num_frames, width).permute(0, 3, 1, 2, 4)


class AttentionByProducts(torch.autograd.Function):
    """Many tiny problems, (B, T, S, 3, K, E) -> (B S K, T, E): a fused kernel pays for each, several times over on two threads.

    Keys come first, as a softmax over the last of so few columns is slow. The weights take no more memory than the queries.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:
        _, num_frames, _, _, _, width = qkv.shape
        rows = qkv.permute(3, 0, 2, 4, 1, 5).reshape(3, -1, num_frames, width)  # (3, B S K, T, E)
        query, key, value = rows
        weights = scaled_product(key, query.transpose(1, 2), width).softmax(dim=1, dtype=rows.dtype)  # (B S K, T keys, T)
        ctx.save_for_backward(rows, weights)
        ctx.shape = qkv.shape
        return weights.transpose(1, 2) @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (rows, weights), (grad,) = ctx.saved_tensors, grads
        query, key, value = rows
        batch, num_frames, voxels, _, heads, width = ctx.shape
        grad_scores = torch._softmax_backward_data(value @ grad.transpose(1, 2), weights, 1, weights.dtype)
        of_query = scaled_product(grad_scores.transpose(1, 2), key, width)
        parts = (of_query, scaled_product(grad_scores, query, width), weights @ grad)
        # Stacked as the product that made them wants it.
        by_voxel = (part.view(batch, voxels, heads, num_frames, width).permute(0, 3, 1, 2, 4) for part in parts)
        return torch.stack(tuple(by_voxel), dim=3)


def scaled_product(a: Tensor, b: Tensor, width: int) -> Tensor:
    """a b / sqrt(width), of batches of matrices."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=width**-0.5)


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
        if torch.compiler.is_compiling():  # it refuses `out=` for a slice, and fuses this
            return torch.cat([F.gelu(gate).mul_(grad), torch.ops.aten.gelu_backward(grad * value, gate)], dim=-1)
        result = torch.empty_like(projected)
        grad_value, grad_gate = result.chunk(2, dim=-1)
        torch.ops.aten.gelu.out(gate, out=grad_value).mul_(grad)
        torch.mul(grad, value, out=grad_gate)
        torch.ops.aten.gelu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return result


attention_over_time = Operation(operators.attention_over_time, attention_by_products)
gated_gelu = Operation(operators.gated_gelu, GatedGELU.apply)
