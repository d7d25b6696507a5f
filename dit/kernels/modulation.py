"""Adaptive layer norm with derivatives written out: they keep one tensor of the size of the tokens where torch's would keep two or
three (a tenth of a step's memory, a fifth in a mixed pack).

Rows of a mixed pack are not copied on a CPU: neighbours of equal length are taken in turn, as batches over which a row broadcasts.
Elsewhere a few large kernels are better than many small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.backbone import Operation, is_sharded
from dit import modulation
from dit.modulation import EPS, no_autocast, to_tokens
from dit.packing import PackClips, Runs

NORM_BACKWARD = torch.ops.aten.native_layer_norm_backward.default


def modulations_in_one(layers: Sequence[nn.Linear], cond: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """`modulation.modulations` in the precision of the weights, also under autocast: of few rows, casting the weights would cost more
    than the products."""
    if any(map(is_sharded, layers)):  # gathered one by one, each in its call
        with no_autocast(cond.device):
            return modulation.modulations(layers, cond, dtype)
    parameters = (getattr(layer, name) for name in ("weight", "bias") for layer in layers)
    return Modulations.apply(cond, dtype, *parameters)


def modulated_norm_in_one(tokens: Tensor, shift: Tensor, factor: Tensor, clips: PackClips) -> Tensor:
    """`modulation.modulated_norm` that keeps the tokens alone."""
    if torch.compiler.is_compiling():  # it fuses the formula, and lengths of clips would be constants of its graph
        with no_autocast(tokens.device):
            return modulation.modulated_norm(tokens, shift, factor, clips)
    return ModulatedNorm.apply(tokens, shift, factor, clips.runs, clips.segments, clips.members)


def gated_sum_in_one(tokens: Tensor, gate: Tensor, branch: Tensor, clips: PackClips) -> Tensor:
    """`modulation.gated_sum` that keeps the branch alone."""
    if torch.compiler.is_compiling():
        return modulation.gated_sum(tokens, gate, branch, clips)
    return GatedSum.apply(tokens, gate, branch, clips.runs, clips.segments, clips.members)


class Modulations(torch.autograd.Function):
    """Rows of several layers, cast together, and one derivative of all biases. Compiled blocks want each as a tensor of its own."""

    @staticmethod
    def forward(ctx: Any, cond: Tensor, dtype: torch.dtype, *parameters: Tensor) -> tuple[Tensor, ...]:
        weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        ctx.save_for_backward(cond, *weights)
        with no_autocast(cond.device):
            exact = [F.linear(cond, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        rows = exact
        if dtype != cond.dtype:
            rows = [torch.empty_like(each, dtype=dtype) for each in exact]
            torch._foreach_copy_(rows, exact)
        torch._foreach_add_([modulation.factors(each, cond.shape[1]) for each in rows], 1)
        return tuple(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cond, *weights = ctx.saved_tensors
        sizes = [len(weight) for weight in weights]
        grad = torch.cat(grads, dim=1).to(cond.dtype)  # (B, of all layers)
        parts = grad.split(sizes, dim=1)
        with no_autocast(cond.device):
            grad_cond = parts[0] @ weights[0]
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                grad_cond.addmm_(part, weight)
            return grad_cond, None, *(grad.t() @ cond).split(sizes), *grad.sum(0).split(sizes)


class ModulatedNorm(torch.autograd.Function):
    """norm(tokens) factor + shift; backward computes the norm again."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, shift: Tensor, factor: Tensor, runs: Runs, segments: Tensor | None, members: Tensor | None
    ) -> Tensor:
        with no_autocast(tokens.device):
            normed, mean, deviation = normalise(tokens)
            ctx.save_for_backward(tokens, factor, mean, deviation, segments, members)
            ctx.runs = runs
            return over_clips(torch.addcmul, runs, segments, normed, shift, normed, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, factor, mean, deviation, segments, members = ctx.saved_tensors
        normed, _, _ = normalise(tokens)
        grad_factor = sum_of_clips(normed.mul_(grad), ctx.runs, members)
        grad_normed = over_clips(torch.mul, ctx.runs, segments, normed, grad, factor)
        grad_tokens, _, _ = NORM_BACKWARD(grad_normed, tokens, tokens.shape[-1:], mean, deviation, None, None, [True, False, False])
        return grad_tokens, sum_of_clips(grad, ctx.runs, members), grad_factor, None, None, None


class GatedSum(torch.autograd.Function):
    """tokens + gate branch."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, gate: Tensor, branch: Tensor, runs: Runs, segments: Tensor | None, members: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(gate, branch, segments, members)
        ctx.runs = runs
        return over_clips(torch.addcmul, runs, segments, torch.empty_like(tokens), tokens, gate, branch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, branch, segments, members = ctx.saved_tensors
        grad_gate = sum_of_clips(grad * branch, ctx.runs, members)
        return grad, grad_gate, over_clips(torch.mul, ctx.runs, segments, torch.empty_like(grad), grad, gate), None, None, None


def normalise(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm without weights, and the mean and the inverse deviation of each token."""
    return torch.native_layer_norm(tokens, tokens.shape[-1:], None, None, EPS)


def over_copies(operator: Callable[..., Tensor], runs: Runs, segments: Tensor | None, out: Tensor, *operands: Tensor) -> Tensor:
    """`operator` of tokens (G, N/G, D) and of rows (B, D), each of which meets all tokens of its clip, into `out` (G, N/G, D)."""
    return operator(*(each if each.dim() == 3 else to_tokens(each, segments) for each in operands), out=out)


def over_runs(operator: Callable[..., Tensor], runs: Runs, segments: Tensor | None, out: Tensor, *operands: Tensor) -> Tensor:
    """`over_copies` without a copy, where runs are taken in turn."""
    if segments is None or not in_turn(out):
        return over_copies(operator, runs, segments, out, *operands)
    for part, *parts in zip(*(by_run(each, runs) for each in (out, *operands)), strict=True):
        operator(*parts, out=part)
    return out


def sum_by_matrix(tokens: Tensor, runs: Runs, members: Tensor | None) -> Tensor:
    """Sum over the tokens of each clip: (G, N/G, D) -> (B, D)."""
    return tokens.sum(1) if members is None else members.to(tokens.dtype) @ tokens.squeeze(0)


def sum_by_run(tokens: Tensor, runs: Runs, members: Tensor | None) -> Tensor:
    """`sum_by_matrix` without its product, where runs are taken in turn."""
    if members is None or not in_turn(tokens):
        return sum_by_matrix(tokens, runs, members)
    total = tokens.new_empty(len(members), tokens.shape[-1])
    for part, rows in zip(by_run(tokens, runs), by_run(total, runs), strict=True):
        torch.sum(part, -2, keepdim=True, out=rows)
    return total


def in_turn(tokens: Tensor) -> bool:
    """Whether runs of equally long clips are taken in turn. A compiler fuses what copying rows costs."""
    return tokens.device.type == "cpu" and not torch.compiler.is_compiling()


def by_run(tensor: Tensor, runs: Runs) -> Iterator[Tensor]:
    """Of each run of equally long clips, tokens (1, N, D) -> (num_clips, length, D), rows (B, D) -> (num_clips, 1, D), or both
    without the first axis where it is one clip, since a view takes longer than the arithmetic of few tokens; views."""
    if tensor.dim() == 2:
        parts = tensor.split([num_clips for num_clips, _ in runs])
        return (part if num_clips == 1 else part.unsqueeze(1) for (num_clips, _), part in zip(runs, parts, strict=True))
    parts = tensor.squeeze(0).split([num_clips * length for num_clips, length in runs])
    return (part if run[0] == 1 else part.view(*run, -1) for run, part in zip(runs, parts, strict=True))


over_clips = Operation(over_copies, over_runs)
sum_of_clips = Operation(sum_by_matrix, sum_by_run)
modulations = Operation(modulation.modulations, modulations_in_one)
modulated_norm = Operation(modulation.modulated_norm, modulated_norm_in_one)
gated_sum = Operation(modulation.gated_sum, gated_sum_in_one)
