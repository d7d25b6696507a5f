"""The modern convolutional network for video: depthwise convolutions in space and time, pointwise layers, and a DiT's conditioning.

An hourglass: levels of half the height and width each on the way down, and back, with a skip from each level to its other half. A block is
ConvNeXt V2's (Woo et al., 2301.00808, figure 5) with a convolution over time behind that over space, and shift, factor and gate of
adaLN-Zero (Peebles & Xie, 2212.09748) in place of its norm's weights and its layer scale. Attention is there for text alone.

Maps are (B, T, H, W, C): to a convolution of the B T frames a view in channels-last layout, to pointwise layers rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.kernels import linear, projections
from bench.backbone import Text, check_inputs
from bench.shapes import LatentSpec

if TYPE_CHECKING:
    from baselines.conv_config import ConvConfig

FREQUENCY_CHANNELS = 256  # width of the sinusoidal time features
KERNEL = 7  # voxels of a convolution over space, in height and in width
TEXT_HEADS = 4  # that attend to text
EPS = 1e-6


class VideoConv(nn.Module):
    """Latents in, prediction out, see `bench.backbone.Backbone`."""

    ragged = False
    takes_known_frames = True
    takes_text = True

    def __init__(self, config: ConvConfig, spec: LatentSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.num_tokens, self.check = config.num_tokens, config.check
        widths, cond_width = config.block_channels, config.cond_width
        self.embed = nn.Linear(spec.input_channels, widths[0])
        self.time_embed = ConvTime(cond_width)
        # The last row is the null label, used by label dropout and guidance.
        self.label_embed = nn.Embedding(spec.num_labels + 1, cond_width) if spec.num_labels else None

        def stage(level: int) -> nn.ModuleList:
            return nn.ModuleList(ConvBlock(config, widths[level], spec.text_width) for _ in range(config.num_blocks[level]))

        outer = range(len(widths) - 1)
        self.down = nn.ModuleList(stage(level) for level in outer)
        self.downsample = nn.ModuleList(nn.Linear(4 * widths[level], widths[level + 1]) for level in outer)
        self.middle = stage(len(widths) - 1)
        self.upsample = nn.ModuleList(nn.Linear(widths[level + 1], 4 * widths[level]) for level in outer)
        self.up = nn.ModuleList(stage(level) for level in outer)
        self.final_modulation = nn.Linear(cond_width, 2 * widths[0])
        self.final = nn.Linear(widths[0], spec.latent_channels)
        self._initialise()

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, *, text: Text | None = None) -> list[Tensor]:
        """B clips (C, T, H, W) of one shape, timesteps (B,) in [0, 1], labels (B,) or None -> B clips of the same shape."""
        check_inputs("Conv", self, self.spec, latents, timesteps, labels, text)
        cond = self.time_embed(timesteps)  # (B, D)
        if self.label_embed is not None:
            cond = cond + self.label_embed(labels)  # (B, D)
        blocks = self._blocks()
        *of_blocks, last = projections([*(block.modulation for block in blocks), self.final_modulation], F.silu(cond))
        rows = dict(zip(blocks, of_blocks, strict=True))  # (B, 3 C) each

        def through(stage: Any, maps: Tensor) -> Tensor:
            for block in stage:
                maps = block(maps, rows[block], text)
            return maps

        maps = self.embed(torch.stack(latents).permute(0, 2, 3, 4, 1))  # (B, T, H, W, C)
        skips = []
        for stage, downsample in zip(self.down, self.downsample, strict=True):
            maps = through(stage, maps)
            skips.append(maps)
            maps = downsample(unshuffled(maps))  # (B, T, H/2, W/2, C')
        maps = through(self.middle, maps)
        for stage, upsample in zip(reversed(self.up), reversed(self.upsample), strict=True):
            maps = shuffled(upsample(maps)) + skips.pop()  # (B, T, 2 H, 2 W, C)
            maps = through(stage, maps)
        shift, factor = last.chunk(2, dim=-1)  # (B, C) each
        return list(self.final(modulated_norm(maps, shift, factor)).permute(0, 4, 1, 2, 3))

    def repeated_blocks(self) -> list[nn.Module]:
        """The modules that hold nearly all work and memory, alike in code: to be compiled one by one, or recomputed in backward."""
        return list(self._blocks())

    def shard_units(self) -> list[list[nn.Module]]:
        """Modulation apart: that of all blocks is computed before them, together."""
        blocks = self._blocks()
        modulations: list[nn.Module] = [block.modulation for block in blocks]
        alone: list[list[nn.Module]] = [[block] for block in blocks]
        return [modulations, *alone]

    def _blocks(self) -> list[ConvBlock]:
        stages: list[Any] = [*self.down, self.middle, *reversed(self.up)]
        return [block for stage in stages for block in stage]

    def _initialise(self) -> None:
        """As the DiT does: a block starts as the identity and the model predicts zero; what has no like in it, as torch does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

        # Conditioning starts small, and labels as small as time, so that neither drowns the other.
        nn.init.normal_(self.time_embed.into.weight, std=0.02)
        nn.init.normal_(self.time_embed.out.weight, std=0.02)
        if self.label_embed is not None:
            nn.init.normal_(self.label_embed.weight, std=0.02)

        # Zero modulation means no shift, no scale and closed gates; a zero last layer means no prediction yet.
        for module in self.modules():
            if isinstance(module, ConvBlock):
                nn.init.zeros_(module.modulation.weight)
            elif isinstance(module, ConvText):
                nn.init.zeros_(module.out.weight)
        nn.init.zeros_(self.final_modulation.weight)
        nn.init.zeros_(self.final.weight)


class ConvBlock(nn.Module):
    """Voxels meet within each channel, in space and then in time; then channels meet at each voxel; then comes the text, where there is."""

    def __init__(self, config: ConvConfig, width: int, text_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(config.cond_width, 3 * width)
        self.space = nn.Conv2d(width, width, KERNEL, padding="same", groups=width)
        self.time = nn.Parameter(torch.empty(2, width).uniform_(-1, 1) / math.sqrt(3))  # taps of a frame before and after: as torch's own
        self.expand = nn.Linear(width, config.expansion * width)
        self.contrast = nn.Parameter(torch.zeros(config.expansion * width))  # of response normalisation, its gamma
        self.contract = nn.Linear(config.expansion * width, width)
        self.text = ConvText(width, text_width) if text_width else None

    def forward(self, maps: Tensor, rows: Tensor, text: Text | None) -> Tensor:
        """Maps (B, T, H, W, C) -> same; rows (B, 3 C) that `modulation` makes of the conditioning after SiLU."""
        shift, factor, gate = rows.chunk(3, dim=-1)  # (B, C) each
        branch = over_time(over_space(maps, self.space), self.time)
        branch = modulated_norm(branch, shift, factor).flatten(1, 3)  # (B, N, C), N = T H W
        branch = F.gelu(linear(self.expand, branch), approximate="tanh")  # (B, N, R)
        branch = linear(self.contract, response_norm(branch, self.contrast)).view(maps.shape)
        maps = torch.addcmul(maps, to_voxels(gate), branch)
        if self.text is None:
            return maps
        assert text is not None
        return self.text(maps, text)


class ConvText(nn.Module):
    """Each voxel attends to the tokens of its clip's caption. Starts as the identity."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(text_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, maps: Tensor, text: Text) -> Tensor:
        """Maps (B, T, H, W, C) -> same, residual included. Both are normalised first, so that no encoder's scale matters."""
        query = self.query(F.layer_norm(maps, maps.shape[-1:], eps=EPS).flatten(1, 3))  # (B, N, C)
        key, value = self.key_value(F.layer_norm(text.tokens, text.tokens.shape[-1:], eps=EPS)).chunk(2, dim=-1)  # (B, L, C) each
        query, key, value = (rows.unflatten(2, (TEXT_HEADS, -1)).transpose(1, 2) for rows in (query, key, value))  # (B, K, N or L, E)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=text.mask[:, None, None, :])  # (B, K, N, E)
        return maps + self.out(mixed.transpose(1, 2).flatten(2)).view(maps.shape)


class ConvTime(nn.Module):
    """Timesteps (B,) in [0, 1] -> (B, D): sinusoids, then two layers; as the DiT's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(FREQUENCY_CHANNELS, width)
        self.out = nn.Linear(width, width)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Frequencies fall from 1 to 1/10000 inclusive, cosines first."""
        half = FREQUENCY_CHANNELS // 2
        exponents = torch.arange(half, device=timesteps.device, dtype=torch.float32) / (half - 1)
        angles = 1000.0 * timesteps.float()[:, None] * 10000.0**-exponents  # (B, half)
        features = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.into.weight.dtype)
        return self.out(F.silu(self.into(features)))


def over_space(maps: Tensor, convolution: nn.Conv2d) -> Tensor:
    """A depthwise convolution within each frame: (B, T, H, W, C) -> same.

    On maps smaller than the kernel its outer taps see padding alone: without them the sum is the same, and shorter.
    """
    reach = [min(KERNEL // 2, side - 1) for side in maps.shape[2:4]]
    rows, columns = (slice(KERNEL // 2 - each, KERNEL // 2 + each + 1) for each in reach)
    weight = convolution.weight[:, :, rows, columns]
    planes = maps.flatten(0, 1).permute(0, 3, 1, 2)  # (B T, C, H, W)
    planes = F.conv2d(planes, weight, convolution.bias, padding=tuple(reach), groups=maps.shape[4])
    return planes.permute(0, 2, 3, 1).reshape(maps.shape)


def over_time(maps: Tensor, taps: Tensor) -> Tensor:
    """A depthwise convolution over three frames at each voxel: (B, T, H, W, C) -> same; taps (2, C) of the frame before and after.

    The third, of the frame itself, makes their sum one, and the ends of a clip are repeated. So what does not move stays as it is, and one
    frame does whatever the weights: it is an image, before training and after. The scale that this takes away is in the convolution over
    space. As one over (T, H W) in channels-last layout: a CPU's convolution in three dimensions takes several times as long.
    """
    if maps.shape[1] == 1:
        return maps
    before, after = taps
    weight = torch.stack([before, 1 - before - after, after], dim=1)[:, None, :, None]  # (C, 1, 3, 1)
    ends = torch.cat([maps[:, :1], maps, maps[:, -1:]], dim=1).flatten(2, 3).permute(0, 3, 1, 2)  # (B, C, T + 2, H W)
    return F.conv2d(ends, weight, groups=maps.shape[4]).permute(0, 2, 3, 1).reshape(maps.shape)


def modulated_norm(maps: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    """norm(maps) (1 + factor) + shift, over channels: maps (B, T, H, W, C), shift and factor (B, C) -> same as maps."""
    return torch.addcmul(to_voxels(shift), F.layer_norm(maps, maps.shape[-1:], eps=EPS), 1 + to_voxels(factor))


def response_norm(values: Tensor, contrast: Tensor) -> Tensor:
    """Global response normalisation (2301.00808, section 3.2): values (B, N, R), contrast (R,) -> same.

    A channel's response, the norm of its values, is set against the mean of all channels'. The response is of a clip, T H W voxels, and not
    of a frame: nothing else here sees further in time than one frame a block, and frames of few voxels would differ by chance and flicker.
    The paper's beta is left out: the next layer's bias is one.
    """
    response = (values.square().mean(dim=1, keepdim=True) + EPS**2).sqrt()  # (B, 1, R); a derivative at zero too
    return values * (1 + contrast * (response / (response.mean(dim=-1, keepdim=True) + EPS)))


def unshuffled(maps: Tensor) -> Tensor:
    """The four voxels of a square as channels of one, row by row: (B, T, H, W, C) -> (B, T, H/2, W/2, 4 C)."""
    return maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4).flatten(4)


def shuffled(maps: Tensor) -> Tensor:
    """Its inverse: (B, T, H, W, 4 C) -> (B, T, 2 H, 2 W, C)."""
    return maps.unflatten(4, (2, 2, -1)).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def to_voxels(rows: Tensor) -> Tensor:
    """A row for each clip as one for its voxels: (B, C) -> (B, 1, 1, 1, C)."""
    return rows[:, None, None, None]
