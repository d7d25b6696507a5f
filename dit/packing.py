"""Clips of any shapes <-> one row of tokens, without padding. Knows patches and lengths, not the network.

Three clips a, b, c with 4, 6 and 2 tokens become one pack of N = 12:
    values        a a a a b b b b b b c c        (N, P)
    grids         tokens of each clip along (t, h, w), on the host
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
    grids: tuple[Shape, ...]  # tokens of each clip, (T, H, W)
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
    grids = tuple((t // patch_size[0], h // patch_size[1], w // patch_size[2]) for _, t, h, w in (clip.shape for clip in latents))
    seqlens = tuple(t * h * w for t, h, w in grids)
    if len(set(grids)) == 1:  # one permutation for the batch instead of one a clip
        values = patchify(torch.stack(latents), patch_size).flatten(0, 1)  # (N, P)
    else:
        values = torch.cat([patchify(clip, patch_size) for clip in latents])  # (N, P)
    cu_seqlens = torch.tensor((0, *accumulate(seqlens)), dtype=torch.int32).to(values.device, non_blocking=True)  # (B + 1,)
    return Pack(values, grids, cu_seqlens, seqlens)


def unpack(values: Tensor, seqlens: tuple[int, ...], patch_size: Shape, shapes: list[Shape]) -> list[Tensor]:
    """(N, P) -> B clips (C, *shapes[i]). The inverse of `pack`."""
    if len(set(shapes)) == 1:
        return list(unpatchify(values.unflatten(0, (len(seqlens), seqlens[0])), patch_size, shapes[0]))
    return [unpatchify(clip, patch_size, shape) for clip, shape in zip(values.split(seqlens), shapes, strict=True)]


def segment_ids(cu_seqlens: Tensor, num_tokens: int) -> Tensor:
    """cu_seqlens (B + 1,) -> the clip of each token (N,). N is given by the host, or the device would have to be asked."""
    clips = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    return clips.repeat_interleave(cu_seqlens.diff(), output_size=num_tokens)
