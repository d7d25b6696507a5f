"""Clips of any shapes <-> one row of tokens, without padding. Knows patches and lengths, not the network.

Three clips a, b, c with 4, 6 and 2 tokens become one pack of N = 12:
    values        a a a a b b b b b b c c        (N, P)
    positions     (t, h, w) of each token in the grid of its own clip, from (0, 0, 0)        (N, 3)
    seqlens       4, 6, 2                        integers on the host
    cu_seqlens    0, 4, 10, 12                   (B + 1,) int32 on the device
Lengths come from shapes, which the host knows: nothing here waits for the device.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from bench.shapes import Shape


class Pack(NamedTuple):
    """Clips as one row of patches, see the module's docstring."""

    values: Tensor  # (N, P)
    positions: Tensor  # (N, 3) int64
    cu_seqlens: Tensor  # (B + 1,) int32
    seqlens: tuple[int, ...]  # tokens of each clip


def patchify(latents: Tensor, patch_size: Shape) -> Tensor:
    """(..., C, T p_t, H p_h, W p_w) -> (..., T H W, C p_t p_h p_w). Tokens run over w fastest, then h, then t."""
    *batch, channels, frames, height, width = latents.shape
    p_t, p_h, p_w = patch_size
    grid = latents.reshape(*batch, channels, frames // p_t, p_t, height // p_h, p_h, width // p_w, p_w)
    grid = grid.movedim((-6, -4, -2), (-7, -6, -5))  # (..., T, H, W, C, p_t, p_h, p_w)
    return grid.flatten(-4).flatten(-4, -2)


def unpatchify(patches: Tensor, patch_size: Shape, shape: Shape) -> Tensor:
    """(..., T H W, C p_t p_h p_w) -> (..., C, T p_t, H p_h, W p_w) = (..., C, *shape). The inverse of `patchify`."""
    p_t, p_h, p_w = patch_size
    frames, height, width = shape
    grid = patches.unflatten(-1, (-1, p_t, p_h, p_w)).unflatten(-5, (frames // p_t, height // p_h, width // p_w))
    grid = grid.movedim((-7, -6, -5), (-6, -4, -2))  # (..., C, T, p_t, H, p_h, W, p_w)
    return grid.flatten(-2).flatten(-3, -2).flatten(-4, -3)


def pack(latents: list[Tensor], patch_size: Shape) -> Pack:
    """B clips (C, T_i, H_i, W_i), each divisible by `patch_size`, -> Pack."""
    grids = [(t // patch_size[0], h // patch_size[1], w // patch_size[2]) for _, t, h, w in (clip.shape for clip in latents)]
    seqlens = tuple(t * h * w for t, h, w in grids)
    if len(set(grids)) == 1:  # one permutation for the batch instead of one a clip
        values = patchify(torch.stack(latents), patch_size).flatten(0, 1)  # (N, P)
    else:
        values = torch.cat([patchify(clip, patch_size) for clip in latents])  # (N, P)
    positions, cu_seqlens = grid_positions(grids, seqlens, values.device)
    return Pack(values, positions, cu_seqlens, seqlens)


def unpack(values: Tensor, seqlens: tuple[int, ...], patch_size: Shape, shapes: list[Shape]) -> list[Tensor]:
    """(N, P) -> B clips (C, *shapes[i]). The inverse of `pack`."""
    if len(set(shapes)) == 1:
        return list(unpatchify(values.unflatten(0, (len(seqlens), seqlens[0])), patch_size, shapes[0]))
    return [unpatchify(clip, patch_size, shape) for clip, shape in zip(values.split(seqlens), shapes, strict=True)]


def grid_positions(grids: list[Shape], seqlens: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token grids (T, H, W) of B clips -> positions (N, 3) int64, cu_seqlens (B + 1,) int32, for all clips at once."""
    starts = (0, *accumulate(seqlens))
    sizes = [(start, height, width) for start, (_, height, width) in zip(starts, grids, strict=False)]
    per_clip = torch.tensor(sizes).to(device, non_blocking=True)  # (B, 3)
    cu_seqlens = torch.tensor(starts, dtype=torch.int32).to(device, non_blocking=True)  # (B + 1,)
    per_token = per_clip.index_select(0, segment_ids(cu_seqlens, starts[-1]))  # (N, 3)
    start, height, width = per_token.unbind(-1)  # (N,) each
    index = torch.arange(starts[-1], device=device) - start  # place of a token in its own clip
    return torch.stack([index // (height * width), index // width % height, index % width], dim=-1), cu_seqlens


def segment_ids(cu_seqlens: Tensor, num_tokens: int) -> Tensor:
    """cu_seqlens (B + 1,) -> the clip of each token (N,). N is given by the host, or the device would have to be asked."""
    clips = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    return clips.repeat_interleave(cu_seqlens.diff(), output_size=num_tokens)
