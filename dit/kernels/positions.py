"""Positions in fewer passes: tables made once a pack and not once a call, clips in an order that suits kernels, a rotation in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from bench.backbone import Operation
from bench.shapes import Shape
from dit import positions
from dit.packing import as_given

MAX_CACHED_PACKS = 16  # a sampler asks for the same tables at every step


def cached_tables(kind: str, grids: tuple[Shape, ...], width: int, device: torch.device, kept: list[Tensor] | None = None) -> Any:
    """`positions.position_tables`, kept for the last packs without dropped tokens."""
    if kept is not None:
        return positions.position_tables(kind, grids, width, device, kept)
    # What watches every operator (a meter, a counter, a fake device) must see the same ones each time, and leave nothing behind.
    fresh = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    make = positions.position_tables if fresh else _kept_tables
    # A copy, always: a table that was made while sampling is a tensor of inference mode, which training must not be given.
    return tuple(table.clone() for table in make(kind, grids[:1] if len(set(grids)) == 1 else grids, width, device))


_kept_tables = lru_cache(MAX_CACHED_PACKS)(positions.position_tables)


def side_by_side(seqlens: Sequence[int]) -> tuple[int, ...]:
    """Indices of the clips with equally long ones together, each length where it comes first: a run of them is one batched call.

    >>> side_by_side([4, 6, 4, 2, 6])
    (0, 2, 1, 4, 3)
    """
    first: dict[int, int] = {}
    for clip, length in enumerate(seqlens):
        first.setdefault(length, clip)
    return tuple(sorted(range(len(seqlens)), key=lambda clip: first[seqlens[clip]]))


def rotate_into_one(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`positions.rotate_query_key` with one large tensor written."""
    if torch.compiler.is_compiling():  # a compiler fuses the plain formula, and cannot write into a part of a tensor
        return positions.rotate_query_key(qkv, cos, sin)
    return RotateQueryKey.apply(qkv, cos, sin)


class RotateQueryKey(torch.autograd.Function):
    """Turns queries and keys into one tensor with the values, so that the one they came from can go."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turned(qkv, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """A rotation's derivative is the rotation back."""
        cos, sin = ctx.saved_tensors
        return turned(grad, cos, sin, back=True), None, None


def turned(qkv: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """The rotation itself, without a derivative, or the one back."""
    result = torch.empty_like(qkv)
    halves, result_halves = (each.unflatten(-1, (2, -1)) for each in (qkv, result))  # (G, N/G, 3, K, 2, E/2)
    torch.mul(halves, cos.unsqueeze(-2), out=result_halves)
    (first, second), (result_first, result_second) = (each[:, :, :2].unbind(-2) for each in (halves, result_halves))
    result_first.addcmul_(second, sin, value=1 if back else -1)
    result_second.addcmul_(first, sin, value=-1 if back else 1)
    return result


position_tables = Operation(positions.position_tables, cached_tables)
clip_order = Operation(as_given, side_by_side)
rotate_query_key = Operation(positions.rotate_query_key, rotate_into_one)
