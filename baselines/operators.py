"""The few operators that cost a U-Net most of its time, each with the mathematics of the plain one. Choices by device are made here only.

A map is (F, C, H, W), F = B T frames of B clips. Its tokens are (F, S, C), S = H W: a free view of a map in channels-last layout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PROBLEMS = 65535  # small attentions in one launch of a fused kernel: CUDA's grids end there (pytorch/pytorch issue 142228)


def on_cpu(tensor: Tensor) -> bool:
    """The one question asked about devices; what follows from it is said where it is asked."""
    return tensor.device.type == "cpu"


@torch.compiler.assume_constant_result
def one_thread() -> bool:
    """Whether torch computes on one thread."""
    return torch.get_num_threads() == 1


def laid_out(maps: Tensor) -> Tensor:
    """The same maps in the layout of the device, with its own strides also where an axis of size 1 would leave a choice.

    On a CPU convolutions and token layers share channels-last, so nothing is permuted between them. CUDA has no group norm in
    channels-last: it would copy before each, so maps stay contiguous there.
    """
    if not on_cpu(maps):
        return maps.contiguous()
    _, channels, height, width = maps.shape
    strides = (channels * height * width, 1, channels * width, channels)
    return maps.contiguous(memory_format=torch.channels_last).as_strided(maps.shape, strides)


def to_tokens(maps: Tensor) -> Tensor:
    """(F, C, H, W) -> (F, S, C)."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(tokens: Tensor, height: int) -> Tensor:
    """(F, S, C) -> (F, C, H, W)."""
    return tokens.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


def to_clips(maps: Tensor, num_clips: int) -> Tensor:
    """(F, C, H, W) -> (B, C, T, S), a map of each clip whose sides are time and space."""
    return maps.flatten(2).unflatten(0, (num_clips, -1)).transpose(1, 2)


def from_clips(clips: Tensor, height: int) -> Tensor:
    """(B, C, T, S) -> (F, C, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1).unflatten(2, (height, -1))


def add(branch: Tensor, residual: Tensor) -> Tensor:
    """Their sum, in the memory of `branch`, a fresh output that nobody saved, where it has the sum's type and layout."""
    if branch.dtype == residual.dtype and branch.stride() == residual.stride():
        return branch.add_(residual)
    return residual + branch


def linear(layer: nn.Linear, tokens: Tensor, residual: Tensor | None = None) -> Tensor:
    """(F, S, in) -> (F, S, out), plus `residual` of that shape.

    On a CPU as a 1x1 convolution, which runs in oneDNN. Matrix products run in MKL, measured at half that speed on an AMD processor;
    in half precision they run in oneDNN as well.
    """
    if on_cpu(tokens) and not torch.is_autocast_enabled("cpu"):
        return _Linear.apply(tokens, layer.weight, layer.bias, residual, one_thread())
    output = F.linear(tokens, layer.weight, layer.bias)
    return output if residual is None else add(output, residual)


def norm_silu(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """SiLU of the group norm of (F, C, H, W) or (B, C, T, S), computed in the precision of the weights and returned in that of `maps`."""
    return _NormSiLU.apply(maps, norm.weight, norm.bias, norm.num_groups, norm.eps)


def attention_over_time(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention among the T frames of a clip, voxel by voxel and head by head: (B, T, S, K, E) each -> same shape."""
    batch, num_frames, voxels, heads, width = query.shape
    query, key, value = (each.permute(0, 2, 3, 1, 4).reshape(-1, num_frames, width) for each in (query, key, value))  # (B S K, T, E)
    if on_cpu(query) and num_frames <= width:
        # Many tiny problems: the fused kernel pays for each, several times over on two threads. Keys come first, as a softmax over
        # the last of so few columns is slow. The weights take no more memory than the queries.
        scores = torch.baddbmm(query.new_empty(1, 1, 1), key, query.transpose(1, 2), beta=0, alpha=width**-0.5)  # (B S K, T keys, T)
        mixed = scores.softmax(dim=1).transpose(1, 2) @ value
    else:
        query, key, value = (each.unflatten(0, (-1, heads)) for each in (query, key, value))  # (B S, K, T, E)
        parts = zip(*(each.split(MOST_PROBLEMS) for each in (query, key, value)), strict=True)
        outputs = [F.scaled_dot_product_attention(*part) for part in parts]
        mixed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return mixed.view(batch, voxels, heads, num_frames, width).permute(0, 3, 1, 2, 4)


def gated_gelu(projected: Tensor) -> Tensor:
    """(..., 2 D) -> (..., D): the first half times GELU of the second (Shazeer, 2002.05202)."""
    return _GatedGELU.apply(projected)


class _Linear(torch.autograd.Function):
    """Products with the weights as convolutions of maps (F, in, 1, S), the gradient of the weights only on one thread.

    On more, oneDNN's threads wait for each other there by spinning: beside other work on the cores each call loses a time slice of 4 ms.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, one_thread: bool) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        ctx.one_thread = one_thread
        output = F.conv2d(_as_map(tokens), weight[:, :, None, None], bias).permute(0, 2, 3, 1).squeeze(1)  # (F, S, out)
        return output if residual is None else add(output, residual)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (tokens, weight), grad = ctx.saved_tensors, grads[0].contiguous()
        needs_tokens, needs_weight, needs_bias, needs_residual, _ = ctx.needs_input_grad
        by_convolution = [needs_tokens, needs_weight and ctx.one_thread, False]
        grad_map, grad_weight, _ = torch.ops.aten.convolution_backward(
            _as_map(grad), _as_map(tokens), weight[:, :, None, None], None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, by_convolution
        )
        grad_tokens = grad_map.permute(0, 2, 3, 1).squeeze(1) if needs_tokens else None
        if needs_weight:
            grad_weight = grad_weight[:, :, 0, 0] if by_convolution[1] else grad.flatten(0, 1).t() @ tokens.flatten(0, 1)
        return grad_tokens, grad_weight, grad.sum((0, 1)) if needs_bias else None, grad if needs_residual else None, None


def _as_map(tokens: Tensor) -> Tensor:
    """(F, S, C) -> (F, C, 1, S)."""
    return tokens.unsqueeze(1).permute(0, 3, 1, 2)


class _NormSiLU(torch.autograd.Function):
    """Saves its input, which the residual stream keeps anyway, and repeats the scaling in backward: one map less in memory."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
        maps = laid_out(maps)
        sizes = (maps.shape[0], maps.shape[1], maps[0, 0].numel(), num_groups)
        normed, mean, inverse = torch.native_group_norm(maps.to(weight.dtype), weight, bias, *sizes, eps)
        ctx.save_for_backward(maps, weight, bias, mean, inverse)
        ctx.sizes = sizes
        return F.silu(normed, inplace=True).to(maps.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, bias, mean, inverse = ctx.saved_tensors
        num_groups, exact = ctx.sizes[3], maps.to(weight.dtype)
        scale = inverse[..., None] * weight.unflatten(0, (num_groups, -1))  # (N, groups, channels of a group)
        shift = torch.addcmul(bias, mean[..., None].expand_as(scale).flatten(1), scale.flatten(1), value=-1)  # (N, C)
        normed = torch.addcmul(shift[..., None, None], exact, scale.flatten(1)[..., None, None])
        grad = torch.ops.aten.silu_backward(laid_out(grads[0].to(weight.dtype)), normed)
        grad, *of_weights = torch.ops.aten.native_group_norm_backward(grad, exact, mean, inverse, weight, *ctx.sizes, [True] * 3)
        return grad.to(maps.dtype), *of_weights, None, None


class _GatedGELU(torch.autograd.Function):
    """Saves its input only, and writes both halves of the gradient where they belong."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:
        ctx.save_for_backward(projected)
        value, gate = projected.chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (projected,), (grad,) = ctx.saved_tensors, grads
        value, gate = projected.chunk(2, dim=-1)
        result = torch.empty_like(projected)
        grad_value, grad_gate = result.chunk(2, dim=-1)
        # Not by `out=`, which torch.compile refuses for a slice.
        torch.ops.aten.gelu_(grad_value.copy_(gate)).mul_(grad)
        grad_gate.copy_(torch.ops.aten.gelu_backward(grad_gate.copy_(grad).mul_(value), gate))
        return result
