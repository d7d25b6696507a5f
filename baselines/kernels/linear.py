"""Linear layers of a CPU by oneDNN, with the residual in the product, several layers of the same rows by one product, and the products
of attention to context once a clip.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines import operators
from baselines.kernels import private
from baselines.operators import Attend, to_map, to_tokens
from bench.backbone import PRODUCTS, Operation, is_sharded


def linear_by_onednn(layer: nn.Linear, tokens: Tensor, residual: Tensor | None = None) -> Tensor:
    """`operators.linear`. With the residual in the product a map is written once where it would be three times."""
    return multiplied(tokens, layer.weight, layer.bias, residual)


def qkv_in_one(attention: Attention, tokens: Tensor) -> Tensor:
    """`operators.query_key_value` by one product."""
    return multiplied(tokens, joined([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]), None, None)  # weights (3 C, C)


def multiplied(tokens: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """tokens weight^T + bias + residual: (F, S, in) -> (F, S, out)."""
    if by_onednn(tokens):
        rows = in_autocast(tokens)
        pays = "onednn" in PRODUCTS.values() if rows.dtype == torch.float32 else rows.dtype == torch.bfloat16
        if pays and (residual is None or residual.dtype == rows.dtype):
            return RowsProduct.apply(rows, in_autocast(weight), None if bias is None else in_autocast(bias), residual)
    output = F.linear(tokens.contiguous(), weight, bias)  # of what does not lie in rows, torch would add the bias apart
    return output if residual is None else output + residual  # the output is a view: derivatives of a sum in its place are five copies


def takes_onednn(tokens: Tensor) -> bool:
    """Whether products are oneDNN's. A compiler makes its own choice."""
    return (
        not torch.compiler.is_compiling()
        and tokens.device.type == "cpu"
        and private.LINEAR is not None
        and private.LINEAR_SUM is not None
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


class RowsProduct(torch.autograd.Function):
    """Products of rows; in backward by the library that is faster in float32. In half precision torch's own are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        rows = tokens.reshape(-1, tokens.shape[2])
        ctx.save_for_backward(rows, weight)
        shape = (*tokens.shape[:2], len(weight))
        if rows.dtype == torch.float32 and PRODUCTS["forward"] == "torch":
            output = F.linear(rows, weight, bias).view(shape)
            return output if residual is None else output.add_(residual)
        if residual is not None:
            return private.LINEAR_SUM(rows, residual.reshape(-1, len(weight)), weight, bias, "add").view(shape)
        return private.LINEAR(rows, weight, bias, "none", [], "").view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        needs_tokens, needs_weight, needs_bias, needs_residual = ctx.needs_input_grad
        grad = grads[0].reshape(-1, len(weight))
        grad_tokens = multiply("of_rows", grad, weight.t()).view(*grads[0].shape[:2], -1) if needs_tokens else None
        grad_weight = multiply("of_weights", grad.t(), rows.t()) if needs_weight else None
        return grad_tokens, grad_weight, grad.sum(0) if needs_bias else None, grads[0] if needs_residual else None


def multiply(kind: str, a: Tensor, b: Tensor) -> Tensor:
    """a b^T by the library that this kind of product is left to."""
    if a.dtype != torch.float32 or PRODUCTS[kind] == "torch":
        return a @ b.t()
    if a.stride(1) == 1 or len(a) < len(b):  # a first factor that does not lie in rows is copied, so let it be the smaller one
        return private.LINEAR(a, b, None, "none", [], "")
    return private.LINEAR(b, a, None, "none", [], "").t()


def projections_in_one(layers: Sequence[nn.Linear], rows: Tensor) -> list[Tensor]:
    """`operators.projections` by one product."""
    if any(map(is_sharded, layers)):  # gathered together, in the first one's call
        return operators.projections(layers, rows)
    weight = joined([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else joined([layer.bias for layer in layers])
    return list(F.linear(rows, weight, bias).split([layer.out_features for layer in layers], dim=-1))


def joined(weights: list[Tensor]) -> Tensor:
    """Weights one after another, in the type that autocast multiplies in: cast before they are joined, so that all can be cast at once."""
    weights = [in_autocast(weight) for weight in weights]
    return SideBySide.apply(*weights) if lie_side_by_side(weights) else torch.cat(weights)


def lie_side_by_side(weights: Sequence[Tensor]) -> bool:
    """Whether weights of one width are neighbours in one piece of memory, as copies of them may be."""
    if torch.compiler.is_compiling():
        return False
    first = weights[0]
    ends = itertools.accumulate((weight.numel() for weight in weights), initial=first.storage_offset())
    return all(
        weight.is_contiguous()
        and weight.untyped_storage()._cdata == first.untyped_storage()._cdata
        and (weight.storage_offset(), weight.shape[1:]) == (end, first.shape[1:])
        for weight, end in zip(weights, ends, strict=False)
    )


class SideBySide(torch.autograd.Function):
    """`torch.cat` of weights that lie side by side: the memory that they are in."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> Tensor:
        ctx.sizes = [len(weight) for weight in weights]
        first = weights[0]
        return first.as_strided((sum(ctx.sizes), *first.shape[1:]), first.stride()).data  # no view, which would be of the first alone

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0].split(ctx.sizes)


def in_autocast(tensor: Tensor) -> Tensor:
    """The tensor in the type that autocast would multiply it in."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor


def tokens_by_convolution(layer: nn.Linear, maps: Tensor) -> Tensor:
    """`operators.linear_to_tokens`. Of maps whose tokens are no view of them, a convolution, whose derivative is one call."""
    if maps.is_contiguous() and not maps.is_contiguous(memory_format=torch.channels_last):
        return to_tokens(as_convolution(layer, maps)).contiguous()
    return linear(layer, to_tokens(maps))


def map_by_sum(layer: nn.Linear, tokens: Tensor, residual: Tensor) -> Tensor:
    """`operators.linear_to_map`, where tokens are a view of a map, with the residual added to them; elsewhere a convolution."""
    if residual.is_contiguous(memory_format=torch.channels_last):
        return to_map(linear(layer, tokens, to_tokens(residual)), residual.shape[2])
    return residual + as_convolution(layer, to_map(tokens, residual.shape[2]))


def as_convolution(layer: nn.Linear, maps: Tensor) -> Tensor:
    """The layer at each voxel, (F, in, H, W) -> (F, out, H, W)."""
    return F.conv2d(maps, layer.weight[:, :, None, None], layer.bias)


def contexts_by_clip(attentions: Sequence[Attention], pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Attend, Tensor, Tensor]]:
    """`operators.contexts`. A query meets only n keys, so query and output weights are multiplied into keys and values first, those of
    equally wide layers together."""
    if any(is_sharded(attention.to_q) for attention in attentions):  # gathered in the call of the layer that they are in
        return [(attend_alone, *pair) for pair in pairs]
    found: dict[int, tuple[Attend, Tensor, Tensor]] = {}
    widths = [keys.shape[2] for keys, _ in pairs]
    for width in dict.fromkeys(widths):
        layers = [layer for layer, of_layer in enumerate(widths) if of_layer == width]
        rows = with_weights([attentions[layer] for layer in layers], [pairs[layer] for layer in layers])
        found |= {layer: (attend_rows, *pair) for layer, pair in zip(layers, rows, strict=True)}
    return [found[layer] for layer in range(len(pairs))]


def with_weights(attentions: Sequence[Attention], pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Of each layer, keys with the query weights and values with the output weights multiplied in: (B, n K, C) each."""
    num_clips, num_tokens, width = pairs[0][0].shape
    heads = attentions[0].heads
    keys, values = (torch.stack([pair[which].reshape(-1, heads, width // heads).transpose(0, 1) for pair in pairs]) for which in (0, 1))
    rows = torch.cat([keys * attentions[0].scale, values])  # (2 layers, K, B n, E)
    of_query = [in_autocast(attention.to_q.weight).unflatten(0, (heads, -1)) for attention in attentions]  # (K, E, C) each
    of_output = [in_autocast(attention.to_out[0].weight).t().unflatten(0, (heads, -1)) for attention in attentions]  # (K, E, C) each
    products = rows.flatten(0, 1) @ torch.stack(of_query + of_output).flatten(0, 1)  # (2 layers K, B n, C)
    by_clip = products.view(-1, heads, num_clips, num_tokens, width).permute(0, 2, 3, 1, 4).flatten(2, 3).unbind()  # (B, n K, C) each
    return list(zip(by_clip[: len(pairs)], by_clip[len(pairs) :], strict=True))


def attend_rows(attention: Attention, tokens: Tensor, to_scores: Tensor, to_output: Tensor, *, residual: Tensor) -> Tensor:
    """`operators.attend_context` given what `with_weights` makes of keys and values, (B, n K, C) each."""
    by_clip = (len(to_scores), -1, tokens.shape[2])
    scores = tokens.reshape(by_clip) @ to_scores.transpose(1, 2)  # (B, T S, n K)
    weights = scores.unflatten(2, (-1, attention.heads)).softmax(dim=2).flatten(2)
    output = torch.baddbmm(residual.reshape(by_clip), weights, to_output)
    return output.add_(attention.to_out[0].bias.to(output.dtype)).view(tokens.shape)


def attend_alone(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor, *, residual: Tensor) -> Tensor:
    """`operators.attend_context`, one layer's weights multiplied in."""
    ((to_scores, to_output),) = with_weights([attention], [(keys, values)])
    return attend_rows(attention, tokens, to_scores, to_output, residual=residual)


by_onednn = Operation(lambda tokens: False, takes_onednn)
linear = Operation(operators.linear, linear_by_onednn)
query_key_value = Operation(operators.query_key_value, qkv_in_one)
projections = Operation(operators.projections, projections_in_one)
linear_to_tokens = Operation(operators.linear_to_tokens, tokens_by_convolution)
linear_to_map = Operation(operators.linear_to_map, map_by_sum)
contexts = Operation(operators.contexts, contexts_by_clip)
