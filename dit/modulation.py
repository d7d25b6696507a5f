"""Adaptive layer norm (adaLN-zero): a clip's conditioning shifts, scales and gates all of its tokens.

Modulation is one row a clip, (B, D). It meets the tokens (G, N/G, D) in one of two ways, told by a `Spread`: clips of equal
length are a batch, G = B, and a row broadcasts; any others are one row of tokens, G = 1, and each token takes its clip's.
Derivatives are written out: they keep one tensor of the size of the tokens where torch's would keep two or three (a tenth
of a step's memory, a fifth in a mixed pack), and sum over the clips of a mixed pack by a matrix product.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPS = 1e-6


class Spread(NamedTuple):
    """Which clip each token of a mixed pack belongs to, as an index, which copies rows, and as a matrix, which sums them."""

    segments: Tensor  # (N,) int64
    members: Tensor  # (B, N): 1 where the token is the clip's, else 0


class Modulation(nn.Linear):
    """Conditioning (B, D) -> `num_parts` rows (B, D) a clip, such as shift and scale, in the dtype of the tokens.

    In the precision of its weights, also under autocast: it has few rows, and casting the weights would cost more than the product.
    """

    def __init__(self, hidden_size: int, num_parts: int) -> None:
        super().__init__(hidden_size, num_parts * hidden_size)
        self.num_parts = num_parts

    def forward(self, cond: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:  # type: ignore[override]
        """(B, D) -> `num_parts` of (B, D)."""
        with no_autocast(cond.device):
            rows = super().forward(cond)
        return rows.to(dtype).chunk(self.num_parts, dim=-1)


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Operators inside keep the precision of what they are given. Some devices, such as `meta`, know no autocast to turn off."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def to_tokens(row: Tensor, spread: Spread | None) -> Tensor:
    """(B, D) -> what broadcasts with the tokens: (B, 1, D), or (1, N, D) for a mixed pack."""
    return row.unsqueeze(1) if spread is None else row.index_select(0, spread.segments).unsqueeze(0)


def to_clips(tokens: Tensor, spread: Spread | None) -> Tensor:
    """Sum over the tokens of each clip: (G, N/G, D) -> (B, D). The derivative of `to_tokens`."""
    return tokens.sum(1) if spread is None else spread.members.to(tokens.dtype) @ tokens.squeeze(0)


def modulated_norm(tokens: Tensor, shift: Tensor, scale: Tensor, spread: Spread | None) -> Tensor:
    """norm(tokens) (1 + scale) + shift: tokens (G, N/G, D), shift and scale (B, D) -> (G, N/G, D)."""
    return _ModulatedNorm.apply(tokens, shift, scale, *(spread or (None, None)))


def gated_sum(tokens: Tensor, gate: Tensor, branch: Tensor, spread: Spread | None) -> Tensor:
    """tokens + gate branch: tokens and branch (G, N/G, D), gate (B, D) -> (G, N/G, D)."""
    return _GatedSum.apply(tokens, gate, branch, *(spread or (None, None)))


def normalise(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm without weights, and the mean and the inverse deviation of each token."""
    return torch.native_layer_norm(tokens, tokens.shape[-1:], None, None, EPS)


def _spread(segments: Tensor | None, members: Tensor | None) -> Spread | None:
    return None if segments is None or members is None else Spread(segments, members)


class _ModulatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, shift: Tensor, scale: Tensor, segments: Tensor | None, members: Tensor | None) -> Tensor:
        spread = _spread(segments, members)
        with no_autocast(tokens.device):
            normed, mean, deviation = normalise(tokens)
            ctx.save_for_backward(tokens, scale, mean, deviation, segments, members)
            return torch.addcmul(to_tokens(shift, spread), normed, to_tokens(1 + scale, spread), out=normed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, scale, mean, deviation, *places = ctx.saved_tensors
        spread = _spread(*places)
        normed, _, _ = normalise(tokens)
        grad_scale = to_clips(normed.mul_(grad), spread)
        grad_normed = torch.mul(grad, to_tokens(1 + scale, spread), out=normed)
        grad_tokens, _, _ = torch.ops.aten.native_layer_norm_backward(
            grad_normed, tokens, tokens.shape[-1:], mean, deviation, None, None, [True, False, False]
        )
        return grad_tokens, to_clips(grad, spread), grad_scale, None, None


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, gate: Tensor, branch: Tensor, segments: Tensor | None, members: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate, branch, segments, members)
        return torch.addcmul(tokens, to_tokens(gate, _spread(segments, members)), branch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, branch, *places = ctx.saved_tensors
        spread = _spread(*places)
        return grad, to_clips(grad * branch, spread), grad * to_tokens(gate, spread), None, None
