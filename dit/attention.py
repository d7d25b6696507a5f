"""Joint space-time attention inside each clip of a pack. No token ever sees another clip, and nothing is padded."""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit.positions import rotate


class Attention(nn.Module):
    """Multi-head self-attention over the clips of a pack; query, key and value from one matrix product."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor, tables: tuple[Tensor, Tensor] | None, cu_seqlens: Tensor, seqlens: tuple[int, ...]) -> Tensor:
        """Tokens (B, N/B, D) of equal clips or (1, N, D) of any -> same; `tables` of `rotary_tables`, or None."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # (G, N/G, 3, K, E)
        query_key, value = qkv[..., :2, :, :], qkv[..., 2, :, :]
        if tables is not None:
            query_key = rotate(query_key.flatten(-3, -2), *tables).to(value.dtype).unflatten(-2, (2, -1))
        query, key = query_key.unbind(-3)
        heads = attend(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), cu_seqlens, seqlens)  # (N, K, E)
        return self.out(heads.reshape(tokens.shape))


def attend(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, seqlens: tuple[int, ...]) -> Tensor:
    """Softmax attention inside each segment: three of (N, K, E) -> (N, K, E)."""
    runs = equal_runs(seqlens)
    if len(runs) > 1 and query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(seqlens)
        heads = varlen_attn(query.contiguous(), key.contiguous(), value.contiguous(), cu_seqlens, cu_seqlens, longest, longest)
        assert isinstance(heads, Tensor)
        return heads
    lengths = [num_clips * length for num_clips, length in runs]
    outputs = []
    for (num_clips, length), *run in zip(runs, query.split(lengths), key.split(lengths), value.split(lengths), strict=True):
        heads = F.scaled_dot_product_attention(*(part.unflatten(0, (num_clips, length)).transpose(1, 2) for part in run))
        outputs.append(heads.transpose(1, 2).flatten(0, 1))  # (num_clips, K, length, E) -> (num_clips * length, K, E)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def equal_runs(seqlens: tuple[int, ...]) -> list[tuple[int, int]]:
    """(clips, length) of each run of equally long neighbours; a run is one batched call.

    >>> equal_runs((4, 4, 6, 4))
    [(2, 4), (1, 6), (1, 4)]
    """
    return [(len(list(run)), length) for length, run in groupby(seqlens)]
