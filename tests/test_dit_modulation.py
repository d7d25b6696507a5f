"""Adaptive layer norm: the plain formulas, their derivatives, and how much they keep."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from dit.modulation import EPS, Modulation, Spread, gated_sum, modulated_norm

SEGMENTS = torch.tensor([0, 0, 1, 2, 2, 2])
MIXED = Spread(SEGMENTS, F.one_hot(SEGMENTS, 3).t().double())


def inputs(spread: Spread | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens and a branch (G, N/G, D), two rows (B, D): three clips of two tokens, or of 2, 1 and 3."""
    shape = (3, 2, 8) if spread is None else (1, 6, 8)
    tokens, branch = torch.randn(2, *shape, dtype=torch.float64).unbind()
    one, two = torch.randn(2, 3, 8, dtype=torch.float64).unbind()
    return tokens.requires_grad_(), branch.requires_grad_(), one.requires_grad_(), two.requires_grad_()


def on_tokens(row: Tensor, spread: Spread | None) -> Tensor:
    return row[:, None] if spread is None else row[SEGMENTS][None]


@pytest.mark.parametrize("spread", [None, MIXED], ids=["equal", "mixed"])
def test_formulas_and_derivatives(spread: Spread | None) -> None:
    tokens, branch, one, two = inputs(spread)
    plain = F.layer_norm(tokens, (8,), eps=EPS) * (1 + on_tokens(two, spread)) + on_tokens(one, spread)
    assert_close(modulated_norm(tokens, one, two, spread), plain)
    assert_close(gated_sum(tokens, one, branch, spread), tokens + on_tokens(one, spread) * branch)
    assert torch.autograd.gradcheck(lambda *parts: modulated_norm(*parts, spread), (tokens, one, two))
    assert torch.autograd.gradcheck(lambda *parts: gated_sum(*parts, spread), (tokens, one, branch))


@pytest.mark.parametrize("spread", [None, MIXED], ids=["equal", "mixed"])
def test_backward_keeps_one_tensor_of_the_size_of_the_tokens(spread: Spread | None) -> None:
    tokens, branch, one, two = inputs(spread)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor):
        modulated_norm(tokens, one, two, spread)
        gated_sum(tokens, one, branch, spread)
    assert [tensor is tokens for tensor in kept if tensor.numel() == tokens.numel()] == [True, False]


def test_modulation_is_computed_in_the_precision_of_its_weights() -> None:
    modulation, cond = Modulation(8, 3), torch.randn(2, 8)
    expected = F.linear(cond, modulation.weight, modulation.bias).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = modulation(cond, torch.bfloat16)
    assert len(parts) == 3 and torch.equal(torch.cat(parts, dim=-1), expected)
