"""Joint space-time attention inside each clip of a pack. No token ever sees another clip, and nothing is padded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dit.linear import Linear
from dit.positions import rotate_query_key

SCORES_PER_QUERY = 4  # size of the scores that `_Products` holds at a time, in sizes of the queries


class Attention(nn.Module):
    """Multi-head self-attention over the clips of a pack; query, key and value from one matrix product."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor, tables: tuple[Tensor, Tensor] | None, cu_seqlens: Tensor, seqlens: tuple[int, ...]) -> Tensor:
        """Tokens (B, N/B, D) of equal clips or (1, N, D) of any -> same; `tables` of `rotary_tables`, or None."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # (G, N/G, 3, K, E)
        if tables is not None:
            qkv = rotate_query_key(qkv, *tables)
        query, key, value = qkv.flatten(0, 1).unbind(1)  # (N, K, E) each
        heads = attend(query, key, value, cu_seqlens, seqlens)  # (N, K, E)
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
        heads = attend_batch(*(part.unflatten(0, (num_clips, length)).transpose(1, 2) for part in run))
        outputs.append(heads.transpose(1, 2).flatten(0, 1))  # (num_clips, K, length, E) -> (num_clips * length, K, E)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def attend_batch(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of clips of equal length: three of (B, K, N/B, E) -> same."""
    if not torch.compiler.is_compiling() and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _Products.apply(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


class _Products(torch.autograd.Function):
    """Attention as matrix products, for bfloat16 on a CPU, where torch's fused kernel takes three times as long.

    A few heads at a time, and backward computes the weights again, so that memory stays that of the fused kernel.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = [part.flatten(0, 1) for part in (query, key, value)]  # (B K, N/B, E) each, contiguous
        ctx.save_for_backward(*rows)
        heads = query.new_empty(rows[0].shape)
        for q, k, v, out in _few_heads(*rows, heads):
            torch.bmm(_weights(q, k), v, out=out)
        return heads.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """With w = softmax(query key^T / sqrt(E))."""
        rows = ctx.saved_tensors
        grads = [grad.new_empty(part.shape) for part in rows]
        for q, k, v, g, grad_q, grad_k, grad_v in _few_heads(*rows, grad.flatten(0, 1), *grads):
            w = _weights(q, k)
            torch.bmm(w.transpose(1, 2), g, out=grad_v)
            grad_w = torch.bmm(g, v.transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_w, w, -1, w.dtype).mul_(1 / math.sqrt(q.shape[-1]))
            torch.bmm(grad_scores, k, out=grad_q)
            torch.bmm(grad_scores.transpose(1, 2), q, out=grad_k)
        return tuple(part.view(grad.shape) for part in grads)


def _few_heads(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts (B K, L, E) -> the same for some heads at a time, see `SCORES_PER_QUERY`."""
    num_heads, length, head_dim = parts[0].shape
    return zip(*(part.split(max(1, SCORES_PER_QUERY * num_heads * head_dim // length)) for part in parts), strict=True)


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """(K, L, E) each -> softmax(query key^T / sqrt(E)), (K, L, L)."""
    scores = torch.baddbmm(query.new_zeros(1), query, key.transpose(1, 2), beta=0, alpha=1 / math.sqrt(query.shape[-1]))
    return scores.softmax(-1)


def equal_runs(seqlens: tuple[int, ...]) -> list[tuple[int, int]]:
    """(clips, length) of each run of equally long neighbours; a run is one batched call.

    >>> equal_runs((4, 4, 6, 4))
    [(2, 4), (1, 6), (1, 4)]
    """
    return [(len(list(run)), length) for length, run in groupby(seqlens)]
