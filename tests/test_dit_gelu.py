"""GELU by the sigmoid: the tanh form and its derivative."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dit.kernels.gelu import CHUNK, SigmoidGELU, gelu


@pytest.mark.parametrize("columns", [100, CHUNK // 2 + 25])  # one chunk, and three, the last one short
def test_is_the_tanh_form_and_so_is_its_derivative(columns: int) -> None:
    x = torch.cat([torch.linspace(-30, 30, 2 * columns + 1), torch.linspace(-3, 3, 2 * columns - 1)]).view(4, columns).t().requires_grad_()
    exact = x.detach().double().requires_grad_()
    output, expected = gelu(x), F.gelu(exact, approximate="tanh")
    assert type(output.grad_fn).__name__.startswith("SigmoidGELU")
    assert_close(output.double(), expected, rtol=1e-5, atol=1e-6)
    upper = torch.randn(4, columns).t()
    (gradient,), (exact_gradient,) = torch.autograd.grad(output, x, upper), torch.autograd.grad(expected, exact, upper.double())
    assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-6)


def test_derivative_by_differences() -> None:
    x = torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SigmoidGELU.apply, (x,))


def test_other_dtypes_take_torchs_kernel() -> None:
    x = torch.randn(5, 7, dtype=torch.bfloat16)
    assert torch.equal(gelu(x), F.gelu(x, approximate="tanh"))
