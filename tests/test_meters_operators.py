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
