"""Positions: what rotation and addition promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from bench.meters.storage import StorageMeter
from dit.kernels import position_tables, rotate_query_key
from dit.positions import of_query_key_value, pack_positions, rotary_tables, rotate, sincos_tables


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
    (embedding,) = sincos_tables(positions, 32)
    assert torch.cdist(embedding, embedding).fill_diagonal_(1.0).min() > 0.1
    row, column = positions[7, 1:]
    assert_close(embedding[7, [0, 8, 16, 24]], torch.stack([column.sin(), column.cos(), row.sin(), row.cos()]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sincos_goes_on_beyond_the_sizes_of_training(axis: int) -> None:
    """At any size: bounded, and places that are near each other look alike. So a longer or larger clip is no stranger."""
    positions = torch.zeros(200, 3, dtype=torch.long)
    positions[:, axis] = torch.arange(200)
    (embedding,) = sincos_tables(positions, 64)
    assert embedding.abs().max() <= 3  # a sine of space, one of time, and that of frame 0
    distance = torch.cdist(embedding, embedding).fill_diagonal_(math.inf)
    assert ((distance.argmin(dim=1) - torch.arange(200)).abs() == 1).all()
    steps = (embedding[1:] - embedding[:-1]).norm(dim=1)
    assert_close(steps, steps[:1].expand(199), rtol=1e-3, atol=0)  # the hundredth step is as long as the first


def test_positions_of_a_pack() -> None:
    """w runs fastest, as in `patchify`."""
    grids = [(1, 2, 3), (3, 2, 1)]
    first = [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]
    second = [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0], [2, 1, 0]]
    assert pack_positions(grids).tolist() == first + second
    kept = [torch.tensor([4]), torch.tensor([0, 3, 5])]
    assert pack_positions(grids, kept).tolist() == [first[4], second[0], second[3], second[5]]


def test_queries_and_keys_turn_and_values_stay() -> None:
    qkv = torch.randn(2, 5, 3, 2, 8, dtype=torch.float64, requires_grad=True)  # (G, N/G, 3, K, E)
    cos, sin = (table.double()[:, None] for table in rotary_tables(torch.randint(0, 9, (5, 3)), 8))  # (N/G, 1, 1, E/2) each
    tables = of_query_key_value(*(table.squeeze(1) for table in (cos, sin)))
    turned = rotate_query_key(qkv, *tables)
    assert_close(turned[:, :, :2], rotate(qkv[:, :, :2], cos, sin))
    assert torch.equal(turned[:, :, 2], qkv[:, :, 2])
    assert torch.autograd.gradcheck(lambda heads: rotate_query_key(heads, *tables), (qkv,))


@pytest.mark.parametrize("kind", ["rotary", "sincos"])
def test_tables_of_a_pack(kind: str) -> None:
    """One table for clips of one grid; else those of the clips in a row; of kept tokens, their rows of it."""
    cpu = torch.device("cpu")
    grids = ((1, 2, 3), (3, 2, 1))
    alone = [position_tables(kind, (grid,), 24, cpu) for grid in grids]
    for table, *parts in zip(position_tables(kind, grids, 24, cpu), *alone, strict=True):
        assert len(parts) == 2 and torch.equal(table, torch.cat(parts, dim=1)) and not torch.equal(*parts)
    for table, part in zip(position_tables(kind, (grids[0],) * 3, 24, cpu), alone[0], strict=True):
        assert torch.equal(table, part)
    kept = [torch.tensor([1, 2]), torch.tensor([5])]
    for table, *parts in zip(position_tables(kind, grids, 24, cpu, kept), *alone, strict=True):
        assert torch.equal(table[0], torch.cat([part[0][rows] for part, rows in zip(parts, kept, strict=True)]))


def test_a_kept_table_serves_every_mode_and_device() -> None:
    """First made while sampling, then used in training; under a meter made anew and not kept; on `meta` its own."""
    grid, cpu = (2, 3, 5), torch.device("cpu")

    def embedding(device: torch.device = cpu) -> torch.Tensor:
        return position_tables("sincos", (grid,), 24, device)[0]

    with StorageMeter() as first:
        expected = embedding()
    with torch.inference_mode():
        sampled = embedding()
    tokens = torch.randn(1, 30, 24, requires_grad=True)
    (tokens * embedding()).sum().backward()  # autograd refuses to keep a tensor of inference mode
    assert torch.equal(sampled, expected)
    with StorageMeter() as second:
        embedding()
    assert second.peak_bytes == first.peak_bytes
    assert embedding(torch.device("meta")).is_meta and not embedding().is_meta
