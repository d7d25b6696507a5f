"""Clips <-> tokens: exact inverses, in an order that can be checked by eye."""

from __future__ import annotations

import pytest
import torch

from dit.kernels import clip_order
from dit.packing import kept_voxels, pack, patchify, segment_ids, unpack, unpatchify

MIXED = [(2, 4, 6), (6, 2, 2), (2, 4, 6), (4, 6, 2)]


@pytest.mark.parametrize("patch_size", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 1), (3, 4, 6)])
def test_unpatchify_inverts_patchify(patch_size: tuple[int, int, int]) -> None:
    latents = torch.randn(5, 6, 8, 12)
    patches = patchify(latents, patch_size)
    volume = patch_size[0] * patch_size[1] * patch_size[2]
    assert patches.shape == (6 * 8 * 12 // volume, 5 * volume)
    assert torch.equal(unpatchify(patches, patch_size, (6, 8, 12)), latents)


def test_order_of_tokens_and_of_values() -> None:
    """Latents that hold their own address 1000 c + 100 t + 10 h + w."""
    c, t, h, w = torch.meshgrid(torch.arange(2), torch.arange(2), torch.arange(4), torch.arange(6), indexing="ij")
    patches = patchify(1000 * c + 100 * t + 10 * h + w, (1, 2, 2))
    assert patches[0].tolist() == [0, 1, 10, 11, 1000, 1001, 1010, 1011]
    assert patches[:, 0].tolist() == [0, 2, 4, 20, 22, 24, 100, 102, 104, 120, 122, 124]


@pytest.mark.parametrize("shapes", [MIXED, [(2, 4, 6)] * 3, [(2, 4, 6)], [(2, 4, 6), (2, 6, 4)]])
def test_unpack_inverts_pack(shapes: list[tuple[int, int, int]]) -> None:
    latents = [torch.randn(3, *shape) for shape in shapes]
    packed = pack(latents, (2, 2, 2), ordered=clip_order)
    for clip, restored in zip(latents, unpack(packed.values, packed, (2, 2, 2), shapes), strict=True):
        assert torch.equal(clip, restored)


@pytest.mark.parametrize("patch_size", [(1, 2, 2), (2, 2, 2), (2, 1, 1)])
def test_a_mixed_pack_has_the_patches_of_each_clip(patch_size: tuple[int, int, int]) -> None:
    """Gathered by one index, they are those of the plain permutation, clip by clip."""
    latents = [torch.randn(3, *shape) for shape in MIXED]
    packed = pack(latents, patch_size, ordered=clip_order)
    assert packed.sources is not None
    assert torch.equal(packed.values, torch.cat([patchify(latents[clip], patch_size) for clip in packed.order]))
    kept = [torch.arange(0, len(patchify(clip, patch_size)), 2) for clip in latents]
    some = pack(latents, patch_size, kept, clip_order)
    assert torch.equal(some.values, torch.cat([patchify(latents[clip], patch_size)[kept[clip]] for clip in some.order]))


@pytest.mark.parametrize("shapes", [MIXED, [(2, 4, 6)] * 4])
def test_what_was_dropped_is_zero_and_the_rest_is_restored(shapes: list[tuple[int, int, int]]) -> None:
    latents = [torch.randn(3, *shape) for shape in shapes]
    kept = [torch.tensor(rows) for rows in ([0, 4], [2], [1, 2, 5], [0, 5])]
    packed = pack(latents, (2, 2, 2), kept, clip_order)
    assert packed.seqlens == (2, 2, 1, 3) and packed.order == (0, 3, 1, 2)
    restored = unpack(packed.values, packed, (2, 2, 2), shapes)
    for clip, shape, rows, part in zip(latents, shapes, kept, restored, strict=True):
        cells = kept_voxels(rows, (2, 2, 2), shape)
        assert cells.shape == shape and cells.sum() == 8 * len(rows)
        assert torch.equal(part, clip * cells)


def test_cells_of_kept_tokens() -> None:
    """Token 3 of a grid of two by three is the left one of the lower row."""
    cells = kept_voxels(torch.tensor([3]), (1, 2, 2), (1, 4, 6))
    assert cells.nonzero().tolist() == [[0, 2, 0], [0, 2, 1], [0, 3, 0], [0, 3, 1]]


def test_equal_lengths_are_packed_side_by_side() -> None:
    """In three shapes of 6, 4 and 6 tokens."""
    packed = pack(
        [torch.full((1, *shape), value) for value, shape in enumerate([(1, 4, 6), (1, 4, 4), (3, 4, 2)])], (1, 2, 2), None, clip_order
    )
    assert packed.order == (0, 2, 1) and packed.seqlens == (6, 6, 4)
    assert packed.grids == ((1, 2, 3), (3, 2, 1), (1, 2, 2))
    assert packed.values[:, 0].tolist() == 6 * [0] + 6 * [2] + 4 * [1]
    assert clip_order([5, 5, 3]) == (0, 1, 2)


def test_grids_and_lengths_of_a_mixed_pack() -> None:
    packed = pack([torch.zeros(1, 1, 4, 6), torch.zeros(1, 3, 4, 2)], (1, 2, 2))
    assert packed.grids == ((1, 2, 3), (3, 2, 1))
    assert packed.seqlens == (6, 6)
    assert packed.cu_seqlens.tolist() == [0, 6, 12] and packed.cu_seqlens.dtype == torch.int32


def test_segment_ids() -> None:
    assert segment_ids(torch.tensor([0, 2, 3, 6], dtype=torch.int32), 6).tolist() == [0, 0, 1, 2, 2, 2]
