"""Adaptive layer norm (adaLN-zero): a clip's conditioning shifts, scales and gates all of its tokens.

Modulation is one row a clip, (B, D). Clips of equal length are a batch (G, N/G, D) with G = B, and a row broadcasts. Any others are
one row of tokens, G = 1: on a CPU neighbours of equal length are taken in turn, as batches, so that no row is copied; elsewhere, where
a few large kernels are better than many small ones, each token takes its clip's row, told by a `Spread`.
Derivatives are written out: they keep one tensor of the size of the tokens where torch's would keep two or three (a tenth
of a step's memory, a fifth in a mixed pack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dit.packing import Runs

EPS = 1e-6
NORM_BACKWARD = torch.ops.aten.native_layer_norm_backward.default


class Spread(NamedTuple):
    """Which clip each token of a mixed pack belongs to, as an index, which copies rows, and as a matrix, which sums them."""

    segments: Tensor  # (N,) int64
    members: Tensor  # (B, N): 1 where the token is the clip's, else 0


class Clips(NamedTuple):
    """The clips of a pack, for what is theirs."""

    runs: Runs
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


def in_turn(tokens: Tensor) -> bool:
    """Whether runs of equally long clips are taken in turn. A compiler fuses what copying rows costs."""
    return tokens.device.type == "cpu" and not torch.compiler.is_compiling()


def over_clips(operator: Callable[..., Tensor], clips: Clips, out: Tensor, *operands: Tensor) -> Tensor:
    """`operator` of tokens (G, N/G, D) and of rows (B, D), each of which meets all tokens of its clip, into `out` (G, N/G, D)."""
    if clips.spread is None:
        return operator(*(each if each.dim() == 3 else each.unsqueeze(1) for each in operands), out=out)
    if in_turn(out):
        for part, *parts in zip(*(by_run(each, clips) for each in (out, *operands)), strict=True):
            operator(*parts, out=part)
        return out
    segments = clips.spread.segments
    return operator(*(each if each.dim() == 3 else each.index_select(0, segments).unsqueeze(0) for each in operands), out=out)


def to_clips(tokens: Tensor, clips: Clips) -> Tensor:
    """Sum over the tokens of each clip: (G, N/G, D) -> (B, D)."""
    if clips.spread is None:
        return tokens.sum(1)
    if in_turn(tokens):
        total = tokens.new_empty(clips.spread.members.shape[0], tokens.shape[-1])
        for part, rows in zip(by_run(tokens, clips), by_run(total, clips), strict=True):
            torch.sum(part, -2, keepdim=True, out=rows)
        return total
    return clips.spread.members.to(tokens.dtype) @ tokens.squeeze(0)


def by_run(tensor: Tensor, clips: Clips) -> Iterator[Tensor]:
    """Of each run of equally long clips, tokens (1, N, D) -> (num_clips, length, D), rows (B, D) -> (num_clips, 1, D), or both
    without the first axis where it is one clip, since a view takes longer than the arithmetic of few tokens; views."""
    if tensor.dim() == 2:
        parts = tensor.split([num_clips for num_clips, _ in clips.runs])
        return (part if num_clips == 1 else part.unsqueeze(1) for (num_clips, _), part in zip(clips.runs, parts, strict=True))
    parts = tensor.squeeze(0).split([num_clips * length for num_clips, length in clips.runs])
    return (part if run[0] == 1 else part.view(*run, -1) for run, part in zip(clips.runs, parts, strict=True))


def modulated_norm(tokens: Tensor, shift: Tensor, scale: Tensor, clips: Clips) -> Tensor:
    """norm(tokens) (1 + scale) + shift: tokens (G, N/G, D), shift and scale (B, D) -> (G, N/G, D)."""
    return _ModulatedNorm.apply(tokens, shift, scale, clips.runs, *(clips.spread or (None, None)))


def gated_sum(tokens: Tensor, gate: Tensor, branch: Tensor, clips: Clips) -> Tensor:
    """tokens + gate branch: tokens and branch (G, N/G, D), gate (B, D) -> (G, N/G, D)."""
    return _GatedSum.apply(tokens, gate, branch, clips.runs, *(clips.spread or (None, None)))


def normalise(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm without weights, and the mean and the inverse deviation of each token."""
    return torch.native_layer_norm(tokens, tokens.shape[-1:], None, None, EPS)


def _clips(runs: Runs, segments: Tensor | None, members: Tensor | None) -> Clips:
    return Clips(runs, None if segments is None or members is None else Spread(segments, members))


class _ModulatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, shift: Tensor, scale: Tensor, runs: Runs, *spread: Tensor | None) -> Tensor:
        with no_autocast(tokens.device):
            normed, mean, deviation = normalise(tokens)
            ctx.save_for_backward(tokens, scale, mean, deviation, *spread)
            ctx.runs = runs
            return over_clips(torch.addcmul, _clips(runs, *spread), normed, shift, normed, 1 + scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, scale, mean, deviation, *spread = ctx.saved_tensors
        clips = _clips(ctx.runs, *spread)
        normed, _, _ = normalise(tokens)
        grad_scale = to_clips(normed.mul_(grad), clips)
        grad_normed = over_clips(torch.mul, clips, normed, grad, 1 + scale)
        grad_tokens, _, _ = NORM_BACKWARD(grad_normed, tokens, tokens.shape[-1:], mean, deviation, None, None, [True, False, False])
        return grad_tokens, to_clips(grad, clips), grad_scale, None, None, None


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, gate: Tensor, branch: Tensor, runs: Runs, *spread: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate, branch, *spread)
        ctx.runs = runs
        return over_clips(torch.addcmul, _clips(runs, *spread), torch.empty_like(tokens), tokens, gate, branch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, branch, *spread = ctx.saved_tensors
        clips = _clips(ctx.runs, *spread)
        return grad, to_clips(grad * branch, clips), over_clips(torch.mul, clips, torch.empty_like(grad), grad, gate), None, None, None
