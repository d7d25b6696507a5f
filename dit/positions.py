"""Where a token sits in its clip, told to the network by rotation or by addition. Positions are (N, 3) integers: t, h, w."""

from __future__ import annotations

import torch
from torch import Tensor

# Grids have tens of positions, not thousands: with RoPE's usual 10000 most of the few pairs per axis would hardly turn
# (Heo et al., 2403.13298).
ROTARY_BASE = 100.0
SINCOS_BASE = 10000.0


def rotary_tables(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of each rotated pair: (N, 3) -> two of (N, 1, E/2), the 1 for the heads.

    Axial RoPE (Su et al., 2104.09864, eq. 15): the E/2 pairs of a head are dealt to t, h and w as evenly as they go, the
    remainder to t. Attention then sees the distance between tokens along each axis, whatever the size of the grid.
    """
    pairs_space = head_dim // 6
    pairs = (head_dim // 2 - 2 * pairs_space, pairs_space, pairs_space)
    angles = [
        position[:, None] * frequencies(num, ROTARY_BASE, position.device)
        for position, num in zip(positions.float().unbind(-1), pairs, strict=True)
    ]
    angle = torch.cat(angles, dim=-1)[:, None]  # (N, 1, E/2)
    return angle.cos(), angle.sin()


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels by its angle: (..., N, K, E) -> same. Channel i is paired with channel i + E/2."""
    first, second = heads.chunk(2, dim=-1)  # (..., N, K, E/2) each
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def sincos_embedding(positions: Tensor, hidden_size: int) -> Tensor:
    """Fixed embedding to add to the tokens: (N, 3) -> (N, D).

    DiT's image embedding (its width half first) plus a temporal one of full width (Latte, 2401.03048, section 3.3) less its
    value at frame 0, so that a one-frame clip is embedded exactly as DiT embeds an image.
    """
    time, row, column = positions.float().unbind(-1)  # (N,) each
    space = torch.cat([sine_cosine(column, hidden_size // 2), sine_cosine(row, hidden_size // 2)], dim=-1)
    return space + sine_cosine(time, hidden_size) - sine_cosine(torch.zeros_like(time[:1]), hidden_size)


def sine_cosine(position: Tensor, width: int) -> Tensor:
    """(N,) -> (N, width): sines, then cosines, of the position at falling frequencies (Vaswani et al., 1706.03762, section 3.5)."""
    angle = position[:, None] * frequencies(width // 2, SINCOS_BASE, position.device)  # (N, width/2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def frequencies(num: int, base: float, device: torch.device) -> Tensor:
    """base^(-i/num) for i below num: from 1 down, radians per position."""
    return base ** (-torch.arange(num, device=device, dtype=torch.float32) / num)
