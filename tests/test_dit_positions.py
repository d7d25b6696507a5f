"""Positions: what rotation and addition promise."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from dit.positions import rotary_tables, rotate, sincos_embedding


@pytest.mark.parametrize("head_dim", [6, 8, 32, 64, 72])
def test_attention_scores_depend_on_distance_only(head_dim: int) -> None:
    query, key = torch.randn(2, 5, 1, head_dim).unbind()
    here, there = torch.randint(0, 9, (2, 5, 3)).unbind()
    shift = torch.tensor([3, 1, 4])

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (rotate(query, *rotary_tables(a, head_dim)) * rotate(key, *rotary_tables(b, head_dim))).sum(-1)

    assert_close(score(here, there), score(here + shift, there + shift), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_turns_its_own_pairs(axis: int) -> None:
    step = torch.eye(3, dtype=torch.long)[axis : axis + 1]
    cos, _ = rotary_tables(step, 32)
    turned = (cos[0, 0] < 1).nonzero().flatten().tolist()
    assert turned == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]][axis]


def test_rotation_keeps_length_and_origin() -> None:
    heads = torch.randn(4, 2, 32)
    tables = rotary_tables(torch.tensor([[0, 0, 0], [1, 0, 0], [5, 6, 7], [0, 9, 2]]), 32)
    turned = rotate(heads, *tables)
    assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    assert torch.equal(turned[0], heads[0])
    assert not torch.allclose(turned[1], heads[1])


def test_sincos_tells_every_cell_apart_and_leaves_frame_zero_to_the_image() -> None:
    positions = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5))
    embedding = sincos_embedding(positions, 32)
    assert torch.cdist(embedding, embedding).fill_diagonal_(1.0).min() > 0.1
    row, column = positions[7, 1:]
    assert_close(embedding[7, [0, 8, 16, 24]], torch.stack([column.sin(), column.cos(), row.sin(), row.cos()]))
