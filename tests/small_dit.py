"""A tiny patch transformer with random weights, and clips of several shapes for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.shapes import LatentSpec, Shape
from dit import DiTConfig
from dit.model import DiT

SPEC = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=4)
MIXED = [(2, 4, 6), (4, 2, 2), (4, 2, 2), (2, 6, 4), (1, 8, 2)]
UNIFORM = [(2, 4, 6)] * 3
SAME_LENGTH = [(2, 4, 6), (2, 6, 4), (4, 2, 6)]  # twelve tokens each, in three shapes


def small_dit(spec: LatentSpec = SPEC, *, patch_size: Shape = (1, 2, 2), positions: str = "rotary") -> DiT:
    """A tiny model with random weights: the zeros it starts from would let any mistake pass."""
    torch.manual_seed(0)
    model = DiT(DiTConfig(depth=2, hidden_size=48, num_heads=2, patch_size=patch_size, positions=positions), spec)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model


def batch(shapes: list[Shape]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Clips of these shapes, their timesteps and labels."""
    generator = torch.Generator().manual_seed(1)
    latents = [torch.randn(3, *shape, generator=generator) for shape in shapes]
    return latents, torch.rand(len(shapes), generator=generator), torch.arange(len(shapes)) % 5


def losses(outputs: list[Tensor]) -> Tensor:
    """The mean square of predictions."""
    return torch.stack([output.square().mean() for output in outputs]).mean()
