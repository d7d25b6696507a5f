"""Adaptive layer norm (adaLN-zero): a clip's conditioning shifts, scales and gates all of its tokens.

Modulation is one row a clip, (B, D). It meets the tokens (G, N/G, D) in one of two ways, told by a `Spread`: clips of equal
length are a batch, G = B, and a row broadcasts; any others are one row of tokens, G = 1, and each token takes its clip's.
Long clips on a CPU are taken one at a time: no row is copied, and scale and shift are weights of torch's own norm.
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
# Values (tokens times D) of a clip from which calls for it alone cost less than they save: of a norm in a mixed pack, of anything else.
LONG_NORM, LONG = 2**13, 2**15
NORM_BACKWARD = torch.ops.aten.native_layer_norm_backward.default


class Spread(NamedTuple):
    """Which clip each token of a mixed pack belongs to, as an index, which copies rows, and as a matrix, which sums them."""

    segments: Tensor  # (N,) int64
    members: Tensor  # (B, N): 1 where the token is the clip's, else 0


class Clips(NamedTuple):
    """The clips of a pack, for what is theirs."""

    seqlens: tuple[int, ...]  # tokens of each
    spread: Spread | None  # None where they are equally long


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


def one_at_a_time(tokens: Tensor, clips: Clips, least: int) -> bool:
    """Whether to call kernels clip by clip: on a CPU, where clips have at least so many values on average."""
    return not torch.compiler.is_compiling() and tokens.device.type == "cpu" and tokens.numel() >= least * len(clips.seqlens)


def to_tokens(row: Tensor, spread: Spread | None) -> Tensor:
    """(B, D) -> what broadcasts with the tokens: (B, 1, D), or (1, N, D) for a mixed pack."""
    return row.unsqueeze(1) if spread is None else row.index_select(0, spread.segments).unsqueeze(0)


def to_clips(tokens: Tensor, spread: Spread | None) -> Tensor:
    """Sum over the tokens of each clip: (G, N/G, D) -> (B, D). The derivative of `to_tokens`."""
    return tokens.sum(1) if spread is None else spread.members.to(tokens.dtype) @ tokens.squeeze(0)


def modulated_norm(tokens: Tensor, shift: Tensor, scale: Tensor, clips: Clips) -> Tensor:
    """norm(tokens) (1 + scale) + shift: tokens (G, N/G, D), shift and scale (B, D) -> (G, N/G, D)."""
    if one_at_a_time(tokens, clips, LONG if clips.spread is None else LONG_NORM):
        return _NormOfEach.apply(tokens, shift, scale, clips.seqlens)
    return _ModulatedNorm.apply(tokens, shift, scale, *(clips.spread or (None, None)))


def gated_sum(tokens: Tensor, gate: Tensor, branch: Tensor, clips: Clips) -> Tensor:
    """tokens + gate branch: tokens and branch (G, N/G, D), gate (B, D) -> (G, N/G, D)."""
    if clips.spread is not None and one_at_a_time(tokens, clips, LONG):
        return _SumOfEach.apply(tokens, gate, branch, clips.seqlens)
    return _GatedSum.apply(tokens, gate, branch, *(clips.spread or (None, None)))


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
        grad_tokens, _, _ = NORM_BACKWARD(grad_normed, tokens, tokens.shape[-1:], mean, deviation, None, None, [True, False, False])
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


class _NormOfEach(torch.autograd.Function):
    """To one clip, scale and shift are the weights of a layer norm: one kernel forward, one backward."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, shift: Tensor, scale: Tensor, seqlens: tuple[int, ...]) -> Tensor:
        ctx.seqlens = seqlens
        with no_autocast(tokens.device):
            weight = 1 + scale
            each = zip(tokens.flatten(0, 1).split(seqlens), weight.unbind(), shift.unbind(), strict=True)
            parts = [torch.native_layer_norm(clip, clip.shape[-1:], w, b, EPS) for clip, w, b in each]
            normed, mean, deviation = (torch.cat(part) for part in zip(*parts, strict=True))
            ctx.save_for_backward(tokens, weight, shift, mean, deviation)
        return normed.view(tokens.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight, shift, *moments = ctx.saved_tensors
        rows = (part.split(ctx.seqlens) for part in (grad.flatten(0, 1), tokens.flatten(0, 1), *moments))
        parts = [
            NORM_BACKWARD(g, clip, clip.shape[-1:], mean, deviation, w, b, [True, True, True])
            for g, clip, mean, deviation, w, b in zip(*rows, weight.unbind(), shift.unbind(), strict=True)
        ]
        grad_tokens, grad_scale, grad_shift = (torch.cat(part) for part in zip(*parts, strict=True))
        return grad_tokens.view(tokens.shape), grad_shift.view(shift.shape), grad_scale.view(shift.shape), None


class _SumOfEach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, gate: Tensor, branch: Tensor, seqlens: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(gate, branch)
        ctx.seqlens = seqlens
        total = torch.empty_like(tokens)
        rows = (part.flatten(0, 1).split(seqlens) for part in (tokens, branch, total))
        for clip, upper, out, row in zip(*rows, gate.unbind(), strict=True):
            torch.addcmul(clip, row, upper, out=out)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, branch = ctx.saved_tensors
        grad_gate, grad_branch = torch.empty_like(gate), torch.empty_like(branch)
        rows = (part.flatten(0, 1).split(ctx.seqlens) for part in (grad, branch, grad_branch))
        for g, clip, out, row, total in zip(*rows, gate.unbind(), grad_gate.unbind(), strict=True):
            torch.sum(torch.mul(g, clip, out=out), 0, out=total)
            torch.mul(g, row, out=out)
        return grad, grad_gate, grad_branch, None
