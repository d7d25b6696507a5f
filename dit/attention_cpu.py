"""Attention of a pack on a CPU: for each length of clips the kernel that is fastest there, and one derivative for the pack.

Torch's fused kernel multiplies small blocks by MKL, which leaves half of some processors idle (see `dit/linear.py`) and gains
nothing in bfloat16. So in bfloat16 attention is products of many heads at once, and in float32, where clips are long, products of
whole matrices by oneDNN, a head at a time; short clips keep the fused kernel, and so do narrow heads in
bfloat16 on several threads. `bench/perf/test_packing.py` measures all of them. Products are of a few heads or queries at a time,
and backward computes the weights again, so that memory stays that of the fused kernel.
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
from dit.packing import Runs

# Multiply-adds of one product of one head (length x length x E) from which whole matrices are faster than the fused kernel: on one
# thread, and on several, which share out one call better than many and wait at the end of each.
LONG = (2**22, 2**26)
WIDE = 64  # of a head, from which bfloat16 products are faster than the fused kernel on several threads too
SCORES = 2**19  # of whole matrices, how many scores at a time: they stay in the cache
SCORES_PER_QUERY = 4  # of many heads, the size of their scores in sizes of all queries

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


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
    qkv = qkv.contiguous()
    if len(runs) == 1 and choose(next(heads_of_runs(qkv, runs))) is None:
        return attend_in_turn(qkv, runs)
    return PackAttention.apply(qkv, runs)


class PackAttention(torch.autograd.Function):
    """Softmax attention inside each clip: queries, keys and values (N, 3, K, E) -> (N, K, E)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, runs: Runs) -> Tensor:
        outputs, saved = [], []
        for heads in heads_of_runs(qkv, runs):
            times = choose(heads)
            if times is None:
                out, log_sums = FUSED(*heads)
                saved += [heads, log_sums]
            else:
                rows = heads.flatten(1, 2)  # (3, num_clips K, length, E)
                out = by_products(times, rows).view(heads.shape[1:])
                saved.append(rows)
            outputs.append(out.transpose(1, 2).flatten(0, 1))  # (num_clips length, K, E)
        output = outputs[0].contiguous() if len(outputs) == 1 else torch.cat(outputs)
        ctx.save_for_backward(output, *saved)
        ctx.runs = runs
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        output, *tensors = ctx.saved_tensors
        saved = iter(tensors)
        num_tokens, num_heads, head_dim = output.shape
        grads = grad.new_empty(num_tokens, 3, num_heads, head_dim)
        of_runs = (heads_of_runs(part, ctx.runs) for part in (output.unsqueeze(1), grad.contiguous().unsqueeze(1), grads))
        for out, upper, slots in zip(*of_runs, strict=True):
            times, heads = choose(slots), next(saved)
            if times is None:
                torch.stack(FUSED_BACKWARD(upper[0], *heads, out[0], next(saved), 0.0, False), out=slots)
            else:
                slots.copy_(by_products_backward(times, heads, upper[0].flatten(0, 1)).view(slots.shape))
        return grads, None


def heads_of_runs(packed: Tensor, runs: Runs) -> Iterator[Tensor]:
    """(N, parts, K, E), contiguous -> for each run (parts, num_clips, K, length, E), a view."""
    for (num_clips, length), part in zip(runs, packed.split([num_clips * length for num_clips, length in runs]), strict=True):
        yield part.view(num_clips, length, *packed.shape[1:]).permute(2, 0, 3, 1, 4)


def choose(heads: Tensor) -> Product | None:
    """How to multiply for clips with heads (..., length, E); None for the fused kernel."""
    length, head_dim = heads.shape[-2:]
    several_threads = torch.get_num_threads() > 1
    least = LONG[several_threads]
    if heads.dtype == torch.bfloat16:
        return None if several_threads and head_dim < WIDE else many_heads
    return whole_matrices if length**2 * head_dim >= least and takes_onednn(heads) else None


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


def by_products(times: Product, rows: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(E)) value, all three in (3, num_clips K, length, E) -> (num_clips K, length, E)."""
    query, key, value = ready(times, rows)
    heads = rows.new_empty(rows.shape[1:])
    for some, blocks in pieces(times, query):
        q, k, values, out = query[some], key[some], value[some].transpose(1, 2), heads[some]
        for block in blocks:
            times(weights(times, q[:, block], k), values, out[:, block])
    return heads


def by_products_backward(times: Product, rows: Tensor, upper: Tensor) -> Tensor:
    """Derivatives by query, key and value, in one as they are, given `upper`, that by the output (num_clips K, length, E)."""
    query, key, value = ready(times, rows)
    upper = upper.contiguous()
    grads = rows.new_empty(rows.shape)
    for some, blocks in pieces(times, query):
        q, k, v, g, keys = query[some], key[some], value[some], upper[some], key[some].transpose(1, 2)
        grad_q, grad_k, grad_v = grads[:, some]
        for number, block in enumerate(blocks):
            queries, uppers = q[:, block], g[:, block]
            w = weights(times, queries, k)
            times(w.transpose(1, 2), uppers.transpose(1, 2), grad_v, add=number > 0)
            grad_w = times(uppers, v)
            torch.ops.aten._softmax_backward_data.out(grad_w, w, -1, w.dtype, grad_input=grad_w)  # now by the scores
            times(grad_w, keys, grad_q[:, block])
            times(grad_w.transpose(1, 2), queries.transpose(1, 2), grad_k, add=number > 0)
            del w, grad_w  # before the next ones are made
    grads[0].mul_(1 / math.sqrt(rows.shape[-1]))
    return grads


def ready(times: Product, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query over sqrt(E), key and value of (3, heads, length, E); for oneDNN, which is slow on anything else, in rows."""
    query = rows[0] * (1 / math.sqrt(rows.shape[-1]))
    key, value = rows[1:].contiguous() if times is whole_matrices else rows[1:]
    return query, key, value


def pieces(times: Product, query: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Which heads to take at a time of (heads, length, E), and of them, which queries: so that scores stay few."""
    num_heads, length, head_dim = query.shape
    if times is whole_matrices:
        heads, queries = 1, max(1, SCORES // length)
    else:
        heads, queries = max(1, SCORES_PER_QUERY * num_heads * head_dim // length), length
    blocks = [slice(start, start + queries) for start in range(0, length, queries)]
    for start in range(0, num_heads, heads):
        yield slice(start, start + heads), blocks


def weights(times: Product, query: Tensor, key: Tensor) -> Tensor:
    """softmax(query key^T): (heads, M, E), (heads, N, E) -> (heads, M, N)."""
    scores = times(query, key)
    return torch.softmax(scores, -1, out=scores)
