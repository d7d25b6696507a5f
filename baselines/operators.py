"""The operators of a video U-Net: the formulas, and the views between its layouts.

A map is (F, C, H, W), F = B T frames of B clips. Its tokens are (F, S, C), S = H W: a free view of a map in channels-last layout.
"""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


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


def laid_out(maps: Tensor) -> Tensor:
    """The same maps in torch's usual layout."""
    return maps.contiguous()


def add(branch: Tensor, residual: Tensor) -> Tensor:
    """residual + branch."""
    return residual + branch


def norm_silu(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """SiLU(norm(maps)), of (F, C, H, W) or (B, C, T, S)."""
    return F.silu(norm(maps))


def shifted_convolution(convolution: nn.Conv2d, maps: Tensor, shift: Tensor) -> Tensor:
    """A 3x3 convolution, and a shift of each clip: maps (F, C, H, W), shift (B, C') -> (F, C', H, W)."""
    of_frames = shift.repeat_interleave(len(maps) // len(shift), dim=0)  # (F, C')
    return convolution(maps) + of_frames[:, :, None, None]


def convolution_over_time(convolution: nn.Conv3d, clips: Tensor, height: int) -> Tensor:
    """A convolution over three frames at each voxel: (B, C, T, S) -> same."""
    return convolution(clips.unflatten(3, (height, -1))).flatten(3)


def linear(layer: nn.Linear, tokens: Tensor, residual: Tensor | None = None) -> Tensor:
    """tokens weight^T + bias, plus a residual: (F, S, in) -> (F, S, out)."""
    output = F.linear(tokens, layer.weight, layer.bias)
    return output if residual is None else residual + output


def linear_to_map(layer: nn.Linear, tokens: Tensor, residual: Tensor) -> Tensor:
    """The same as a map, plus a residual in that layout: tokens (F, S, in) -> (F, out, H, W)."""
    return residual + to_map(linear(layer, tokens), residual.shape[2])


def gated_gelu(projected: Tensor) -> Tensor:
    """The first half times GELU of the second (Shazeer, 2002.05202): (..., 2 D) -> (..., D)."""
    values, gates = projected.chunk(2, dim=-1)
    return values * F.gelu(gates)


def attention_over_time(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention among the T frames of a clip, voxel by voxel and head by head: (B, T, S, K, E) each -> same shape."""
    q, k, v = (each.permute(0, 2, 3, 1, 4).flatten(0, 1) for each in (query, key, value))  # (B S, K, T, E)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.unflatten(0, (len(query), -1)).permute(0, 3, 1, 2, 4)


def attend_context(attention: Attention, tokens: Tensor, context: Tensor, *, residual: Tensor) -> Tensor:
    """Attention to n tokens of context, plus a residual: tokens (F, S, C), context (B, n, context_width) -> (F, S, C)."""
    context = context.repeat_interleave(len(tokens) // len(context), dim=0)  # (F, n, context_width)
    query, key, value = (
        linear(project, rows).unflatten(2, (attention.heads, -1)).transpose(1, 2)  # (F, K, S or n, E)
        for project, rows in ((attention.to_q, tokens), (attention.to_k, context), (attention.to_v, context))
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    return linear(attention.to_out[0], mixed.transpose(1, 2).flatten(2), residual)
