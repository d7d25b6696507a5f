"""Linear layers of a CPU as 1x1 convolutions, which run in oneDNN, several layers of the same rows by one product, and the products of
attention to context once a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines import operators
from baselines.kernels.maps import add
from baselines.operators import to_map, to_tokens
from bench.backbone import Operation, is_sharded


@torch.compiler.assume_constant_result
def one_thread() -> bool:
    """Whether torch computes on one thread."""
    return torch.get_num_threads() == 1


def by_convolution(tokens: Tensor) -> bool:
    """Whether products are convolutions."""
    return tokens.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def linear_by_onednn(layer: nn.Linear, tokens: Tensor, residual: Tensor | None = None) -> Tensor:
    """`operators.linear`. Matrix products run in MKL, measured at half the speed of oneDNN's convolutions on an AMD processor; in half
    precision they run in oneDNN as well."""
    if by_convolution(tokens):
        return ConvolvedLinear.apply(tokens, layer.weight, layer.bias, residual, one_thread())
    output = F.linear(tokens, layer.weight, layer.bias)
    return output if residual is None else output + residual  # the output is a view: derivatives of a sum in its place are five copies


def qkv_in_one(attention: Attention, tokens: Tensor) -> Tensor:
    """`operators.query_key_value` by one product."""
    weight = joined([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])  # (3 C, C)
    if by_convolution(tokens):
        return ConvolvedLinear.apply(tokens, weight, None, None, one_thread())
    return F.linear(tokens, weight)


def projections_in_one(layers: Sequence[nn.Linear], rows: Tensor) -> list[Tensor]:
    """`operators.projections` by one product."""
    if any(map(is_sharded, layers)):  # gathered together, in the first one's call
        return operators.projections(layers, rows)
    weight = joined([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else joined([layer.bias for layer in layers])
    return list(F.linear(rows, weight, bias).split([layer.out_features for layer in layers], dim=-1))


def joined(weights: list[Tensor]) -> Tensor:
    """Weights one after another, in the type that autocast multiplies in: cast before they are joined, so that all can be cast at once."""
    device = weights[0].device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        weights = [weight.to(torch.get_autocast_dtype(device)) for weight in weights]
    return torch.cat(weights)


class ConvolvedLinear(torch.autograd.Function):
    """Products with the weights as convolutions of maps (F, in, 1, S), the gradient of the weights only on one thread.

    On more, oneDNN's threads wait for each other there by spinning: beside other work on the cores each call loses a time slice of 4 ms.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, one_thread: bool) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        ctx.one_thread = one_thread
        output = F.conv2d(as_map(tokens), weight[:, :, None, None], bias).permute(0, 2, 3, 1).squeeze(1)  # (F, S, out)
        return output if residual is None else add(output, residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (tokens, weight), grad = ctx.saved_tensors, grads[0].contiguous()
        needs_tokens, needs_weight, needs_bias, needs_residual, _ = ctx.needs_input_grad
        by_convolution = [needs_tokens, needs_weight and ctx.one_thread, False]
        grad_map, grad_weight, _ = torch.ops.aten.convolution_backward(
            as_map(grad), as_map(tokens), weight[:, :, None, None], None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, by_convolution
        )
        grad_tokens = grad_map.permute(0, 2, 3, 1).squeeze(1) if needs_tokens else None
        if needs_weight:
            grad_weight = grad_weight[:, :, 0, 0] if by_convolution[1] else grad.flatten(0, 1).t() @ tokens.flatten(0, 1)
        return grad_tokens, grad_weight, grad.sum((0, 1)) if needs_bias else None, grad if needs_residual else None, None


def as_map(tokens: Tensor) -> Tensor:
    """(F, S, C) -> (F, C, 1, S)."""
    return tokens.unsqueeze(1).permute(0, 3, 1, 2)


def linear_onto_tokens(layer: nn.Linear, tokens: Tensor, residual: Tensor) -> Tensor:
    """`operators.linear_to_map`, where tokens are a view of a map, with the residual added to them."""
    if residual.is_contiguous(memory_format=torch.channels_last):
        return to_map(linear(layer, tokens, to_tokens(residual)), residual.shape[2])
    return residual + to_map(linear(layer, tokens), residual.shape[2])


def attend_context_by_clip(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor, *, residual: Tensor) -> Tensor:
    """`operators.attend_context`. A query meets only n keys, so query and output weights are multiplied into keys and values first."""
    num_clips, num_tokens, _ = keys.shape
    heads = (attention.heads, -1)
    keys, values = (keys * attention.scale).unflatten(2, heads), values.unflatten(2, heads)  # (B, n, K, E) each
    query_weight = attention.to_q.weight.unflatten(0, heads)  # (K, E, C)
    output_weight = attention.to_out[0].weight.unflatten(1, heads)  # (C, K, E)
    to_scores = torch.einsum("bnke,kec->bcnk", keys, query_weight).flatten(2)  # (B, C, n K)
    to_output = torch.einsum("bnke,cke->bnkc", values, output_weight).flatten(1, 2)  # (B, n K, C)
    by_clip = (num_clips, -1, tokens.shape[2])
    scores = tokens.reshape(by_clip) @ to_scores  # (B, T S, n K)
    weights = scores.unflatten(2, (num_tokens, -1)).softmax(dim=2).flatten(2)
    output = torch.baddbmm(residual.reshape(by_clip), weights, to_output)
    return output.add_(attention.to_out[0].bias.to(output.dtype)).view(tokens.shape)


linear = Operation(operators.linear, linear_by_onednn)
query_key_value = Operation(operators.query_key_value, qkv_in_one)
projections = Operation(operators.projections, projections_in_one)
linear_to_map = Operation(operators.linear_to_map, linear_onto_tokens)
attend_context = Operation(operators.attend_context, attend_context_by_clip)
