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

from bench.backbone import PRODUCTS
from bench.meters.storage import StorageMeter
from dit import attention
from dit.kernels import OPERATIONS, attend, private
from dit.kernels.attention import MANY_HEADS, WHOLE_MATRICES, fastest_products
from dit.kernels.products import ManyHeads, Products, WholeMatrices
from dit.model import Attention
from dit.packing import PackClips, clips_of

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")

SEQLENS = (3, 3, 9, 1, 5, 9, 9)


def cumulative(seqlens: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(seqlens)], dtype=torch.int32)


def of_lengths(seqlens: tuple[int, ...]) -> PackClips:
    return clips_of(seqlens, cumulative(seqlens), torch.float32)


def from_length(least: float, products: Products) -> Callable[[Tensor, int], Products | None]:
    """A choice of `attention_products`: these for clips of so many tokens or more."""
    return lambda qkv, length: products if length >= least else None


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
@needs_onednn
@pytest.mark.parametrize(("long", "scores"), [(math.inf, 36), (5, 36), (9, 30), (0, 2**19)])
@pytest.mark.parametrize("seqlens", [SEQLENS, (9, 9), (5,)])
def test_agrees_with_a_block_diagonal_mask(seqlens: tuple[int, ...], long: float, scores: int) -> None:
    qkv = torch.randn(sum(seqlens), 3, 2, 8, generator=torch.Generator().manual_seed(0))
    with OPERATIONS["attention_products"].by(from_length(long, WholeMatrices(most_scores=scores))):
        ours = with_gradient(lambda leaf: attend(leaf, of_lengths(seqlens)), qkv)
    for part, expected in zip(ours, with_gradient(lambda leaf: block_diagonal(leaf, seqlens), qkv), strict=True):
        assert_close(part, expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_kernel_follows_length_threads_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(length: int, head_dim: int = 64, dtype: torch.dtype = torch.float32) -> object:
        return fastest_products(torch.empty(1, 3, 1, head_dim, dtype=dtype), length)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert kernel(1023) is None and kernel(1024) is WHOLE_MATRICES
    assert kernel(512, 32, torch.bfloat16) is None and kernel(16, 64, torch.bfloat16) is MANY_HEADS
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert kernel(255) is None and kernel(256) is WHOLE_MATRICES
    assert kernel(361, 32) is None and kernel(363, 32) is WHOLE_MATRICES
    assert kernel(16, 32, torch.bfloat16) is kernel(512, 32, torch.bfloat16) is MANY_HEADS
    assert kernel(512, dtype=torch.float64) is None
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert kernel(512) is None
    monkeypatch.setitem(PRODUCTS, "of_weights", "torch")  # backward has such products too
    assert kernel(512) is None and kernel(16, dtype=torch.bfloat16) is MANY_HEADS


def test_clip_by_clip_equals_one_batched_call() -> None:
    layer = Attention(16, 2)
    tokens = torch.randn(3, 4, 16)  # three clips of four tokens
    batched = layer(tokens, of_lengths((4, 4, 4)), None)
    for clip, expected in zip(tokens, batched, strict=True):
        assert_close(layer(clip[None], of_lengths((4,)), None)[0], expected)


@needs_onednn
def test_products_keep_no_more_than_the_fused_kernel_and_few_scores() -> None:
    def used_bytes(num_clips: int, products: Products | None) -> tuple[int, int]:
        """Peak of a forward and backward, and what forward leaves to backward, of clips with 1024 tokens in all."""
        layer, tokens = Attention(64, 2), torch.randn(num_clips, 1024 // num_clips, 64, requires_grad=True)
        clips = PackClips([(num_clips, 1024 // num_clips)], torch.empty(0), None, None)
        choose = OPERATIONS["attention_products"].by(lambda qkv, length: products)
        with choose, StorageMeter(list(layer.parameters()), tokens) as meter:
            before_bytes = meter.alive_bytes
            output = layer(tokens, clips, None)
            kept_bytes = meter.alive_bytes - before_bytes
            output.sum().backward()
        return meter.peak_bytes, kept_bytes

    for num_clips in (1, 2):
        (peak, kept), (fused_peak, fused_kept) = used_bytes(num_clips, WHOLE_MATRICES), used_bytes(num_clips, None)
        assert kept <= fused_kept
        # Some of the weights and of their derivative, twice as many would be all; and some copies of the tokens, 64 values each.
        assert peak <= fused_peak + 2 * 4 * WHOLE_MATRICES.most_scores + 8 * 4 * 1024 * 64


@pytest.mark.parametrize("scores_per_query", [0, 1, 4])  # one head at a time, two, all six
@pytest.mark.parametrize("seqlens", [(20,), (20, 20, 20), (20, 7, 7, 30)])
def test_products_in_bfloat16_are_attention(seqlens: tuple[int, ...], scores_per_query: int) -> None:
    """As near to float32 as torch's own kernel, forward and backward."""
    qkv, clips = torch.randn(sum(seqlens), 3, 2, 8, generator=torch.Generator().manual_seed(0)), of_lengths(seqlens)
    exact = with_gradient(lambda leaf: attention.attend(leaf, clips), qkv)
    torchs = with_gradient(lambda leaf: attention.attend(leaf, clips), qkv.bfloat16())
    with OPERATIONS["attention_products"].by(from_length(0, ManyHeads(scores_per_query=scores_per_query))):
        by_products = with_gradient(lambda leaf: attend(leaf, clips), qkv.bfloat16())
    for ours, theirs, right in zip(by_products, torchs, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert not torch.equal(ours, theirs)  # it is another kernel
        assert (ours - right).norm() < 2 * (theirs - right).norm() < 0.02 * right.norm()


@pytest.mark.parametrize("missing", ["FLASH", "FLASH_BACKWARD", "SOFTMAX_BACKWARD", "LINEAR"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_torch_that_lacks_an_operator_attends_all_the_same(monkeypatch: pytest.MonkeyPatch, missing: str, dtype: torch.dtype) -> None:
    """Torch's private operators may go with any version of it."""
    monkeypatch.setattr(private, missing, None)
    seqlens = (5, 5, 700, 3)  # on one thread, long enough for whole matrices
    qkv = torch.randn(sum(seqlens), 3, 1, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours = with_gradient(lambda leaf: attend(leaf, of_lengths(seqlens)), qkv)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for part, right in zip(ours, with_gradient(lambda leaf: attention.attend(leaf, of_lengths(seqlens)), qkv), strict=True):
        assert (part - right).norm() <= tolerance * right.norm()
