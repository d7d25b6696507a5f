"""Attention stays inside its clip, in a loop or batched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dit import attention as attention_module
from dit.attention import Attention, attend, attend_batch


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


@pytest.mark.parametrize("scores_per_query", [0, 1, 4])  # one head at a time, two, all six
@pytest.mark.parametrize("num_clips", [1, 3])
def test_products_in_bfloat16_are_attention(monkeypatch: pytest.MonkeyPatch, num_clips: int, scores_per_query: int) -> None:
    """As near to float32 as torch's own kernel, forward and backward, from the strided parts of one tensor."""
    monkeypatch.setattr(attention_module, "SCORES_PER_QUERY", scores_per_query)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(num_clips, 20, 3, 2, 8, generator=generator)
    upper = torch.randn(num_clips, 2, 20, 8, generator=generator)

    def run(attention, dtype: torch.dtype) -> list[torch.Tensor]:
        leaf = qkv.to(dtype).requires_grad_()
        heads = attention(*(part.transpose(1, 2) for part in leaf.unbind(2)))
        assert heads.dtype == dtype
        return [heads, *torch.autograd.grad(heads, leaf, upper.to(dtype))]

    exact = run(F.scaled_dot_product_attention, torch.float32)
    torchs = run(F.scaled_dot_product_attention, torch.bfloat16)
    for ours, theirs, right in zip(run(attend_batch, torch.bfloat16), torchs, exact, strict=True):
        assert not torch.equal(ours, theirs)  # it is another kernel
        assert (ours - right).norm() < 2 * (theirs - right).norm() < 0.02 * right.norm()
