"""The parts of diffusers' video U-Net with the same parameters and the same mathematics, each with a forward of its own.

Functions of `baselines.kernels` are the formulas of `operators.py`, made faster.
A layer sees all frames of all clips, F = B T maps; the conditioning, (B, ...), is computed once a clip and not once a frame, and for
all layers together.
Dropout is left out: diffusers hard-codes 0.1 in the temporal convolutions, a handicap the DiT has not, and a draw from global randomness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_blocks import CrossAttnDownBlock3D, CrossAttnUpBlock3D, DownBlock3D, UNetMidBlock3DCrossAttn, UpBlock3D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from baselines.kernels import (
    add,
    attention_over_time,
    contexts,
    convolution_over_time,
    gated_gelu,
    linear,
    linear_to_map,
    linear_to_tokens,
    norm_silu,
    projections,
    query_key_value,
    shifted_convolution,
)
from baselines.operators import Attend, from_clips, to_clips


@dataclass(frozen=True, kw_only=True)
class Given:
    """What all layers are given beside maps."""

    num_frames: int
    shifts: dict[nn.Module, Tensor]  # of each residual block, (B, C'), from time and label
    context: dict[nn.Module, tuple[Any, ...]]  # of each spatial transformer, how it attends to the context, and to what
    positions: dict[int, Tensor]  # width -> (T, width), a sinusoid of the frame index


class Sharing:
    """Which layers of a network are given what; calling it computes that."""

    def __init__(self, unet: nn.Module) -> None:
        self.blocks = [module for module in unet.modules() if isinstance(module, ResidualBlock)]
        self.transformers = [module for module in unet.modules() if isinstance(module, SpatialTransformer)]
        self.over_time = {module.width: module for module in unet.modules() if isinstance(module, FramePositions)}

    def __call__(self, cond: Tensor, context: Tensor, num_frames: int, mask: Tensor | None = None) -> Given:
        """Cond (B, D), context (B, n, context_width), and which of its tokens are there, (B, n) bool; None: all."""
        shifts = projections([block.time_emb_proj for block in self.blocks], F.silu(cond))
        attentions = self.attentions()
        keys_values = projections([layer for attention in attentions for layer in (attention.to_k, attention.to_v)], context)
        pairs = list(zip(keys_values[::2], keys_values[1::2], strict=True))  # (B, n, C) each
        # Of many tokens, as a caption has, no weights are multiplied into keys and values: that pays for two.
        ways: list[tuple[Any, ...]] = (
            list(contexts(attentions, pairs)) if mask is None else [(attend_text, keys, values, mask) for keys, values in pairs]
        )
        return Given(
            num_frames=num_frames,
            shifts=dict(zip(self.blocks, shifts, strict=True)),
            context=dict(zip(self.transformers, ways, strict=True)),
            positions=dict(zip(self.over_time, self.tables(num_frames, cond), strict=True)),
        )

    def tables(self, num_frames: int, like: Tensor) -> list[Tensor]:
        """Of each width the sinusoids of the frames (T, D), cosines first, of the type of another tensor; all computed together."""
        frequencies = [module.frequencies.float() for module in self.over_time.values()]  # (D/2,) each
        angles = torch.arange(num_frames, device=like.device)[:, None] * torch.cat(frequencies)  # (T, of all widths)
        halves = (part.to(like.dtype).split([len(each) for each in frequencies], dim=1) for part in (angles.cos(), angles.sin()))
        return [torch.cat(parts, dim=1) for parts in zip(*halves, strict=True)]

    def attentions(self) -> list[Attention]:
        """Those to the context, of each spatial transformer."""
        return [transformer.transformer_blocks[0].attn2 for transformer in self.transformers]


class ResidualBlock(ResnetBlock2D):
    """Two 3x3 convolutions within each frame."""

    def forward(self, maps: Tensor, shift: Tensor) -> Tensor:
        """(F, C, H, W), shift (B, C') -> (F, C', H, W)."""
        hidden = shifted_convolution(self.conv1, norm_silu(self.norm1, maps), shift)  # (F, C', H, W)
        hidden = self.conv2(norm_silu(self.norm2, hidden))  # (F, C', H, W)
        return add(hidden, maps if self.conv_shortcut is None else self.conv_shortcut(maps))


class TemporalConvolution(TemporalConvLayer):
    """Four convolutions over three frames at each voxel. The last starts at zero, so the layer starts as the identity."""

    def forward(self, maps: Tensor, num_frames: int) -> Tensor:
        """(F, C, H, W) -> same."""
        clips = to_clips(maps, len(maps) // num_frames)  # (B, C, T, S)
        hidden = clips
        for norm, *_, convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = convolution_over_time(convolution, norm_silu(norm, hidden), maps.shape[2])  # (B, C, T, S)
        return from_clips(add(hidden, clips), maps.shape[2])


class SpatialTransformer(Transformer2DModel):
    """Attention within each frame, then to the context."""

    def forward(self, maps: Tensor, attend: Attend, *context: Tensor) -> Tensor:
        """(F, C, H, W), how to attend to the context, and its keys, values and mask, if any, as `Sharing` has them -> (F, C, H, W)."""
        tokens = linear_to_tokens(self.proj_in, self.norm(maps))  # (F, S, C)
        (block,) = self.transformer_blocks
        tokens = attend_space(block.attn1, block.norm1(tokens), residual=tokens)
        tokens = attend(block.attn2, block.norm2(tokens), *context, residual=tokens)
        return linear_to_map(self.proj_out, feed_forward(block, tokens), maps)


class TemporalTransformer(TransformerTemporalModel):
    """Attention along time at each voxel, twice."""

    def forward(self, maps: Tensor, frames: Tensor) -> Tensor:
        """(F, C, H, W), positions of frames (T, C) -> (F, C, H, W)."""
        num_clips = len(maps) // len(frames)
        project, positions = self.proj_in
        tokens = linear_to_tokens(project, self.norm(to_clips(maps, num_clips)))  # (B, T S, C)
        tokens = positions(tokens.unflatten(1, (len(frames), -1)), frames).flatten(0, 1)  # (F, S, C)
        (block,) = self.transformer_blocks
        tokens = attend_time(block.attn1, block.norm1(tokens), num_clips, residual=tokens)
        tokens = attend_time(block.attn2, block.norm2(tokens), num_clips, residual=tokens)
        return linear_to_map(self.proj_out, feed_forward(block, tokens), maps)


class Upsample(Upsample2D):
    """Twice the height and width, then a 3x3 convolution."""

    def forward(self, maps: Tensor) -> Tensor:
        """(F, C, H, W) -> (F, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(maps, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """What the levels share: layers in space, each followed by one in time (Gen-1, section 3.1), attention where the level has it."""

    resnets: nn.ModuleList
    temp_convs: nn.ModuleList
    attentions: nn.ModuleList
    temp_attentions: nn.ModuleList

    def convolve(self, index: int, maps: Tensor, given: Given) -> Tensor:
        """(F, C, H, W) -> (F, C', H, W)."""
        block = self.resnets[index]
        return self.temp_convs[index](block(maps, given.shifts[block]), given.num_frames)

    def attend(self, index: int, maps: Tensor, given: Given) -> Tensor:
        """(F, C, H, W) -> same."""
        space, time = self.attentions[index], self.temp_attentions[index]
        return time(space(maps, *given.context[space]), given.positions[maps.shape[1]])


class DownLevel(Level):
    """A level on the way down. All but the innermost attend, and halve height and width at the end."""

    downsamplers: nn.ModuleList | None

    def forward(self, maps: Tensor, given: Given) -> tuple[Tensor, list[Tensor]]:
        """(F, C, H, W) -> (F, C', H/2, W/2), and the maps after each layer, to be skipped to on the way up."""
        skips = []
        for index in range(len(self.resnets)):
            maps = self.convolve(index, maps, given)  # (F, C', H, W)
            if hasattr(self, "attentions"):
                maps = self.attend(index, maps, given)  # (F, C', H, W)
            skips.append(maps)
        for downsampler in self.downsamplers or ():
            maps = downsampler(maps)  # (F, C', H/2, W/2)
            skips.append(maps)
        return maps, skips


class MiddleLevel(Level):
    """The innermost layers: attention between two convolutions."""

    def forward(self, maps: Tensor, given: Given) -> Tensor:
        """(F, C, H, W) -> same."""
        maps = self.convolve(0, maps, given)
        for index in range(len(self.attentions)):
            maps = self.convolve(index + 1, self.attend(index, maps, given), given)
        return maps


class UpLevel(Level):
    """A level on the way up. All but the innermost attend, all but the outermost double height and width at the end."""

    upsamplers: nn.ModuleList | None

    def forward(self, maps: Tensor, skips: list[Tensor], given: Given) -> Tensor:
        """(F, C, H, W) -> (F, C', 2 H, 2 W); the last of `skips` are used up, one a layer."""
        for index in range(len(self.resnets)):
            maps = torch.cat([maps, skips.pop()], dim=1)  # (F, C + C of the skip, H, W)
            maps = self.convolve(index, maps, given)  # (F, C', H, W)
            if hasattr(self, "attentions"):
                maps = self.attend(index, maps, given)  # (F, C', H, W)
        for upsampler in self.upsamplers or ():
            maps = upsampler(maps)  # (F, C', 2 H, 2 W)
        return maps


class FramePositions(nn.Module):
    """Adds a sinusoid of the frame index, without which the temporal layers could not tell first from last."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        half = width // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)  # as diffusers' `Timesteps` has them
        self.register_buffer("frequencies", frequencies, persistent=False)  # (D/2,)

    def forward(self, tokens: Tensor, frames: Tensor) -> Tensor:
        """(B, T, S, D), the table (T, D) -> (B, T, S, D)."""
        return tokens + frames[:, None]


def attend_space(attention: Attention, tokens: Tensor, *, residual: Tensor) -> Tensor:
    """Self-attention among the voxels of a frame: (F, S, C) -> same."""
    qkv = query_key_value(attention, tokens).unflatten(2, (3, attention.heads, -1))  # (F, S, 3, K, E)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # (F, K, S, E) each
    mixed = F.scaled_dot_product_attention(query, key, value)
    return linear(attention.to_out[0], mixed.transpose(1, 2).flatten(2), residual)


def attend_text(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *, residual: Tensor) -> Tensor:
    """Attention to the tokens of context that are there: tokens (F, S, C), keys and values (B, n, C), mask (B, n) bool -> (F, S, C)."""
    by_clip = (len(keys), -1, attention.heads, keys.shape[2] // attention.heads)
    query = linear(attention.to_q, tokens).reshape(by_clip).transpose(1, 2)  # (B, K, T S, E)
    key, value = (each.to(query.dtype).reshape(by_clip).transpose(1, 2) for each in (keys, values))  # (B, K, n, E) each
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
    return linear(attention.to_out[0], mixed.transpose(1, 2).reshape(tokens.shape), residual)


def attend_time(attention: Attention, tokens: Tensor, num_clips: int, *, residual: Tensor) -> Tensor:
    """Self-attention among the frames of a clip at each voxel: (F, S, C) -> same."""
    qkv = query_key_value(attention, tokens).unflatten(2, (3, attention.heads, -1))  # (F, S, 3, K, E)
    mixed = attention_over_time(qkv.unflatten(0, (num_clips, -1)))  # (B, T, S, K, E)
    return linear(attention.to_out[0], mixed.reshape(tokens.shape), residual)


def feed_forward(block: BasicTransformerBlock, tokens: Tensor) -> Tensor:
    """(F, S, C) -> same, residual included."""
    gate, _, project = block.ff.net
    return linear(project, gated_gelu(linear(gate.proj, block.norm3(tokens))), residual=tokens)


LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    ResnetBlock2D: ResidualBlock,
    TemporalConvLayer: TemporalConvolution,
    Transformer2DModel: SpatialTransformer,
    TransformerTemporalModel: TemporalTransformer,
}


LEVELS: dict[type[nn.Module], type[nn.Module]] = {
    CrossAttnDownBlock3D: DownLevel,
    DownBlock3D: DownLevel,
    UNetMidBlock3DCrossAttn: MiddleLevel,
    CrossAttnUpBlock3D: UpLevel,
    UpBlock3D: UpLevel,
    Upsample2D: Upsample,
}


def replace_layers(unet: nn.Module) -> None:
    """Give each part of diffusers' model its forward from here. Parameters, their names and their values stay."""
    replacements = LAYERS | LEVELS
    for module in unet.modules():
        module.__class__ = replacements.get(type(module), type(module))
