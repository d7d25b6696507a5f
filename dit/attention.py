"""Joint space-time attention inside each clip of a pack. No token ever sees another clip, and nothing is padded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dit.attention_cpu import attend_in_turn, attend_on_cpu
from dit.linear import Linear
from dit.packing import Runs
from dit.positions import rotate_query_key


class Attention(nn.Module):
    """Multi-head self-attention over the clips of a pack; query, key and value from one matrix product."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor, tables: tuple[Tensor, Tensor] | None, cu_seqlens: Tensor, runs: Runs) -> Tensor:
        """Tokens (B, N/B, D) of equal clips or (1, N, D) of any -> same; `tables` of `rotary_tables`, or None."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # (G, N/G, 3, K, E)
        if tables is not None:
            qkv = rotate_query_key(qkv, *tables)
        heads = attend(qkv.flatten(0, 1), cu_seqlens, runs)  # (N, K, E)
        return self.out(heads.reshape(tokens.shape))


def attend(qkv: Tensor, cu_seqlens: Tensor, runs: Runs) -> Tensor:
    """Softmax attention inside each clip: queries, keys and values (N, 3, K, E) -> (N, K, E)."""
    if qkv.device.type == "cpu" and not torch.compiler.is_compiling():
        return attend_on_cpu(qkv, runs)
    if len(runs) > 1 and qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(length for _, length in runs)
        query, key, value = (part.contiguous() for part in qkv.unbind(1))  # (N, K, E) each
        heads = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, longest, longest)
        assert isinstance(heads, Tensor)
        return heads
    return attend_in_turn(qkv, runs)
