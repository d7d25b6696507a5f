"""Clips of any shapes <-> one row of tokens, without padding. Knows patches and lengths, not the network.

Three clips a, b, c with 4, 6 and 2 tokens become one pack of N = 12:
    values        a a a a b b b b b b c c        (N, P)
    order         a b c                          the clips as they are packed
    grids         tokens of each clip along (t, h, w), on the host
    seqlens       4, 6, 2                        integers on the host
    cu_seqlens    0, 4, 10, 12                   (B + 1,) int32 on the device
Lengths come from shapes, which the host knows: nothing here waits for the device.

A clip may keep only some of its tokens (NaViT, 2307.06304, section 2.2): the others are in no pack, and zero when unpacked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from bench.shapes import Shape, check_shape

Runs = list[tuple[int, int]]  # (clips, length) of neighbours that are equally long


class Pack(NamedTuple):
    """Clips as one row of patches, see the module's docstring. All but `order` are in the order of the pack."""

    values: Tensor  # (N, P)
    order: tuple[int, ...]  # indices of the clips as they are packed
    grids: tuple[Shape, ...]  # tokens of each clip, (T, H, W), before any are dropped
    kept: list[Tensor] | None  # of each clip, the indices of its tokens that stay (n,); None: all
    sources: Tensor | None  # (N, P) of `sources_in_clips`; None where all clips have one grid and keep all of it
    cu_seqlens: Tensor  # (B + 1,) int32
    seqlens: tuple[int, ...]  # tokens of each clip


class PackClips(NamedTuple):
    """Which tokens of a pack are whose. Clips of one length are a batch (B, N/B, ...); any others are one row (1, N, ...)."""

    runs: Runs
    cu_seqlens: Tensor  # (B + 1,) int32
    segments: Tensor | None  # (N,) int64: the clip of each token, an index that copies rows; None for clips of one length
    members: Tensor | None  # (B, N): 1 where the token is the clip's, else 0, a matrix that sums tokens; None likewise


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


def as_given(seqlens: Sequence[int]) -> tuple[int, ...]:
    """Indices of the clips in the caller's order."""
    return tuple(range(len(seqlens)))


def pack(
    latents: list[Tensor],
    patch_size: Shape,
    kept: list[Tensor] | None = None,
    ordered: Callable[[Sequence[int]], tuple[int, ...]] = as_given,
) -> Pack:
    """B clips (C, T_i, H_i, W_i), each divisible by `patch_size`, and the tokens that each keeps, or None for all -> Pack.

    `ordered` says in which order clips of such numbers of tokens are packed.
    """
    grids = [(t // patch_size[0], h // patch_size[1], w // patch_size[2]) for _, t, h, w in (clip.shape for clip in latents)]
    seqlens = [len(rows) for rows in kept] if kept is not None else [t * h * w for t, h, w in grids]
    order = ordered(seqlens)
    clips, grids = [latents[clip] for clip in order], [grids[clip] for clip in order]
    kept = [kept[clip] for clip in order] if kept is not None else None
    packed = tuple(seqlens[clip] for clip in order)
    device = clips[0].device
    if len(set(packed)) == 1:  # nothing comes from the host, which a captured graph would not read again
        cu_seqlens = torch.arange(0, sum(packed) + 1, packed[0], dtype=torch.int32, device=device)  # (B + 1,)
    else:
        cu_seqlens = torch.tensor((0, *accumulate(packed)), dtype=torch.int32).to(device, non_blocking=True)
    sources = None
    if kept is None and len(set(grids)) == 1:  # one permutation for the batch
        values = patchify(torch.stack(clips), patch_size).flatten(0, 1)  # (N, P)
    else:
        sources = sources_in_clips(grids, kept, cu_seqlens, sum(packed), len(clips[0]), patch_size)
        values = torch.cat([clip.flatten() for clip in clips]).index_select(0, sources.flatten()).view(sources.shape)
    return Pack(values, order, tuple(grids), kept, sources, cu_seqlens, packed)


def unpack(values: Tensor, packed: Pack, patch_size: Shape, shapes: list[Shape]) -> list[Tensor]:
    """(N, P) in the order of `packed` -> B clips (C, *shapes[i]) in the caller's; C follows from P.

    The inverse of `pack`, zero where a token was dropped.
    """
    if packed.sources is None:
        return list(unpatchify(values.unflatten(0, (len(shapes), -1)), patch_size, shapes[0]))
    channels, sources = values.shape[1] // math.prod(patch_size), packed.sources
    if sources.shape[1] != values.shape[1]:  # clips with other channels than those that were packed
        sources = sources_in_clips(packed.grids, packed.kept, packed.cu_seqlens, len(values), channels, patch_size)
    sizes = [channels * math.prod(shapes[clip]) for clip in packed.order]
    flat = values.new_zeros(sum(sizes)).index_copy(0, sources.flatten(), values.flatten())
    parts = dict(zip(packed.order, flat.split(sizes), strict=True))
    return [parts[clip].view(channels, *shape) for clip, shape in enumerate(shapes)]


def sources_in_clips(
    grids: Sequence[Shape], kept: list[Tensor] | None, cu_seqlens: Tensor, num_tokens: int, channels: int, patch_size: Shape
) -> Tensor:
    """Where the values of each token lie in the clips, which are one flat tensor after another: (N, P) int64 on the device.

    All clips at once: a few kernels for each clip of a large pack would take a GPU longer than the network.
    """
    device, (p_t, p_h, p_w) = cu_seqlens.device, patch_size
    sizes = torch.tensor(grids, device="cpu")  # (B, 3) tokens
    voxels = sizes * torch.tensor(patch_size, device="cpu")  # (B, 3): T, H, W
    volumes = voxels.prod(1)
    starts = channels * (volumes.cumsum(0) - volumes)
    of_clips = torch.cat([starts[:, None], volumes[:, None], voxels[:, 1:], sizes[:, 1:]], dim=1).to(device, non_blocking=True)  # (B, 6)
    segments = segment_ids(cu_seqlens, num_tokens)  # (N,)
    start, volume, height, width, rows, columns = of_clips.index_select(0, segments).unsqueeze(2).unbind(1)  # (N, 1) each
    if kept is None:
        token = torch.arange(num_tokens, device=device) - cu_seqlens.index_select(0, segments)
    else:
        token = torch.cat(kept).to(device, non_blocking=True)
    row = token[:, None] // columns  # (N, 1), over all frames
    first = start + ((row // rows * p_t * height) + row % rows * p_h) * width + token[:, None] % columns * p_w
    value = torch.arange(channels * p_t * p_h * p_w, device=device)  # (P,): of a channel, then t, h and w
    w, h, t, channel = value % p_w, value // p_w % p_h, value // (p_h * p_w) % p_t, value // (p_t * p_h * p_w)
    return first + channel * volume + (t * height + h) * width + w


def equal_runs(seqlens: Sequence[int]) -> Runs:
    """(clips, length) of each run of equally long neighbours.

    >>> equal_runs((4, 4, 6, 4))
    [(2, 4), (1, 6), (1, 4)]
    """
    return [(len(list(run)), length) for length, run in groupby(seqlens)]


def clips_of(seqlens: Sequence[int], cu_seqlens: Tensor, dtype: torch.dtype) -> PackClips:
    """Clips of these lengths, integers of the host, cu_seqlens (B + 1,) their sums -> PackClips, whose `members` are of this dtype."""
    runs = equal_runs(seqlens)
    if len(set(seqlens)) == 1:
        return PackClips(runs, cu_seqlens, None, None)
    segments = segment_ids(cu_seqlens, sum(seqlens))  # (N,)
    numbers = torch.arange(len(seqlens), device=segments.device)
    return PackClips(runs, cu_seqlens, segments, (numbers[:, None] == segments).to(dtype))


def equal_clips(num: int, length: int, device: torch.device) -> PackClips:
    """Units as a pack of clips of one length: each has a row of modulation."""
    ends = torch.arange(0, num * length + 1, length, dtype=torch.int32, device=device)
    return PackClips([(num, length)], ends, None, None)


def segment_ids(cu_seqlens: Tensor, num_tokens: int) -> Tensor:
    """cu_seqlens (B + 1,) -> the clip of each token (N,). N is given by the host, or the device would have to be asked."""
    clips = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    return clips.repeat_interleave(cu_seqlens.diff(), output_size=num_tokens)


def check_kept(name: str, kept: Tensor, num_tokens: int, shape: Shape) -> None:
    """ValueError unless these are indices (n,) of some of the `num_tokens` tokens of a clip of latents `shape`."""
    check_shape(name, kept, (None,))
    if kept.dtype != torch.int64 or kept.device.type != "cpu":
        raise ValueError(f"{name} is {kept.dtype} on {kept.device}; pass indices as int64 on the CPU")
    if not len(kept):
        raise ValueError(f"{name} is empty; keep at least one of the {num_tokens} tokens of latents {shape}")
    if kept[0] < 0 or kept[-1] >= num_tokens or (kept.diff() <= 0).any():
        found = f"{len(kept)} from {kept.min()} to {kept.max()}"
        raise ValueError(
            f"{name} must increase within 0 ... {num_tokens - 1}, the tokens of latents {shape}, got {found}; sort, no repeats"
        )


def kept_voxels(kept: Tensor, patch_size: Shape, shape: Shape) -> Tensor:
    """Indices (n,) of the tokens that stay of a clip of latents `shape` -> whether each voxel is in one of them, (T, H, W) bool."""
    patch_voxels = math.prod(patch_size)
    stays = torch.zeros(math.prod(shape) // patch_voxels, dtype=torch.bool).index_fill(0, kept, True)
    return unpatchify(stays[:, None].expand(-1, patch_voxels), patch_size, shape)[0]
