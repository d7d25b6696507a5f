"""Attention of a pack on a CPU: for each length of clips the kernel that is fastest there, and one derivative for the pack.

Torch's fused kernel multiplies small blocks by MKL, which leaves half of some processors idle (see `dit/linear.py`) and gains
nothing in bfloat16. So in bfloat16 attention is products of many heads at once, and in float32, where clips are long, products of
whole matrices by oneDNN, a head at a time; short clips keep the fused kernel. `bench/perf/test_packing.py` measures all of them.
Products are of a few heads or queries at a time, and backward computes the weights again, so that memory stays that of the fused kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dit.linear import product, takes_onednn

LONG = 2**22  # multiply-adds of one product of one head (length x length x E) from which whole matrices are faster than the fused kernel
QUERIES = 512  # of them, rows at a time: their scores stay in the cache
SCORES_PER_QUERY = 4  # of many heads, the size of their scores in sizes of all queries

Runs = list[tuple[int, int]]  # (clips, length) of neighbours that are equally long


class Product(Protocol):
    """How to multiply."""

    def __call__(self, a: Tensor, b: Tensor, out: Tensor | None = None, *, add: bool = False) -> Tensor:
        """a (heads, M, X), b (heads, N, X) -> a b^T (heads, M, N), into `out` or, with `add`, onto it."""
        ...


def attend_in_turn(qkv: Tensor, runs: Runs) -> Tensor:
    """Torch's kernel for each run of equally long clips: (N, 3, K, E) -> (N, K, E)."""
    outputs = []
    for (num_clips, length), part in zip(runs, qkv.split([num_clips * length for num_clips, length in runs]), strict=True):
        query, key, value = part.unflatten(0, (num_clips, length)).permute(2, 0, 3, 1, 4)  # (num_clips, K, length, E) each
        outputs.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def attend_on_cpu(qkv: Tensor, runs: Runs) -> Tensor:
    """The same by the fastest kernels."""
    if len(runs) == 1 and choose(next(heads_of_runs(qkv, runs))[0]) is None:
        return attend_in_turn(qkv, runs)
    return PackAttention.apply(qkv, runs)


class PackAttention(torch.autograd.Function):
    """Softmax attention inside each clip: queries, keys and values (N, 3, K, E) -> (N, K, E)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, runs: Runs) -> Tensor:
        outputs, saved = [], []
        for heads in heads_of_runs(qkv, runs):
            times = choose(heads[0])
            if times is None:
                out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads)
                saved += [*heads, log_sums]
            else:
                rows = [part.flatten(0, 1) for part in heads]  # (num_clips K, length, E) each
                out = by_products(times, *rows).view(heads[0].shape)
                saved += rows
            outputs.append(out.transpose(1, 2).flatten(0, 1))  # (num_clips length, K, E)
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        ctx.save_for_backward(output, *saved)
        ctx.runs = runs
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        output, *saved = ctx.saved_tensors
        num_tokens, num_heads, head_dim = output.shape
        grads = grad.new_empty(num_tokens, 3, num_heads, head_dim)
        of_runs = [heads_of_runs(part, ctx.runs) for part in (output.unsqueeze(1), grad.unsqueeze(1), grads)]
        for (out,), (upper,), slots in zip(*of_runs, strict=True):
            (query, key, value), saved = saved[:3], saved[3:]
            times = choose(out)
            if times is None:
                fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
                parts = fused(upper, query, key, value, out, saved.pop(0), 0.0, False)
            else:
                parts = by_products_backward(times, query, key, value, upper.flatten(0, 1))
            for slot, part in zip(slots, parts, strict=True):
                slot.copy_(part.view(slot.shape))
        return grads, None


def heads_of_runs(packed: Tensor, runs: Runs) -> Iterator[tuple[Tensor, ...]]:
    """(N, parts, K, E) -> for each run its parts, views of (num_clips, K, length, E)."""
    for (num_clips, length), part in zip(runs, packed.split([num_clips * length for num_clips, length in runs]), strict=True):
        yield part.unflatten(0, (num_clips, length)).permute(2, 0, 3, 1, 4).unbind()


def choose(query: Tensor) -> Product | None:
    """How to multiply for clips with queries (num_clips, K, length, E); None for the fused kernel."""
    length, head_dim = query.shape[-2:]
    if query.dtype == torch.bfloat16:
        return many_heads
    return whole_matrices if length**2 * head_dim >= LONG and takes_onednn(query) else None


def many_heads(a: Tensor, b: Tensor, out: Tensor | None = None, *, add: bool = False) -> Tensor:
    """All heads in one call."""
    assert not add
    return torch.bmm(a, b.transpose(1, 2), out=out)


def whole_matrices(a: Tensor, b: Tensor, out: Tensor | None = None, *, add: bool = False) -> Tensor:
    """One head. A first factor that does not lie in rows is copied; the second is copied anyway, so a transposed one comes second."""
    result = (product(a[0], b[0]) if a.stride(2) == 1 else product(b[0], a[0]).t()).unsqueeze(0)
    if out is None:
        return result
    return out.add_(result) if add else out.copy_(result)


def by_products(times: Product, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(E)) value: three of (num_clips K, length, E) -> same."""
    heads = query.new_empty(query.shape)
    for q, k, v, out in few_heads(times, query, key, value, heads):
        values = v.transpose(1, 2)
        for queries, slot in few_queries(times, scaled(q), out):
            times(weights(times, queries, k), values, slot)
    return heads


def by_products_backward(times: Product, query: Tensor, key: Tensor, value: Tensor, upper: Tensor) -> list[Tensor]:
    """Derivatives by query, key and value, given `upper`, that by the output: all (num_clips K, length, E)."""
    grads = [query.new_empty(query.shape) for _ in range(3)]
    for q, k, v, g, grad_q, grad_k, grad_v in few_heads(times, query, key, value, upper, *grads):
        keys = k.transpose(1, 2)
        for block, (queries, uppers, slot) in enumerate(few_queries(times, scaled(q), g, grad_q)):
            w = weights(times, queries, k)
            times(w.transpose(1, 2), uppers.transpose(1, 2), grad_v, add=block > 0)
            grad_w = times(uppers, v)
            torch.ops.aten._softmax_backward_data.out(grad_w, w, -1, w.dtype, grad_input=grad_w)  # now by the scores
            times(grad_w, keys, slot)
            times(grad_w.transpose(1, 2), queries.transpose(1, 2), grad_k, add=block > 0)
    grads[0] = scaled(grads[0])
    return grads


def few_heads(times: Product, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts (num_clips K, length, E) -> the same for as many heads as `times` takes, see `SCORES_PER_QUERY`."""
    num_heads, length, head_dim = parts[0].shape
    if times is whole_matrices:  # oneDNN is slow on what does not lie in rows
        return zip(*((head.contiguous() for head in part.split(1)) for part in parts), strict=True)
    return zip(*(part.split(max(1, SCORES_PER_QUERY * num_heads * head_dim // length)) for part in parts), strict=True)


def few_queries(times: Product, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts (heads, length, E) -> the same for as many queries as `times` takes."""
    return zip(*(part.split(QUERIES, dim=1) for part in parts), strict=True) if times is whole_matrices else iter([parts])


def scaled(query: Tensor) -> Tensor:
    """query / sqrt(E)."""
    return query * (1 / math.sqrt(query.shape[-1]))


def weights(times: Product, query: Tensor, key: Tensor) -> Tensor:
    """softmax(query key^T): (heads, M, E), (heads, N, E) -> (heads, M, N)."""
    scores = times(query, key)
    return torch.softmax(scores, -1, out=scores)
