"""Attention stays inside its clip, whichever kernel a clip's length gets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from bench.meters.storage import StorageMeter
from dit import attention_cpu
from dit.attention import Attention, attend
from dit.attention_cpu import attend_in_turn, attend_on_cpu, choose, whole_matrices
from dit.packing import equal_runs

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")

SEQLENS = (3, 3, 9, 1, 5, 9, 9)


def cumulative(seqlens: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(seqlens)], dtype=torch.int32)


def block_diagonal(qkv: Tensor, seqlens: tuple[int, ...]) -> Tensor:
    """All tokens of the pack against all, masked: (N, 3, K, E) -> (N, K, E)."""
    segments = torch.arange(len(seqlens)).repeat_interleave(torch.tensor(seqlens))
    query, key, value = qkv.permute(1, 2, 0, 3)  # (K, N, E) each
    return F.scaled_dot_product_attention(query, key, value, attn_mask=segments[:, None] == segments).transpose(0, 1)


def with_gradient(attention: Callable[[Tensor], Tensor], qkv: Tensor) -> list[Tensor]:
    leaf = qkv.clone().requires_grad_()
    heads = attention(leaf)
    upper = torch.randn(heads.shape, generator=torch.Generator().manual_seed(1)).to(qkv.dtype)
    return [heads, *torch.autograd.grad(heads, leaf, upper)]


# From no clip by whole matrices (lengths of 1 to 9 with heads of 8) to all of them; some in one block of queries, some in several.
@pytest.mark.parametrize(("long", "scores"), [(math.inf, 36), (25 * 8, 36), (81 * 8, 30), (0, 2**19)])
@pytest.mark.parametrize("seqlens", [SEQLENS, (9, 9), (5,)])
def test_agrees_with_a_block_diagonal_mask(monkeypatch: pytest.MonkeyPatch, seqlens: tuple[int, ...], long: float, scores: int) -> None:
    monkeypatch.setattr(attention_cpu, "LONG", (long, long))
    monkeypatch.setattr(attention_cpu, "SCORES", scores)
    qkv = torch.randn(sum(seqlens), 3, 2, 8, generator=torch.Generator().manual_seed(0))
    ours = with_gradient(lambda leaf: attend(leaf, cumulative(seqlens), equal_runs(seqlens)), qkv)
    for part, expected in zip(ours, with_gradient(lambda leaf: block_diagonal(leaf, seqlens), qkv), strict=True):
        assert_close(part, expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_kernel_follows_length_threads_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(length: int, head_dim: int = 64, dtype: torch.dtype = torch.float32) -> object:
        return choose(torch.empty(1, 1, length, head_dim, dtype=dtype))

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert kernel(1023) is None and kernel(1024) is whole_matrices
    assert kernel(512, 32, torch.bfloat16) is None and kernel(16, 64, torch.bfloat16) is attention_cpu.many_heads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert kernel(255) is None and kernel(256) is whole_matrices
    assert kernel(361, 32) is None and kernel(363, 32) is whole_matrices
    assert kernel(16, 32, torch.bfloat16) is kernel(512, 32, torch.bfloat16) is attention_cpu.many_heads
    assert kernel(512, dtype=torch.float64) is None
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert kernel(512) is None


def test_clip_by_clip_equals_one_batched_call() -> None:
    attention = Attention(16, 2)
    tokens = torch.randn(3, 4, 16)  # three clips of four tokens
    cu_seqlens = cumulative((4, 4, 4))
    batched = attention(tokens, None, cu_seqlens, [(3, 4)])
    for clip, expected in zip(tokens, batched, strict=True):
        assert_close(attention(clip[None], None, cu_seqlens[:2], [(1, 4)])[0], expected)


@needs_onednn
def test_products_keep_no_more_than_the_fused_kernel_and_few_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    def used_bytes(num_clips: int) -> tuple[int, int]:
        """Peak of a forward and backward, and what forward leaves to backward, of clips with 1024 tokens in all."""
        attention, tokens = Attention(64, 2), torch.randn(num_clips, 1024 // num_clips, 64, requires_grad=True)
        runs = [(num_clips, 1024 // num_clips)]
        with StorageMeter(list(attention.parameters()), tokens) as meter:
            before_bytes = meter.alive_bytes
            output = attention(tokens, None, torch.empty(0), runs)
            kept_bytes = meter.alive_bytes - before_bytes
            output.sum().backward()
        return meter.peak_bytes, kept_bytes

    monkeypatch.setattr(attention_cpu, "LONG", (0, 0))
    products = [used_bytes(num_clips) for num_clips in (1, 2)]
    monkeypatch.setattr(attention_cpu, "LONG", (math.inf, math.inf))
    fused = [used_bytes(num_clips) for num_clips in (1, 2)]
    for (peak, kept), (fused_peak, fused_kept) in zip(products, fused, strict=True):
        assert kept <= fused_kept
        # Some of the weights and of their derivative, twice as many would be all; and some copies of the tokens, 64 values each.
        assert peak <= fused_peak + 2 * 4 * attention_cpu.SCORES + 8 * 4 * 1024 * 64


@pytest.mark.parametrize("scores_per_query", [0, 1, 4])  # one head at a time, two, all six
@pytest.mark.parametrize("seqlens", [(20,), (20, 20, 20), (20, 7, 7, 30)])
def test_products_in_bfloat16_are_attention(monkeypatch: pytest.MonkeyPatch, seqlens: tuple[int, ...], scores_per_query: int) -> None:
    """As near to float32 as torch's own kernel, forward and backward."""
    monkeypatch.setattr(attention_cpu, "SCORES_PER_QUERY", scores_per_query)
    monkeypatch.setattr(attention_cpu, "WIDE", 8)  # whatever the number of threads
    qkv, runs = torch.randn(sum(seqlens), 3, 2, 8, generator=torch.Generator().manual_seed(0)), equal_runs(seqlens)
    exact = with_gradient(lambda leaf: attend_in_turn(leaf, runs), qkv)
    torchs = with_gradient(lambda leaf: attend_in_turn(leaf, runs), qkv.bfloat16())
    for ours, theirs, right in zip(with_gradient(lambda leaf: attend_on_cpu(leaf, runs), qkv.bfloat16()), torchs, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert not torch.equal(ours, theirs)  # it is another kernel
        assert (ours - right).norm() < 2 * (theirs - right).norm() < 0.02 * right.norm()
