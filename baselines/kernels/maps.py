"""Maps in the layout of the device, sums in memory that is there, convolutions over time in two dimensions, group norm and SiLU in one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines import operators
from bench.backbone import Operation

HALF = (torch.bfloat16, torch.float16)


def channels_last(maps: Tensor) -> Tensor:
    """Maps in the layout of the device, with its own strides also where an axis of size 1 would leave a choice.

    On a CPU convolutions and token layers share channels-last, so nothing is permuted between them. CUDA has no group norm in
    channels-last: it would copy before each, so maps stay contiguous there, and so do half-precision ones on a CPU, whose group
    norm takes up to forty times as long over them in channels-last.
    """
    half = maps.dtype in HALF or (maps.device.type == "cpu" and torch.is_autocast_enabled("cpu"))
    if maps.device.type != "cpu" or half:
        return operators.laid_out(maps)
    _, channels, height, width = maps.shape
    strides = (channels * height * width, 1, channels * width, channels)
    return maps.contiguous(memory_format=torch.channels_last).as_strided(maps.shape, strides)


def add_in_place(branch: Tensor, residual: Tensor) -> Tensor:
    """Their sum, in the memory of `branch`, a fresh output that nobody saved, where it has the sum's type and layout."""
    if branch.dtype == residual.dtype and branch.stride() == residual.stride():
        return branch.add_(residual)
    return residual + branch


def convolution_with_one_shift(convolution: nn.Conv2d, maps: Tensor, shift: Tensor) -> Tensor:
    """`operators.shifted_convolution` with the bias in the shift, once a clip; in half precision the shift for all frames of a clip."""
    assert convolution.bias is not None
    if maps.dtype != torch.float32:
        by_clip = F.conv2d(maps, convolution.weight, convolution.bias, padding=1).unflatten(0, (len(shift), -1))  # (B, T, C', H, W)
        return (by_clip + shift[:, None, :, None, None]).flatten(0, 1)
    of_frames = (shift + convolution.bias).repeat_interleave(len(maps) // len(shift), dim=0)  # (F, C')
    return F.conv2d(maps, convolution.weight, padding=1).add_(of_frames[:, :, None, None])


def convolution_over_time_and_space(convolution: nn.Conv3d, clips: Tensor, height: int) -> Tensor:
    """`operators.convolution_over_time` in two dimensions, time and space: a CPU takes three to six times as long over three.

    In float32 on a CPU the bias apart: oneDNN's gradient of it takes longer than a sum, and on several threads waits once more.
    """
    assert convolution.bias is not None
    weight = convolution.weight.squeeze(-1)  # (C, C, 3, 1)
    if clips.device.type != "cpu" or clips.dtype != torch.float32:
        return F.conv2d(clips, weight, convolution.bias, padding=(1, 0))
    return F.conv2d(clips, weight, padding=(1, 0)).add_(convolution.bias[:, None, None])


def norm_silu_in_one(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """`operators.norm_silu` with float32 statistics, returned in the precision of `maps`."""
    return NormSiLU.apply(maps, norm.weight, norm.bias, norm.num_groups, norm.eps)


def exact(maps: Tensor, weight: Tensor) -> Tensor:
    """Maps in the precision of the weights, for a device whose group norm takes one type."""
    return laid_out(maps).to(weight.dtype)


def as_they_are(maps: Tensor, weight: Tensor) -> Tensor:
    """Maps in half precision where group norm reads them beside float32 weights, as a CPU's does: no copy, four casts fewer a norm."""
    half = maps.device.type == "cpu" and maps.dtype in HALF and weight.dtype == torch.float32
    return laid_out(maps) if half else exact(maps, weight)


class NormSiLU(torch.autograd.Function):
    """Saves its input, which the residual stream keeps anyway, and repeats the scaling in backward: one map less in memory."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
        maps = laid_out(maps)
        sizes = (maps.shape[0], maps.shape[1], maps[0, 0].numel(), num_groups)
        normed, mean, inverse = torch.native_group_norm(norm_input(maps, weight), weight, bias, *sizes, eps)
        ctx.save_for_backward(maps, weight, bias, mean, inverse)
        ctx.sizes, ctx.eps = sizes, eps
        return F.silu(normed, inplace=True).to(maps.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, bias, mean, inverse = ctx.saved_tensors
        num_groups, given = ctx.sizes[3], norm_input(maps, weight)
        if maps.dtype == weight.dtype:
            scale = inverse[..., None] * weight.unflatten(0, (num_groups, -1))  # (N, groups, channels of a group)
            shift = torch.addcmul(bias.unflatten(0, (num_groups, -1)), mean[..., None], scale, value=-1)  # the same
            normed = torch.addcmul(shift.flatten(1)[..., None, None], given, scale.flatten(1)[..., None, None])
        else:  # fewer launches
            normed = torch.native_group_norm(given, weight, bias, *ctx.sizes, ctx.eps)[0]  # type: ignore[call-arg]
        grad = torch.ops.aten.silu_backward(laid_out(grads[0]), normed)
        grad, *of_weights = torch.ops.aten.native_group_norm_backward(grad, given, mean, inverse, weight, *ctx.sizes, [True] * 3)
        return grad.to(maps.dtype), *of_weights, None, None


laid_out = Operation(operators.laid_out, channels_last)
add = Operation(operators.add, add_in_place)
shifted_convolution = Operation(operators.shifted_convolution, convolution_with_one_shift)
convolution_over_time = Operation(operators.convolution_over_time, convolution_over_time_and_space)
norm_input = Operation(exact, as_they_are)
norm_silu = Operation(operators.norm_silu, norm_silu_in_one)
