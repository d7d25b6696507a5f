"""The latent-diffusion video U-Net, on diffusers' `UNet3DConditionModel`, with what that model lacks or hard-codes put right.

Spatial layers see one frame; temporal layers see one voxel through all frames and start as the identity, so that at
initialisation a one-frame video gets exactly what the image U-Net gives it (Gen-1, 2302.03011, section 3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor, nn

from baselines.blocks import LAYERS, FramePositions, Sharing, replace_layers
from baselines.kernels import laid_out, norm_silu
from bench.backbone import Text, check_inputs
from bench.shapes import LatentSpec

if TYPE_CHECKING:
    from baselines import UNetConfig


class VideoUNet(nn.Module):
    """Latents in, prediction out, see `bench.backbone.Backbone`."""

    ragged = False
    takes_known_frames = True
    takes_text = True

    def __init__(self, config: UNetConfig, spec: LatentSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.num_tokens, self.check = config.num_tokens, config.check
        self.unet = build_unet(config, spec)
        # Two tokens to attend to: with one, softmax is 1 whatever the query, so query and key weights would count but never learn.
        self.context = nn.Parameter(torch.empty(2, config.context_width))
        # The last row is the null label, used by label dropout and guidance.
        self.label_embed = nn.Embedding(spec.num_labels + 1, config.context_width) if spec.num_labels else None
        # A caption's tokens stand behind those two.
        self.text_embed = nn.Linear(spec.text_width, config.context_width) if spec.text_width else None
        self._initialise()

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, *, text: Text | None = None) -> list[Tensor]:
        """B clips (C, T, H, W) of one shape, timesteps (B,) in [0, 1], labels (B,), captions, or None -> B clips of the same shape."""
        check_inputs("UNet", self, self.spec, latents, timesteps, labels, text)
        context, label = self.conditioning(len(latents), labels)
        mask = None
        if text is not None:
            context, mask = self.with_text(context, text)
        return list(self.unet(torch.stack(latents), 1000.0 * timesteps.float(), context, label, mask))

    def conditioning(self, num_clips: int, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens to attend to, (B, 2, context_width), and the label to add to time, (B, context_width) or None; labels (B,) or None."""
        if self.label_embed is None:
            return self.context.expand(num_clips, -1, -1), None
        label = self.label_embed(labels)  # (B, context_width)
        return torch.stack([self.context[0] + label, self.context[1].expand_as(label)], dim=1), label

    def with_text(self, context: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """Tokens (B, 2, context_width) and L of a caption -> all, (B, 2 + L, context_width), and which are there, (B, 2 + L) bool."""
        assert self.text_embed is not None
        # Encoders differ in scale by far more than their captions do.
        told = self.text_embed(F.layer_norm(text.tokens, text.tokens.shape[-1:]))
        return torch.cat([context.to(told.dtype), told], dim=1), F.pad(text.mask, (context.shape[1], 0), value=True)

    def repeated_blocks(self) -> list[nn.Module]:
        """The layers: what is compiled one by one, or recomputed one by one in backward.

        Each takes and returns maps and keeps many times its input for backward. Skips pass outside them, in the blocks of diffusers.
        Recomputing those, a level each, would hold a whole level at once: at widths (64, 128) 57 % of the peak is left, by layers 19 %.
        """
        layers: tuple[type[nn.Module], ...] = tuple(LAYERS.values())
        return [module for module in self.unet.modules() if isinstance(module, layers)]

    def shard_units(self) -> list[list[nn.Module]]:
        """The layers, and as one what is computed for all of them before: how time shifts them, and the context that they attend to."""
        sharing = self.unet.sharing
        context = [layer for attention in sharing.attentions() for layer in (attention.to_k, attention.to_v)]
        before: list[list[nn.Module]] = [[block.time_emb_proj for block in sharing.blocks], context]
        return [*filter(None, before), *([layer] for layer in self.repeated_blocks())]

    def _initialise(self) -> None:
        """What differs from diffusers' own initialisation, which stands for everything spatial."""
        # Temporal attention starts as the identity. Temporal convolutions already do: diffusers zeroes the last of each.
        for module in self.modules():
            if isinstance(module, TransformerTemporalModel):
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)

        # As small as the DiT's: labels at unit scale in one model only made a false gap of a factor two in quality.
        nn.init.normal_(self.context, std=0.02)
        if self.label_embed is not None:
            nn.init.normal_(self.label_embed.weight, std=0.02)
        if self.text_embed is not None:
            nn.init.normal_(self.text_embed.weight, std=0.02)
            nn.init.zeros_(self.text_embed.bias)


class LatentUNet(UNet3DConditionModel):
    """diffusers' model, with the conditioning kept once a clip; its parts take it so."""

    sharing: Sharing

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor, label: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """(B, C, T, H, W), timesteps (B,) in [0, 1000], context (B, n, context_width), label (B, context_width) or None -> like latents.

        `mask`, (B, n) bool: which tokens of the context are there; None: all.
        """
        num_frames = latents.shape[2]
        cond = self.time_embedding(self.time_proj(timesteps).to(latents.dtype), label)  # (B, 4 C)
        maps = latents.transpose(1, 2).flatten(0, 1)  # (F, C of the latents, H, W)
        maps = self.conv_in(laid_out(maps))  # (F, C, H, W)
        given = self.sharing(cond, context, num_frames, mask)
        maps = self.transformer_in(maps, given.positions[maps.shape[1]])  # (F, C, H, W)
        skips = [maps]
        for level in self.down_blocks:
            maps, new_skips = level(maps, given)  # (F, C', H/2, W/2)
            skips += new_skips
        maps = self.mid_block(maps, given)  # (F, C', H', W')
        for level in self.up_blocks:
            maps = level(maps, skips, given)  # (F, C', 2 H', 2 W')
        maps = self.conv_out(norm_silu(self.conv_norm_out, maps))  # (F, C of the latents, H, W)
        return maps.unflatten(0, (-1, num_frames)).transpose(1, 2)  # (B, C of the latents, T, H, W)


def sizes(config: UNetConfig, spec: LatentSpec, dimensions: str) -> dict[str, Any]:
    """Fields that diffusers' "2D" and "3D" models have alike; attention at every level but the innermost, and in the middle."""
    attention = [True] * (len(config.block_channels) - 1) + [False]
    return {
        "in_channels": spec.input_channels,
        "out_channels": spec.latent_channels,
        "down_block_types": tuple(f"{'CrossAttn' if attends else ''}DownBlock{dimensions}" for attends in attention),
        "up_block_types": tuple(f"{'CrossAttn' if attends else ''}UpBlock{dimensions}" for attends in reversed(attention)),
        "block_out_channels": config.block_channels,
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.norm_groups,
        "cross_attention_dim": config.context_width,
        "time_cond_proj_dim": config.context_width if spec.num_labels else None,
    }


def build_unet(config: UNetConfig, spec: LatentSpec) -> LatentUNet:
    """diffusers' model of these sizes, with positions of frames and the layers of `blocks.py`."""
    unet = LatentUNet(**sizes(config, spec, "3D"), attention_head_dim=config.head_dim)
    # diffusers gives the first temporal transformer eight heads at any width; at width 32 it would be most of the network.
    unet.transformer_in = TransformerTemporalModel(
        num_attention_heads=config.block_channels[0] // config.head_dim,
        attention_head_dim=config.head_dim,
        in_channels=config.block_channels[0],
        norm_num_groups=config.norm_groups,
    )
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):
            # Inside the branch, after its projection, so that a closed branch adds no positions to the image U-Net.
            module.proj_in = nn.Sequential(module.proj_in, FramePositions(module.proj_in.out_features))
    replace_layers(unet)
    unet.sharing = Sharing(unet)
    return unet
