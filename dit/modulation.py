"""Adaptive layer norm (adaLN-Zero): a clip's conditioning shifts, scales and gates all of its tokens. The formulas.

Modulation is one row a clip, (B, D). Clips of one length are a batch of tokens (B, N/B, D), over which a row broadcasts; any others are
one row of tokens (1, N, D), and each takes a copy of its clip's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit.packing import PackClips

EPS = 1e-6


def modulations(layers: Sequence[nn.Linear], cond: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """Conditioning (B, D) -> what each layer makes of it, rows (B, parts x D) in the dtype of the tokens: of a branch shift, factor and
    gate, where the layer gives the factor's difference from one."""
    rows = [layer(cond).to(dtype) for layer in layers]
    for each in rows:
        factors(each, cond.shape[1]).add_(1)
    return rows


def factors(rows: Tensor, width: int) -> Tensor:
    """Of modulation (B, parts x D) the part of each branch that scales, (B, branches, D), a view."""
    return rows.unflatten(1, (-1, width))[:, 1::3]


def modulated_norm(tokens: Tensor, shift: Tensor, factor: Tensor, clips: PackClips) -> Tensor:
    """norm(tokens) factor + shift: tokens (G, N/G, D), shift and factor (B, D) -> (G, N/G, D)."""
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=EPS)
    return normed * to_tokens(factor, clips.segments) + to_tokens(shift, clips.segments)


def gated_sum(tokens: Tensor, gate: Tensor, branch: Tensor, clips: PackClips) -> Tensor:
    """tokens + gate branch: tokens and branch (G, N/G, D), gate (B, D) -> (G, N/G, D)."""
    return tokens + to_tokens(gate, clips.segments) * branch


def to_tokens(rows: Tensor, segments: Tensor | None) -> Tensor:
    """A row for each clip (B, D) -> for its tokens: (B, 1, D) for clips of one length, else by the clip of each token (1, N, D)."""
    return rows.unsqueeze(1) if segments is None else rows.index_select(0, segments).unsqueeze(0)


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Operators inside keep the precision of what they are given. Some devices, such as `meta`, know no autocast to turn off."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()
