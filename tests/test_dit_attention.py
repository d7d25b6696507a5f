"""Attention stays inside its clip, in a loop or batched."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dit.attention import Attention, attend


def test_agrees_with_a_block_diagonal_mask() -> None:
    seqlens = (3, 3, 5, 1, 5)
    query, key, value = torch.randn(3, 17, 2, 8).unbind()  # (N, K, E) each
    segments = torch.arange(5).repeat_interleave(torch.tensor(seqlens))
    mask = segments[:, None] == segments
    heads_first = [part.transpose(0, 1) for part in (query, key, value)]  # (K, N, E) each
    expected = F.scaled_dot_product_attention(heads_first[0], heads_first[1], heads_first[2], attn_mask=mask)
    cu_seqlens = torch.tensor([0, 3, 6, 11, 12, 17], dtype=torch.int32)
    assert_close(attend(query, key, value, cu_seqlens, seqlens), expected.transpose(0, 1))


def test_clip_by_clip_equals_one_batched_call() -> None:
    attention = Attention(16, 2)
    tokens = torch.randn(3, 4, 16)  # three clips of four tokens
    cu_seqlens = torch.tensor([0, 4, 8, 12], dtype=torch.int32)
    batched = attention(tokens, None, cu_seqlens, (4, 4, 4))
    for clip, expected in zip(tokens, batched, strict=True):
        assert_close(attention(clip[None], None, cu_seqlens[:2], (4,))[0], expected)
