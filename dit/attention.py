"""Joint space-time attention inside each clip of a pack: the formula. No token ever sees another clip, and nothing is padded."""

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
