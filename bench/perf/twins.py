"""Diffusers' own networks of the sizes of ours, behind our call: what a step of ours is held against."""

from typing import Any

import torch
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor, nn

from bench.shapes import LatentSpec


class DiffusersDiT(nn.Module):
    """`DiTTransformer2DModel`, of images. Equal to ours to rounding when the weights are: tests/test_dit_model.py shows it."""

    def __init__(self, size: tuple[int, int, int], side: int, spec: LatentSpec) -> None:
        """`size`: depth, width, heads; `side` of square latents."""
        super().__init__()
        depth, width, heads = size
        self.network = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=spec.latent_channels,
            num_layers=depth,
            sample_size=side,
            patch_size=2,
            num_embeds_ada_norm=spec.num_labels,
            norm_eps=1e-6,
        ).eval()  # fmt: skip  its label dropout draws
        for block in self.network.transformer_blocks[1:]:
            block.norm1.emb = self.network.transformer_blocks[0].norm1.emb  # one embedder, as DiT has

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
        images = torch.stack(latents).squeeze(2)
        return list(self.network(images, 1000 * timesteps, class_labels=labels).sample.unsqueeze(2))


class Positions(nn.Module):
    """Adds a sinusoid of the frame index to sequences of frames."""

    def __init__(self, width: int):
        super().__init__()
        self.encode = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)

    def forward(self, sequences: Tensor) -> Tensor:
        """(B H W, T, D) -> same."""
        return sequences + self.encode(torch.arange(sequences.shape[1], device=sequences.device)).to(sequences.dtype)


def plain_unet(ours: Any, *, dropout: bool) -> UNet3DConditionModel:
    """diffusers' model with the configuration, first temporal transformer, frame positions and weights of `ours`, and its own forward.

    With `dropout`, the 0.1 that diffusers hard-codes in temporal convolutions.
    """
    plain = UNet3DConditionModel.from_config(ours.config)
    plain.transformer_in = TransformerTemporalModel.from_config(ours.transformer_in.config)
    for module in plain.modules():
        if isinstance(module, TransformerTemporalModel):
            module.proj_in = nn.Sequential(module.proj_in, Positions(module.proj_in.out_features))
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    plain.load_state_dict(ours.state_dict())
    return plain.train()


class DiffusersUNet(nn.Module):
    """`plain_unet` behind our call."""

    def __init__(self, ours: Any, *, dropout: bool) -> None:
        super().__init__()
        self.network, self.conditioning = plain_unet(ours.unet, dropout=dropout), ours.conditioning

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
        context, label = self.conditioning(len(latents), labels)
        return list(self.network(torch.stack(latents), 1000 * timesteps, context, timestep_cond=label, return_dict=False)[0])
