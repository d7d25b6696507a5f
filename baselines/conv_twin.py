"""The image network that a video `Conv` contains: torch's own layers on (B, C, H, W), with its weights and no line of its forward pass.

A clip of one frame must get exactly what its twin gives the image, and so must every frame of a clip that shows one image throughout.
That holds of any weights, and so of trained ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from baselines.conv import EPS, TEXT_HEADS
from bench.backbone import Text

if TYPE_CHECKING:
    from baselines.conv import ConvBlock, ConvText, VideoConv
    from baselines.conv_config import ConvConfig
    from bench.shapes import LatentSpec

STILL_FRAMES = 3  # of the clip that shows one image


class ImageTwin(nn.Module):
    """The weights of a video network as convolutions of images."""

    def __init__(self, model: VideoConv) -> None:
        super().__init__()
        self.model: Any = [model]  # in a list: no module of this one
        outer = range(len(model.down))
        self.embed, self.final = pointwise(model.embed), pointwise(model.final)
        self.down = nn.ModuleList(stage(model.down[level]) for level in outer)
        self.middle = stage(model.middle)
        self.up = nn.ModuleList(stage(model.up[level]) for level in outer)
        self.downsample = nn.ModuleList(halving(model.downsample[level]) for level in outer)
        self.upsample = nn.ModuleList(doubling(model.upsample[level]) for level in outer)

    def forward(self, images: Tensor, timesteps: Tensor, labels: Tensor | None, text: Text | None) -> Tensor:
        """(B, C, H, W) -> same."""
        (model,) = self.model
        cond = model.time_embed(timesteps) + (0 if labels is None else model.label_embed(labels))  # (B, D)
        cond = nn.functional.silu(cond)
        maps, skips = self.embed(images), []
        for blocks, downsample in zip(self.down, self.downsample, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                maps = block(maps, cond, text)
            skips.append(maps)
            maps = downsample(maps)
        for block in self.middle:
            maps = block(maps, cond, text)
        for level in reversed(range(len(skips))):
            maps = self.upsample[level](maps) + skips[level]
            for block in self.up[level]:  # type: ignore[attr-defined]
                maps = block(maps, cond, text)
        shift, factor = model.final_modulation(cond)[:, :, None, None].chunk(2, dim=1)
        return self.final(normed(maps) * (1 + factor) + shift)


class ImageBlock(nn.Module):
    """A block of images: one convolution of 7x7 in each channel, two of 1x1, and text through torch's own attention."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.modulation, self.space, self.contrast = block.modulation, block.space, block.contrast
        self.expand, self.contract = pointwise(block.expand), pointwise(block.contract)
        self.text = None if block.text is None else ImageText(block.text)

    def forward(self, maps: Tensor, cond: Tensor, text: Text | None) -> Tensor:
        shift, factor, gate = self.modulation(cond)[:, :, None, None].chunk(3, dim=1)
        branch = self.expand(normed(self.space(maps)) * (1 + factor) + shift)
        branch = nn.functional.gelu(branch, approximate="tanh")
        norms = branch.flatten(2).norm(dim=2)  # (B, R)
        share = norms / norms.mean(dim=1, keepdim=True)
        branch = branch + (self.contrast * share)[:, :, None, None] * branch
        maps = maps + gate * self.contract(branch)
        return maps if self.text is None else self.text(maps, text)


class ImageText(nn.Module):
    """The attention to text of a block, by torch's own layer."""

    def __init__(self, layer: ConvText) -> None:
        super().__init__()
        width = layer.query.out_features
        self.attention = nn.MultiheadAttention(width, TEXT_HEADS, kdim=width, vdim=width, batch_first=True)
        self.key_value = layer.key_value
        eye = torch.eye(width)
        with torch.no_grad():  # keys and values come projected: they have another width than queries
            self.attention.in_proj_weight.copy_(torch.cat([layer.query.weight, eye, eye]))
            self.attention.in_proj_bias.copy_(torch.cat([layer.query.bias, torch.zeros(2 * width)]))
        self.attention.out_proj = layer.out  # type: ignore[assignment]

    def forward(self, maps: Tensor, text: Text) -> Tensor:
        tokens = nn.functional.layer_norm(text.tokens, text.tokens.shape[-1:], eps=EPS)
        key, value = self.key_value(tokens).chunk(2, dim=-1)  # (B, L, C) each
        query = normed(maps).flatten(2).transpose(1, 2)  # (B, S, C)
        mixed, _ = self.attention(query, key, value, key_padding_mask=~text.mask, need_weights=False)
        return maps + mixed.transpose(1, 2).unflatten(2, maps.shape[2:])


def normed(maps: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the channels of (B, C, H, W)."""
    variance, mean = torch.var_mean(maps, dim=1, keepdim=True, correction=0)
    return (maps - mean) / (variance + EPS).sqrt()


def stage(blocks: Sequence[ConvBlock] | Any) -> nn.ModuleList:
    """Image blocks of a level's."""
    return nn.ModuleList(map(ImageBlock, blocks))


def pointwise(layer: nn.Linear) -> nn.Conv2d:
    """A linear layer as a convolution of one voxel."""
    found = nn.Conv2d(layer.in_features, layer.out_features, 1)
    return with_weights(found, layer.weight[:, :, None, None], layer.bias)


def halving(layer: nn.Linear | Any) -> nn.Conv2d:
    """Pixel-unshuffle and a linear layer: a convolution of 2x2 voxels in steps of two."""
    channels = layer.in_features // 4
    found = nn.Conv2d(channels, layer.out_features, 2, stride=2)
    return with_weights(found, layer.weight.unflatten(1, (2, 2, channels)).permute(0, 3, 1, 2), layer.bias)


def doubling(layer: nn.Linear | Any) -> nn.ConvTranspose2d:
    """A linear layer and pixel-shuffle: the transpose of such a convolution."""
    channels = layer.out_features // 4
    found = SquareBias(layer.in_features, channels, 2, stride=2, bias=False)
    found.of_square = layer.bias.unflatten(0, (2, 2, channels)).permute(2, 0, 1)  # (C, 2, 2)
    return with_weights(found, layer.weight.unflatten(0, (2, 2, channels)).permute(3, 2, 0, 1), None)


class SquareBias(nn.ConvTranspose2d):
    """A transposed convolution whose bias has a value for each of the four voxels of a square, as a linear layer's has."""

    of_square: Tensor

    def forward(self, maps: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(maps) + self.of_square.repeat(1, *maps.shape[2:])


def with_weights(layer: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """The layer with these, copied."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


@torch.no_grad()
def one_frame_gap(config: ConvConfig, spec: LatentSpec) -> float:
    """Largest difference between a video network and its twin on images, relative to the largest output; of random weights.

    As clips of one frame, and as clips whose frames are all the same.
    """
    with torch.random.fork_rng(devices=[]):  # both models draw weights; the cell's own randomness must not notice
        torch.manual_seed(0)
        model = config(spec).eval()
        for weights in model.parameters():
            if not bool(weights.any()):  # closed gates and a zero last layer would agree with anything
                nn.init.normal_(weights, std=0.1)
        twin = ImageTwin(model)
        side = 2 ** len(config.block_channels)
        images = torch.randn(2, spec.input_channels, side, side)
        text = Text(tokens=torch.randn(2, 3, spec.text_width), mask=torch.tensor([[True] * 3, [True, False, True]]))
    timesteps = torch.tensor([0.2, 0.8])
    labels = torch.tensor([0, spec.num_labels]) if spec.num_labels else None
    given = text if spec.text_width else None
    expected = twin(images, timesteps, labels, given)[:, :, None]  # (B, C, 1, H, W)
    worst = 0.0
    for frames in (1, STILL_FRAMES):
        clips = list(images[:, :, None].expand(-1, -1, frames, -1, -1))
        actual = torch.stack(model(clips, timesteps, labels, text=given))
        worst = max(worst, float((actual - expected).abs().max() / expected.abs().max()))
    return worst
