"""Adaptive layer norm: the plain formulas, their derivatives, and how much they keep."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from dit import modulation
from dit.modulation import EPS, Clips, Modulation, Spread, gated_sum, modulated_norm, one_at_a_time

SEGMENTS = torch.tensor([0, 0, 1, 2, 2, 2])
EQUAL = Clips((2, 2, 2), None)
MIXED = Clips((2, 1, 3), Spread(SEGMENTS, F.one_hot(SEGMENTS, 3).t().double()))
BOTH = pytest.mark.parametrize("clips", [EQUAL, MIXED], ids=["equal", "mixed"])


@pytest.fixture(params=[False, True], ids=["together", "one at a time"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of two tokens of eight values are short, unless shortness is defined away."""
    if request.param:
        monkeypatch.setattr(modulation, "LONG", 0)
        monkeypatch.setattr(modulation, "LONG_NORM", 0)


def inputs(clips: Clips) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens and a branch (G, N/G, D), two rows (B, D): three clips of two tokens, or of 2, 1 and 3."""
    shape = (3, 2, 8) if clips.spread is None else (1, 6, 8)
    tokens, branch = torch.randn(2, *shape, dtype=torch.float64).unbind()
    one, two = torch.randn(2, 3, 8, dtype=torch.float64).unbind()
    return tokens.requires_grad_(), branch.requires_grad_(), one.requires_grad_(), two.requires_grad_()


def on_tokens(row: Tensor, clips: Clips) -> Tensor:
    return row[:, None] if clips.spread is None else row[SEGMENTS][None]


@BOTH
def test_formulas_and_derivatives(clips: Clips) -> None:
    tokens, branch, one, two = inputs(clips)
    plain = F.layer_norm(tokens, (8,), eps=EPS) * (1 + on_tokens(two, clips)) + on_tokens(one, clips)
    assert_close(modulated_norm(tokens, one, two, clips), plain)
    assert_close(gated_sum(tokens, one, branch, clips), tokens + on_tokens(one, clips) * branch)
    assert torch.autograd.gradcheck(lambda *parts: modulated_norm(*parts, clips), (tokens, one, two))
    assert torch.autograd.gradcheck(lambda *parts: gated_sum(*parts, clips), (tokens, one, branch))


@BOTH
def test_backward_keeps_one_tensor_of_the_size_of_the_tokens(clips: Clips) -> None:
    tokens, branch, one, two = inputs(clips)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor):
        modulated_norm(tokens, one, two, clips)
        gated_sum(tokens, one, branch, clips)
    assert [tensor is tokens for tensor in kept if tensor.numel() == tokens.numel()] == [True, False]


@pytest.mark.parametrize(("clips", "norm", "total"), [(EQUAL, 2**15, math.inf), (MIXED, 2**13, 2**15)], ids=["equal", "mixed"])
def test_long_clips_are_taken_one_at_a_time(monkeypatch: pytest.MonkeyPatch, clips: Clips, norm: float, total: float) -> None:
    """From a mean of so many values. Where rows broadcast, a gated sum has nothing to save."""
    monkeypatch.undo()
    for power in (12, 13, 14, 15, 16):
        tokens, row = torch.zeros(3, 2**power // 8, 8, requires_grad=True), torch.zeros(3, 8)
        for operator, least, name in ((modulated_norm, norm, "_NormOfEach"), (gated_sum, total, "_SumOfEach")):
            seqlens = (tokens.shape[1],) * 3
            given = tokens if clips.spread is None else tokens.flatten(0, 1)[None]
            segments = torch.arange(3).repeat_interleave(tokens.shape[1])
            spread = None if clips.spread is None else Spread(segments, F.one_hot(segments, 3).t())
            other = given if operator is gated_sum else row
            result = operator(given, row, other, Clips(seqlens, spread))
            assert (type(result.grad_fn).__name__ == f"{name}Backward") is (2**power >= least)
    tokens = torch.empty(2, 100, 384)
    assert one_at_a_time(tokens, EQUAL, 1)
    assert not one_at_a_time(tokens.to("meta"), EQUAL, 1)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # a compiler fuses the plain formula
    assert not one_at_a_time(tokens, EQUAL, 1)


def test_modulation_is_computed_in_the_precision_of_its_weights() -> None:
    modulation, cond = Modulation(8, 3), torch.randn(2, 8)
    expected = F.linear(cond, modulation.weight, modulation.bias).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = modulation(cond, torch.bfloat16)
    assert len(parts) == 3 and torch.equal(torch.cat(parts, dim=-1), expected)
