"""Names, sizes and shape rules of the video U-Net, and its match with the patch transformer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from baselines import BACKBONES, UNetConfig
from bench.backbone import load_backbone
from bench.shapes import LatentSpec

SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)


def num_params(name: str) -> int:
    with torch.device("meta"):
        model = load_backbone(name, SPEC)
    assert isinstance(model, nn.Module)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("size", "most_apart"), [("XS", 0.01), ("S", 0.03), ("B", 0.03)])
def test_sizes_match_the_patch_transformer_in_parameters(size: str, most_apart: float) -> None:
    assert num_params(f"baselines:UNet-{size}") == pytest.approx(num_params(f"dit:DiT-{size}/2"), rel=most_apart)


def test_large_has_the_published_widths() -> None:
    assert BACKBONES["UNet-L"].block_channels == (320, 640, 1280, 1280)
    assert num_params("baselines:UNet-L") / 1e9 == pytest.approx(1.41, rel=0.01)


def test_tokens_and_divisibility() -> None:
    config = BACKBONES["UNet-S"]
    config.check((7, 4, 12))
    assert config.num_tokens((7, 4, 12)) == 7 * 4 * 12
    with pytest.raises(ValueError, match=r"UNet needs latent height divisible by 4, got 6 .*use 4 or 8"):
        config.check((7, 6, 12))
    with pytest.raises(ValueError, match=r"UNet needs latent width divisible by 4, got 2 .*use 4"):
        config.check((7, 4, 2))
    with pytest.raises(ValueError, match="frames"):
        config.check((0, 4, 4))


def test_impossible_configurations() -> None:
    with pytest.raises(ValueError, match="32 is not divisible by head_dim 24"):
        UNetConfig(block_channels=(32, 48), num_res_blocks=1, head_dim=24, norm_groups=8, context_width=64)
