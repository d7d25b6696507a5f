"""Where a token sits in its clip, told to the network by rotation or by addition. Positions are (N, 3) integers: t, h, w.

Tables depend on the grids of the clips alone. Those of a pack are made in one go, however many grids it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.shapes import Shape

# Grids have tens of positions, not thousands: with RoPE's usual 10000 most of the few pairs per axis would hardly turn
# (Heo et al., 2403.13298).
ROTARY_BASE = 100.0
SINCOS_BASE = 10000.0


def position_tables(
    kind: str, grids: tuple[Shape, ...], width: int, device: torch.device, kept: list[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Tables of the `kind` in MAKERS for a pack: each (1, N, ...), or (1, N/B, ...) where all clips have one grid and keep all of it.

    `kept` has the tokens (n,) of each clip that stay, counted in its whole grid; None for all.
    """
    if kept is None and len(set(grids)) == 1:
        grids = grids[:1]
    tables = MAKERS[kind](pack_positions(grids, kept).to(device, non_blocking=True), width)
    return tuple(table.unsqueeze(0) for table in tables)


def pack_positions(grids: Sequence[Shape], kept: list[Tensor] | None = None) -> Tensor:
    """Grids (T, H, W) of clips in a row -> positions (N, 3) int64 on the host, w fastest; of the tokens `kept` (n,) of each, or of all."""
    kept = kept if kept is not None else [torch.arange(t * h * w, device="cpu") for t, h, w in grids]
    token = torch.cat(kept)  # (N,), counted in its clip
    lengths = torch.tensor([len(part) for part in kept], device="cpu")
    sizes = torch.tensor(grids, device="cpu").repeat_interleave(lengths, dim=0, output_size=len(token))  # (N, 3)
    _, height, width = sizes.unbind(1)
    row = token.div(width, rounding_mode="floor")  # over all frames
    return torch.stack([row.div(height, rounding_mode="floor"), row % height, token % width], dim=1)


def rotary_tables(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of each rotated pair: (N, 3) -> two of (N, 1, E/2), the 1 for the heads.

    Axial RoPE (Su et al., 2104.09864, eq. 15): the E/2 pairs of a head are dealt to t, h and w as evenly as they go, the
    remainder to t. Attention then sees the distance between tokens along each axis, whatever the size of the grid.
    """
    pairs_space = head_dim // 6
    pairs = (head_dim // 2 - 2 * pairs_space, pairs_space, pairs_space)
    axes = torch.tensor([axis for axis, num in enumerate(pairs) for _ in range(num)], device="cpu")  # (E/2,): of each pair
    turns = frequencies(pairs, ROTARY_BASE, positions.device)
    angle = (positions.float().index_select(1, axes.to(positions.device, non_blocking=True)) * turns)[:, None]  # (N, 1, E/2)
    return angle.cos(), angle.sin()


def of_query_key_value(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Tables (..., 1, E/2) -> cosines of queries, keys and of values, which do not turn, (..., 3, 1, E/2), and sines (..., 1, 1, E/2)."""
    cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
    return torch.cat([cos, cos, torch.ones_like(cos)], dim=-3), sin


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels by its angle: (..., N, K, E) -> same. Channel i is paired with channel i + E/2."""
    first, second = heads.chunk(2, dim=-1)  # (..., N, K, E/2) each
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def rotate_query_key(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries and keys turned, values as they are: (G, N/G, 3, K, E) -> same; tables of `of_query_key_value`."""
    return torch.cat([rotate(qkv[:, :, :2], cos[:, :, :2], sin), qkv[:, :, 2:]], dim=2)


def sincos_tables(positions: Tensor, hidden_size: int) -> tuple[Tensor]:
    """Fixed embedding to add to the tokens: (N, 3) -> one of (N, D).

    DiT's image embedding (its width half first) plus a temporal one of full width (Latte, 2401.03048, section 3.3) less its
    value at frame 0, so that a one-frame clip is embedded exactly as DiT embeds an image.
    """
    time, row, column = positions.float().unbind(-1)  # (N,) each
    space = torch.cat([sine_cosine(column, hidden_size // 2), sine_cosine(row, hidden_size // 2)], dim=-1)
    return (space + sine_cosine(time, hidden_size) - sine_cosine(torch.zeros_like(time[:1]), hidden_size),)


def sine_cosine(position: Tensor, width: int) -> Tensor:
    """(N,) -> (N, width): sines, then cosines, of the position at falling frequencies (Vaswani et al., 1706.03762, section 3.5)."""
    angle = position[:, None] * frequencies((width // 2,), SINCOS_BASE, position.device)  # (N, width/2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def frequencies(nums: Sequence[int], base: float, device: torch.device) -> Tensor:
    """base^(-i/num) for i below each num, one after another: from 1 down, radians per position."""
    exponents = torch.tensor([-i / num for num in nums for i in range(num)], dtype=torch.float32, device="cpu")
    return base ** exponents.to(device, non_blocking=True)


MAKERS = {"rotary": rotary_tables, "sincos": sincos_tables}
