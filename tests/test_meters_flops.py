"""FLOPs: by hand, and DiT's published table."""

from typing import Any

import pytest
import torch
from torch import nn

from bench.backbone import find_factory
from bench.meters.flops import count_flops, flops_of
from bench.shapes import LatentSpec
from tests.tiny import SPEC

IMAGENET = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=1000)


class OneMatrix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4, bias=False)

    def forward(self, latents: list[torch.Tensor], timesteps: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        return [self.mix(clip.movedim(0, -1)).movedim(-1, 0) for clip in latents]


class OnlyAttention(nn.Module):
    def forward(self, latents: list[torch.Tensor], timesteps: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        tokens = latents[0].flatten(1).T[None, None]  # (1, 1, N, 4)
        return [nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)]


def as_published(size: str) -> Any:
    """The model of the paper: eight output channels, four of them a learned sigma."""
    from dit.model import DiT

    config: Any = find_factory(f"dit:DiT-{size}-sincos")
    return DiT(config, IMAGENET, out_channels=8)


@pytest.mark.parametrize(
    ("network", "flops"),
    [
        (OneMatrix, 2 * 30 * 4 * 4),  # multiply and add, for each of 30 cells
        (OnlyAttention, 2 * (2 * 30 * 30 * 4)),  # scores and their sum of values
    ],
)
def test_by_hand(network: Any, flops: int) -> None:
    with torch.device("meta"):
        assert flops_of(network(), SPEC, (2, 3, 5)) == flops


@pytest.mark.parametrize(
    ("size", "gflops"),
    [
        ("S/8", 0.36), ("S/4", 1.41), ("S/2", 6.06), ("B/8", 1.42), ("B/4", 5.56), ("B/2", 23.01),
        ("L/8", 5.01), ("L/4", 19.70), ("L/2", 80.71), ("XL/8", 7.39), ("XL/4", 29.05), ("XL/2", 118.64),
    ],
)  # fmt: skip
def test_flops_are_twice_the_papers_multiply_adds(size: str, gflops: float) -> None:
    """Table 4 of the DiT paper (2212.09748), one 32x32 latent image: within 0.2 %, or half the last digit it prints."""
    with torch.device("meta"):
        counted = flops_of(as_published(size), IMAGENET, (1, 32, 32)) / 2e9
    assert counted == pytest.approx(gflops, rel=0.002, abs=0.005)


@pytest.mark.parametrize("name", ["dit:DiT-XS/2", "baselines:UNet-XS"])
def test_without_classes(name: str) -> None:
    spec = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=0)
    assert count_flops(name, spec, (3, 4, 4)) > 0
