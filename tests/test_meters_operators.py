"""Operators are counted, forward and backward."""

import torch
from torch import nn

from bench.meters.operators import OperatorCounter


def counted(model: nn.Module, extra: bool = False) -> int:
    with OperatorCounter() as counter:
        out = model(torch.ones(2, 3))
        if extra:
            out = out + 0
        out.sum().backward()
    return counter.num_operators


def test_one_extra_operator_is_seen_every_time() -> None:
    model = nn.Linear(3, 4)
    plain = {counted(model) for _ in range(5)}
    assert len(plain) == 1
    assert counted(model, extra=True) > plain.pop()


def test_by_hand() -> None:
    a = torch.ones(3)
    with OperatorCounter() as counter:
        b = a + 1
        b.mul_(2)
    assert counter.num_operators == 2
    a + 1  # outside
    assert counter.num_operators == 2


def test_views_and_allocations_launch_nothing() -> None:
    a = torch.ones(2, 6)
    with OperatorCounter() as counter:
        b = a.view(3, 4).t()[1:].unsqueeze(0).expand(2, -1, -1).detach()
        torch.empty_like(a)
        a.new_empty(2).resize_(3)
        a.size(), a.numel(), a.is_contiguous()
    assert (counter.num_operators, counter.num_launches) == (9, 0)
    with OperatorCounter() as counter:
        b.contiguous()  # a copy
        torch._foreach_add_([a, a], 1.0)
        a.new_zeros(1)
        torch.nn.functional.layer_norm(a, (6,))
    assert (counter.num_operators, counter.num_launches) == (4, 4)
