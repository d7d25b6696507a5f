"""Softmax attention as products of matrices, a few heads or queries at a time, and its derivative, which computes the weights again:
so memory stays that of torch's fused kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dit.kernels import private
from dit.kernels.linear import product

Pieces = Iterator[tuple[slice, list[slice]]]  # heads that are taken at a time, and of them, queries


@dataclass(frozen=True)
class ManyHeads:
    """Many heads in one call of torch's own product."""

    scores_per_query: int = 4  # size of the scores at a time, in sizes of all queries

    def multiply(self, a: Tensor, b: Tensor, out: Tensor | None = None, *, add: bool = False, scale: float = 1.0) -> Tensor:
        """a (heads, M, X), b (heads, N, X) -> scale a b^T (heads, M, N), into `out` or, with `add`, onto it."""
        assert not add  # all queries of a head are one piece
        if scale == 1:
            return torch.bmm(a, b.transpose(1, 2), out=out)
        return torch.baddbmm(a.new_empty(1, 1, 1), a, b.transpose(1, 2), beta=0, alpha=scale, out=out)

    def scaled(self, query: Tensor, scale: float) -> tuple[Tensor, float]:
        """Queries times `scale`, in part or as what is left for `multiply` to do."""
        return query, scale

    def laid_out(self, key_value: Tensor) -> Tensor:
        """Keys and values (2, heads, length, E) as `multiply` likes them."""
        return key_value

    def pieces(self, num_heads: int, length: int, head_dim: int) -> Pieces:
        """What to take at a time of queries (heads, length, E), so that scores stay few."""
        step = max(1, self.scores_per_query * num_heads * head_dim // length)
        for start in range(0, num_heads, step):
            yield slice(start, start + step), [slice(0, length)]


@dataclass(frozen=True)
class WholeMatrices:
    """The same, one head at a time by oneDNN, which is slow on anything that does not lie in rows."""

    most_scores: int = 2**19  # at a time: they stay in the cache

    def multiply(self, a: Tensor, b: Tensor, out: Tensor | None = None, *, add: bool = False, scale: float = 1.0) -> Tensor:
        # A first factor that does not lie in rows is copied; the second is copied anyway, so a transposed one comes second.
        result = (product(a[0], b[0]) if a.stride(2) == 1 else product(b[0], a[0]).t()).unsqueeze(0)
        if out is None:
            assert scale == 1  # a pass over scores
            return result
        return out.add_(result, alpha=scale) if add else torch.mul(result, scale, out=out)

    def scaled(self, query: Tensor, scale: float) -> tuple[Tensor, float]:
        return query * scale, 1.0

    def laid_out(self, key_value: Tensor) -> Tensor:
        return key_value.contiguous()

    def pieces(self, num_heads: int, length: int, head_dim: int) -> Pieces:
        step = max(1, self.most_scores // length)
        for head in range(num_heads):
            yield slice(head, head + 1), [slice(start, start + step) for start in range(0, length, step)]


Products = ManyHeads | WholeMatrices  # how heads are multiplied


def attend(products: Products, qkv: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(E)) value, all three in (3, heads, length, E) -> (heads, length, E)."""
    (query, left), (key, value) = products.scaled(qkv[0], 1 / math.sqrt(qkv.shape[-1])), products.laid_out(qkv[1:])
    output = qkv.new_empty(qkv.shape[1:])
    for heads, blocks in products.pieces(*query.shape):
        queries, keys, values, outputs = query[heads], key[heads], value[heads].transpose(1, 2), output[heads]
        for block in blocks:
            weights = attention_weights(products, queries[:, block], keys, left)
            products.multiply(weights, values, outputs[:, block])
            del weights  # before the next ones are made
    return output


def attend_backward(products: Products, qkv: Tensor, grad_output: Tensor) -> Tensor:
    """Derivatives by query, key and value, in one as they are, given that by the output (heads, length, E)."""
    scale = 1 / math.sqrt(qkv.shape[-1])
    (query, left), (key, value) = products.scaled(qkv[0], scale), products.laid_out(qkv[1:])
    grad_output = grad_output.contiguous()
    grads = qkv.new_empty(qkv.shape)
    for heads, blocks in products.pieces(*query.shape):
        keys, values, keys_turned = key[heads], value[heads], key[heads].transpose(1, 2)
        piece, grad_piece = query[heads], grad_output[heads]
        grad_query, grad_key, grad_value = grads[:, heads]
        for number, block in enumerate(blocks):
            queries, grad_outputs = piece[:, block], grad_piece[:, block]
            weights = attention_weights(products, queries, keys, left)
            products.multiply(weights.transpose(1, 2), grad_outputs.transpose(1, 2), grad_value, add=number > 0)
            grad_scores = products.multiply(grad_outputs, values)  # by the weights, and now by the scores
            private.SOFTMAX_BACKWARD(grad_scores, weights, -1, weights.dtype, grad_input=grad_scores)
            products.multiply(grad_scores, keys_turned, grad_query[:, block], scale=scale)
            products.multiply(grad_scores.transpose(1, 2), queries.transpose(1, 2), grad_key, add=number > 0, scale=left)
            del weights, grad_scores  # before the next ones are made
    return grads


def attention_weights(products: Products, query: Tensor, key: Tensor, scale: float) -> Tensor:
    """softmax(scale query key^T): (heads, M, E), (heads, N, E) -> (heads, M, N)."""
    scores = products.multiply(query, key, scale=scale)
    return torch.softmax(scores, -1, out=scores)
