"""What is faster is measured against these, equal in what they compute: the same network on padded clips and other ways to attend inside
each clip of a pack, as good as one would write them in practice, and I3D as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bench.metrics.extractors.i3d import MIXED, same_pads
from dit import attention
from dit.kernels import OPERATIONS, attend, clip_order
from dit.model import DiT
from dit.packing import PackClips, clips_of, pack, segment_ids, unpack
from dit.positions import position_tables


class Padded(nn.Module):
    """The network on one tensor (B, L, D), every clip filled up to the longest, L tokens, and keys that are none masked."""

    def __init__(self, model: DiT) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
        """As `DiT.forward`, with labels and rotary positions."""
        model, patch_size = self.model, self.model.config.patch_size
        packed = pack(latents, patch_size, None, clip_order)
        seqlens, num_clips, longest = packed.seqlens, len(latents), max(packed.seqlens)
        tokens = model.embed(pad_sequence(packed.values.split(seqlens), batch_first=True))  # (B, L, D)
        assert model.label_embed is not None
        cond = model.time_embed(timesteps) + model.label_embed(labels)  # (B, D)
        tables = position_tables("rotary", packed.grids, model.config.head_dim, tokens.device)  # (1, N, ...) or, of one grid, (1, L, ...)
        if tables[0].shape[1] == sum(seqlens):
            tables = tuple(pad_sequence(table[0].split(seqlens), batch_first=True).flatten(0, 1).unsqueeze(0) for table in tables)
        mask = key_mask(seqlens, tokens.device)
        order = torch.tensor(packed.order).to(tokens.device)

        def masked(qkv: Tensor, clips: PackClips) -> Tensor:
            query, key, value = qkv.unflatten(0, (num_clips, longest)).permute(2, 0, 3, 1, 4)  # (B, K, L, E) each
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(0, 1)

        with OPERATIONS["attend"].by(masked):
            rows = tokens.flatten(0, 1)
            values = model.forward_packed(rows, tables, packed.cu_seqlens, (longest,) * num_clips, cond.index_select(0, order))
        clips = zip(values.split(longest), seqlens, strict=True)
        shapes = [(t, h, w) for _, t, h, w in (clip.shape for clip in latents)]
        return unpack(torch.cat([clip[:length] for clip, length in clips]), packed, patch_size, shapes)


def key_mask(seqlens: tuple[int, ...], device: torch.device) -> Tensor:
    """(B, 1, 1, L): which keys are tokens and which are filling."""
    return (torch.arange(max(seqlens)) < torch.tensor(seqlens)[:, None])[:, None, None].to(device)


def by_padding(qkv: Tensor, seqlens: tuple[int, ...]) -> Tensor:
    """One batch, filled up and masked."""
    padded = pad_sequence(qkv.split(seqlens), batch_first=True)  # (B, L, 3, K, E)
    query, key, value = padded.permute(2, 0, 3, 1, 4)
    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask(seqlens, qkv.device)).transpose(1, 2)  # (B, L, K, E)
    return torch.cat([clip[:length] for clip, length in zip(heads, seqlens, strict=True)])


def by_block_mask(qkv: Tensor, seqlens: tuple[int, ...]) -> Tensor:
    """Every token of the pack against every other, those of other clips masked: as vit-pytorch's NaViT does."""
    segments = segment_ids(offsets_of(seqlens).to(qkv.device), len(qkv))
    query, key, value = qkv.permute(1, 2, 0, 3).unsqueeze(1)  # (1, K, N, E) each
    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=segments[:, None] == segments)
    return heads[0].transpose(0, 1)


def by_nesting(qkv: Tensor, seqlens: tuple[int, ...]) -> Tensor:
    """Torch's nested tensors."""
    offsets = offsets_of(seqlens).to(qkv.device)
    query, key, value = (torch.nested.nested_tensor_from_jagged(part.contiguous(), offsets).transpose(1, 2) for part in qkv.unbind(1))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).values()


def offsets_of(seqlens: tuple[int, ...]) -> Tensor:
    """(B + 1,) int64: where each clip starts, and the end."""
    return torch.tensor((0, *seqlens)).cumsum(0)


def of_pack(way: Callable[[Tensor, PackClips], Tensor]) -> Callable[[Tensor, tuple[int, ...]], Tensor]:
    """A way to attend that asks for the clips of a pack."""
    return lambda qkv, seqlens: way(qkv, clips_of(seqlens, offsets_of(seqlens).to(qkv.device, torch.int32), qkv.dtype))


# Queries, keys and values (N, 3, K, E) of clips of these lengths -> (N, K, E).
KERNELS: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "ours": of_pack(attend),
    "torch's kernel clip by clip": of_pack(attention.attend),
    "padding and a mask": by_padding,
    "a block-diagonal mask": by_block_mask,
    "nested tensors": by_nesting,
}


def plain_i3d(tensors: Mapping[str, np.ndarray], clips: Tensor, eps: float = 1e-3) -> Tensor:
    """I3D as its authors wrote it, clips (B, 3, T, 224, 224) -> logits (B, 400): explicit padding, batch norm after each convolution,
    logits before the mean over time.
    """

    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight, shift, mean, var = (torch.from_numpy(tensors[f"{name}.{leaf}"]) for leaf in ("weight", "shift", "mean", "var"))
        x = F.conv3d(pad(x, weight.shape[2:], (stride,) * 3, 0.0), weight, stride=stride)
        return F.relu(F.batch_norm(x, mean, var, None, shift, eps=eps))

    def pad(x: Tensor, kernel: Sequence[int], stride: Sequence[int], value: float) -> Tensor:
        axes = reversed(list(zip(x.shape[2:], kernel, stride, strict=True)))
        return F.pad(x, [p for axis in axes for p in same_pads(*axis)], value=value)

    def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        return F.max_pool3d(pad(x, kernel, stride, -torch.inf), kernel, stride)

    def mixed(x: Tensor, name: str) -> Tensor:
        branch_1 = unit(unit(x, f"{name}/Branch_1/Conv3d_0a_1x1"), f"{name}/Branch_1/Conv3d_0b_3x3")
        branch_2 = unit(unit(x, f"{name}/Branch_2/Conv3d_0a_1x1"), f"{name}/Branch_2/Conv3d_0b_3x3")
        branch_3 = unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}/Branch_3/Conv3d_0b_1x1")
        return torch.cat([unit(x, f"{name}/Branch_0/Conv3d_0a_1x1"), branch_1, branch_2, branch_3], dim=1)

    x = pool(unit(clips, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for name in MIXED:
        if name == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if name == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        x = mixed(x, f"Mixed_{name}")
    x = F.avg_pool3d(x, (2, 7, 7), stride=1)
    weight, bias = (torch.from_numpy(tensors[f"Logits/Conv3d_0c_1x1.{leaf}"]) for leaf in ("weight", "bias"))
    logits = F.conv3d(x, weight, bias)
    return logits[:, :, :, 0, 0].mean(dim=2)
