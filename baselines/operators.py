"""The operators of a video U-Net: the formulas, and the views between its layouts.

A map is (F, C, H, W), F = B T frames of B clips. Its tokens are (F, S, C), S = H W: a free view of a map in channels-last layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

Attend = Callable[..., Tensor]  # (attention, tokens, keys, values, *, residual) -> tokens, as `attend_context`


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


def linear_to_tokens(layer: nn.Linear, maps: Tensor) -> Tensor:
    """`linear` of the tokens of maps: (F, in, H, W) -> (F, S, out), or clips (B, in, T, S) -> (B, T S, out)."""
    return linear(layer, to_tokens(maps))


def linear_to_map(layer: nn.Linear, tokens: Tensor, residual: Tensor) -> Tensor:
    """The same as a map, plus a residual in that layout: tokens (F, S, in) -> (F, out, H, W)."""
    return residual + to_map(linear(layer, tokens), residual.shape[2])


def gated_gelu(projected: Tensor) -> Tensor:
    """The first half times GELU of the second (Shazeer, 2002.05202): (..., 2 D) -> (..., D)."""
    values, gates = projected.chunk(2, dim=-1)
    return values * F.gelu(gates)


def query_key_value(attention: Attention, tokens: Tensor) -> Tensor:
    """Queries, keys and values of self-attention: (F, S, C) -> (F, S, 3 C)."""
    return torch.cat([linear(project, tokens) for project in (attention.to_q, attention.to_k, attention.to_v)], dim=-1)


def attention_over_time(qkv: Tensor) -> Tensor:
    """Softmax attention among the T frames of a clip, voxel by voxel and head by head: (B, T, S, 3, K, E) -> (B, T, S, K, E)."""
    query, key, value = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (B S, K, T, E) each
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.unflatten(0, (len(qkv), -1)).permute(0, 3, 1, 2, 4)


def projections(layers: Sequence[nn.Linear], rows: Tensor) -> list[Tensor]:
    """What several layers make of the same rows: (..., in) -> (..., out) of each."""
    return [layer(rows) for layer in layers]


def attend_context(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor, *, residual: Tensor) -> Tensor:
    """Attention to n tokens of context, plus a residual: tokens (F, S, C), keys and values (B, n, C) -> (F, S, C)."""
    num_frames = len(tokens) // len(keys)
    rows = linear(attention.to_q, tokens), *(each.repeat_interleave(num_frames, dim=0) for each in (keys, values))
    query, key, value = (each.unflatten(2, (attention.heads, -1)).transpose(1, 2) for each in rows)  # (F, K, S or n, E)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return linear(attention.to_out[0], mixed.transpose(1, 2).flatten(2), residual)


def contexts(attentions: Sequence[Attention], pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Attend, Tensor, Tensor]]:
    """How each layer attends to the context, and what it is given for that, from its keys and values (B, n, C)."""
    return [(attend_context, *pair) for pair in pairs]
