"""The parts of diffusers' video U-Net with the same parameters and the same mathematics, and a forward that costs less.

A layer sees all frames of all clips, F = B T maps; the conditioning, (B, ...), is computed once a clip and not once a frame.
Dropout is left out: diffusers hard-codes 0.1 in the temporal convolutions, a handicap the DiT has not, and a draw from global randomness.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import Timesteps
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from baselines.operators import add, attention_over_time, from_clips, gated_gelu, linear, norm_silu, to_clips, to_map, to_tokens


class ResidualBlock(ResnetBlock2D):
    """Two 3x3 convolutions within each frame."""

    def forward(self, maps: Tensor, cond: Tensor) -> Tensor:
        """(F, C, H, W), cond (B, D) -> (F, C', H, W)."""
        shift = F.linear(F.silu(cond), self.time_emb_proj.weight, self.time_emb_proj.bias)  # (B, C')
        shift = (shift + self.conv1.bias).repeat_interleave(len(maps) // len(cond), dim=0)  # (F, C')
        hidden = F.conv2d(norm_silu(self.norm1, maps), self.conv1.weight, padding=1).add_(shift[:, :, None, None])
        hidden = self.conv2(norm_silu(self.norm2, hidden))
        return add(hidden, maps if self.conv_shortcut is None else self.conv_shortcut(maps))


class TemporalConvolution(TemporalConvLayer):
    """Four convolutions over three frames at each voxel. The last starts at zero, so the layer starts as the identity."""

    def forward(self, maps: Tensor, num_frames: int) -> Tensor:
        """(F, C, H, W) -> same."""
        clips = to_clips(maps, len(maps) // num_frames)  # (B, C, T, S)
        hidden = clips
        for norm, *_, conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            # In two dimensions, time and space: a CPU takes three to six times as long over three. The bias apart: oneDNN's gradient
            # of it takes longer than a sum, and on several threads waits once more.
            hidden = F.conv2d(norm_silu(norm, hidden), conv.weight[..., 0], padding=(1, 0)).add_(conv.bias[:, None, None])
        return from_clips(add(hidden, clips), maps.shape[2])


class SpatialTransformer(Transformer2DModel):
    """Attention within each frame, then to the context."""

    def forward(self, maps: Tensor, encoder_hidden_states: Tensor, **_: object) -> tuple[Tensor]:
        """(F, C, H, W), context (B, 2, context_width) -> (F, C, H, W). The blocks that hold this pass options it has no use for."""
        tokens = linear(self.proj_in, to_tokens(self.norm(maps)))  # (F, S, C)
        (block,) = self.transformer_blocks
        tokens = attend_space(block.attn1, block.norm1(tokens), residual=tokens)
        tokens = attend_context(block.attn2, block.norm2(tokens), encoder_hidden_states, residual=tokens)
        return (project_out(self.proj_out, feed_forward(block, tokens), maps),)


class TemporalTransformer(TransformerTemporalModel):
    """Attention along time at each voxel, twice."""

    def forward(self, maps: Tensor, num_frames: int, **_: object) -> tuple[Tensor]:
        """(F, C, H, W) -> same. The blocks that hold this pass options it has no use for."""
        num_clips = len(maps) // num_frames
        normed = from_clips(self.norm(to_clips(maps, num_clips)), maps.shape[2])
        project, positions = self.proj_in
        tokens = positions(linear(project, to_tokens(normed)), num_frames)  # (F, S, C)
        (block,) = self.transformer_blocks
        tokens = attend_time(block.attn1, block.norm1(tokens), num_clips, residual=tokens)
        tokens = attend_time(block.attn2, block.norm2(tokens), num_clips, residual=tokens)
        return (project_out(self.proj_out, feed_forward(block, tokens), maps),)


class Upsample(Upsample2D):
    """Twice the height and width, then a 3x3 convolution."""

    def forward(self, maps: Tensor, *_: object) -> Tensor:
        """(F, C, H, W) -> (F, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(maps, scale_factor=2.0, mode="nearest"))


class FramePositions(nn.Module):
    """Adds a sinusoid of the frame index, without which the temporal layers could not tell first from last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encode = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """(F, S, D) -> same."""
        frames = self.encode(torch.arange(num_frames, device=tokens.device)).to(tokens.dtype)  # (T, D)
        return (tokens.unflatten(0, (-1, num_frames)) + frames[:, None]).flatten(0, 1)


def attend_space(attention: Attention, tokens: Tensor, *, residual: Tensor) -> Tensor:
    """Self-attention among the voxels of a frame: (F, S, C) -> same."""
    query, key, value = (
        linear(project, tokens).unflatten(2, (attention.heads, -1)).transpose(1, 2)  # (F, K, S, E)
        for project in (attention.to_q, attention.to_k, attention.to_v)
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    return linear(attention.to_out[0], mixed.transpose(1, 2).flatten(2), residual)


def attend_time(attention: Attention, tokens: Tensor, num_clips: int, *, residual: Tensor) -> Tensor:
    """Self-attention among the frames of a clip at each voxel: (F, S, C) -> same."""
    query, key, value = (
        linear(project, tokens).unflatten(2, (attention.heads, -1)).unflatten(0, (num_clips, -1))  # (B, T, S, K, E)
        for project in (attention.to_q, attention.to_k, attention.to_v)
    )
    mixed = attention_over_time(query, key, value)
    return linear(attention.to_out[0], mixed.reshape(tokens.shape), residual)


def attend_context(attention: Attention, tokens: Tensor, context: Tensor, *, residual: Tensor) -> Tensor:
    """Attention to n tokens of context, tokens (F, S, C), context (B, n, context_width) -> (F, S, C).

    A query meets only n keys, so query and output weights are multiplied into keys and values first, once a clip.
    """
    num_clips, num_tokens, _ = context.shape
    heads = (attention.heads, -1)
    keys = attention.to_k(context).unflatten(2, heads)  # (B, n, K, E)
    values = attention.to_v(context).unflatten(2, heads)  # (B, n, K, E)
    query_weight = attention.to_q.weight.unflatten(0, heads) * attention.scale  # (K, E, C)
    output_weight = attention.to_out[0].weight.unflatten(1, heads)  # (C, K, E)
    to_scores = torch.einsum("bnke,kec->bcnk", keys, query_weight).flatten(2)  # (B, C, n K)
    to_output = torch.einsum("bnke,cke->bnkc", values, output_weight).flatten(1, 2)  # (B, n K, C)
    by_clip = (num_clips, -1, tokens.shape[2])
    scores = tokens.reshape(by_clip) @ to_scores  # (B, T S, n K)
    weights = scores.unflatten(2, (num_tokens, -1)).softmax(dim=2).flatten(2)
    output = (weights @ to_output).add_(attention.to_out[0].bias)
    return add(output, residual.reshape(by_clip)).view(tokens.shape)


def feed_forward(block: BasicTransformerBlock, tokens: Tensor) -> Tensor:
    """(F, S, C) -> same, residual included."""
    gate, _, project = block.ff.net
    return linear(project, gated_gelu(linear(gate.proj, block.norm3(tokens))), residual=tokens)


def project_out(layer: nn.Linear, tokens: Tensor, maps: Tensor) -> Tensor:
    """Back to (F, C, H, W), in the layout of `maps`, the residual."""
    if maps.is_contiguous(memory_format=torch.channels_last):
        return to_map(linear(layer, tokens, residual=to_tokens(maps)), maps.shape[2])
    return maps + to_map(linear(layer, tokens), maps.shape[2])


LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    ResnetBlock2D: ResidualBlock,
    TemporalConvLayer: TemporalConvolution,
    Transformer2DModel: SpatialTransformer,
    TransformerTemporalModel: TemporalTransformer,
}


def replace_layers(unet: nn.Module) -> None:
    """Give each part of diffusers' model its forward from here. Parameters, their names and their values stay."""
    replacements = LAYERS | {Upsample2D: Upsample}
    for module in unet.modules():
        module.__class__ = replacements.get(type(module), type(module))
