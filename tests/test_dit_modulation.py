"""Adaptive layer norm: the plain formulas, their derivatives, and how much they keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from dit.kernels import OPERATIONS, gated_sum, modulated_norm, modulations
from dit.kernels.modulation import in_turn, over_clips
from dit.modulation import EPS
from dit.packing import PackClips

SEGMENTS = torch.tensor([0, 0, 1, 2, 2, 2])
ENDS = torch.tensor([0, 2, 3, 6])
EQUAL = PackClips([(3, 2)], ENDS, None, None)
MIXED = PackClips([(1, 2), (1, 1), (1, 3)], ENDS, SEGMENTS, F.one_hot(SEGMENTS, 3).t().double())
BOTH = pytest.mark.parametrize("clips", [EQUAL, MIXED], ids=["equal", "mixed"])


@pytest.fixture(params=[(), ("over_clips", "sum_of_clips")], ids=["in turn", "together"])
def _ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways of a mixed pack: that of a CPU and that of other devices."""
    with OPERATIONS.plain(*request.param):
        yield


def inputs(clips: PackClips) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens and a branch (G, N/G, D), two rows (B, D): three clips of two tokens, or of 2, 1 and 3."""
    shape = (3, 2, 8) if clips.segments is None else (1, 6, 8)
    tokens, branch = torch.randn(2, *shape, dtype=torch.float64).unbind()
    one, two = torch.randn(2, 3, 8, dtype=torch.float64).unbind()
    return tokens.requires_grad_(), branch.requires_grad_(), one.requires_grad_(), two.requires_grad_()


def on_tokens(row: Tensor, clips: PackClips) -> Tensor:
    return row[:, None] if clips.segments is None else row[SEGMENTS][None]


@BOTH
@pytest.mark.usefixtures("_ways")
def test_formulas_and_derivatives(clips: PackClips) -> None:
    tokens, branch, one, two = inputs(clips)
    plain = F.layer_norm(tokens, (8,), eps=EPS) * on_tokens(two, clips) + on_tokens(one, clips)
    assert_close(modulated_norm(tokens, one, two, clips), plain)
    assert_close(gated_sum(tokens, one, branch, clips), tokens + on_tokens(one, clips) * branch)
    assert torch.autograd.gradcheck(lambda *parts: modulated_norm(*parts, clips), (tokens, one, two))
    assert torch.autograd.gradcheck(lambda *parts: gated_sum(*parts, clips), (tokens, one, branch))


@BOTH
@pytest.mark.usefixtures("_ways")
def test_backward_keeps_one_tensor_of_the_size_of_the_tokens(clips: PackClips) -> None:
    tokens, branch, one, two = inputs(clips)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor):
        modulated_norm(tokens, one, two, clips)
        gated_sum(tokens, one, branch, clips)
    assert [tensor is tokens for tensor in kept if tensor.numel() == tokens.numel()] == [True, False]


def test_rows_are_not_copied_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours of equal length are one call; a compiler, which fuses the plain formula, and other devices copy rows."""
    tokens = torch.randn(1, 7, 8)
    segments = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    runs = [(2, 2), (1, 3)]
    calls: list[tuple[int, ...]] = []

    def spy(*operands: Tensor, out: Tensor) -> Tensor:
        calls.append(tuple(operands[0].shape))
        return torch.mul(*operands, out=out)

    over_clips(spy, runs, segments, torch.empty_like(tokens), torch.randn(3, 8), tokens)
    assert calls == [(2, 1, 8), (1, 8)]
    assert not in_turn(tokens.to("meta"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    calls.clear()
    over_clips(spy, runs, segments, torch.empty_like(tokens), torch.randn(3, 8), tokens)
    assert calls == [(1, 7, 8)]


def test_modulation_is_computed_in_the_precision_of_its_weights() -> None:
    layers, cond = [nn.Linear(8, 24), nn.Linear(8, 16)], torch.randn(2, 8)
    expected = [F.linear(cond, layer.weight, layer.bias).bfloat16() for layer in layers]
    for rows in expected:
        rows[:, 8:16] += 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = modulations(layers, cond, torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(rows, expected, strict=True))


def test_modulations_and_their_derivatives() -> None:
    layers, cond = [nn.Linear(4, 24).double(), nn.Linear(4, 8).double()], torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    inputs = (cond, *(weight for layer in layers for weight in layer.parameters()))
    grads = [torch.randn(3, 24, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)]
    rows = modulations(layers, cond, torch.float64)
    one, none = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    shifted = torch.cat([none, one, none, none, one, none]), torch.cat([none, one])  # shift, factor and gate of each branch
    expected = [layer(cond) + ones for layer, ones in zip(layers, shifted, strict=True)]
    assert_close(list(rows), expected)
    assert_close(torch.autograd.grad(rows, inputs, grads), torch.autograd.grad(expected, inputs, grads))
