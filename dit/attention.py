"""Joint space-time attention inside each clip of a pack, and to its caption: the formulas. No token ever sees another clip or its text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dit.packing import PackClips


def attend(qkv: Tensor, clips: PackClips) -> Tensor:
    """softmax(query key^T / sqrt(E)) value inside each clip: queries, keys and values (N, 3, K, E) -> (N, K, E)."""
    outputs = []
    for (num_clips, length), part in zip(clips.runs, qkv.split([num_clips * length for num_clips, length in clips.runs]), strict=True):
        query, key, value = part.unflatten(0, (num_clips, length)).permute(2, 0, 3, 1, 4)  # (num_clips, K, length, E) each
        outputs.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def attend_masked(qkv: Tensor, clips: PackClips) -> Tensor:
    """The same, in operators that do not depend on how long clips are: a mask keeps clips of a mixed pack apart."""
    if clips.segments is None:
        query, key, value = qkv.unflatten(0, (len(clips.cu_seqlens) - 1, -1)).permute(2, 0, 3, 1, 4)  # (B, K, N/B, E) each
        mask = None
    else:
        query, key, value = qkv.permute(1, 2, 0, 3).unsqueeze(1)  # (1, K, N, E) each
        mask = clips.segments[:, None] == clips.segments  # (N, N)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(0, 1)


def attend_to_text(query: Tensor, key_value: Tensor, mask: Tensor, clips: PackClips) -> Tensor:
    """softmax(query key^T / sqrt(E)) value, each token to its own clip's text where the mask has it.

    Queries (N, K, E), keys and values of the text (B, L, 2, K, E), mask (B, L) bool -> (N, K, E).
    """
    outputs, first = [], 0
    for (num_clips, length), part in zip(clips.runs, query.split([num_clips * length for num_clips, length in clips.runs]), strict=True):
        key, value = key_value[first : first + num_clips].permute(2, 0, 3, 1, 4)  # (num_clips, K, L, E) each
        seen = mask[first : first + num_clips, None, None]  # (num_clips, 1, 1, L)
        rows = part.unflatten(0, (num_clips, length)).transpose(1, 2)  # (num_clips, K, length, E)
        outputs.append(F.scaled_dot_product_attention(rows, key, value, attn_mask=seen).transpose(1, 2).flatten(0, 1))
        first += num_clips
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def attend_to_text_masked(query: Tensor, key_value: Tensor, mask: Tensor, clips: PackClips) -> Tensor:
    """The same, in operators that do not depend on how long clips are."""
    if clips.segments is None:
        rows = query.unflatten(0, (len(mask), -1)).transpose(1, 2)  # (B, K, N/B, E)
        key, value = key_value.permute(2, 0, 3, 1, 4)  # (B, K, L, E) each
        seen = mask[:, None, None]  # (B, 1, 1, L)
    else:
        rows = query.transpose(0, 1)[None]  # (1, K, N, E)
        key, value = key_value.flatten(0, 1).permute(1, 2, 0, 3).unsqueeze(1)  # (1, K, B L, E) each
        own = clips.segments[:, None] == torch.arange(len(mask), device=mask.device)  # (N, B)
        seen = (own[:, :, None] & mask).flatten(1)  # (N, B L)
    return F.scaled_dot_product_attention(rows, key, value, attn_mask=seen).transpose(1, 2).flatten(0, 1)
