"""Names, sizes and shape rules of the patch transformer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench.backbone import find_factory, load_backbone
from bench.meters.flops import count_flops
from bench.shapes import LatentSpec
from dit import BACKBONES, SIZES, DiTConfig
from dit.model import DiT

IMAGENET = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=1000)


def num_params(model: object) -> int:
    assert isinstance(model, nn.Module)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "published"), [("DiT-S/2", 32_963_360), ("DiT-XL/2", 675_129_632)])
def test_published_parameter_counts(name: str, published: int) -> None:
    """Eight output channels (a learned sigma) and a stored position for each of 16 x 16 tokens, as in 2212.09748."""
    config = BACKBONES[name]
    with torch.device("meta"):
        model = DiT(config, IMAGENET, out_channels=8)
    assert num_params(model) + 16 * 16 * config.hidden_size == published


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_ladder_has_the_papers_sizes(size: str, millions: int) -> None:
    with torch.device("meta"):
        for patch in (2, 4, 8):
            assert num_params(load_backbone(f"dit:DiT-{size}/{patch}", IMAGENET)) / 1e6 == pytest.approx(millions, rel=0.025)


@pytest.mark.parametrize(("name", "shape"), [("DiT-S/2", (1, 32, 32)), ("DiT-XS/2-sincos", (3, 8, 12)), ("DiT-XS/4t2", (4, 8, 8))])
def test_flops_by_hand(name: str, shape: tuple[int, int, int]) -> None:
    """Every product of the paper's network and no other: what makes it fast must not make it another network."""
    config = BACKBONES[name]
    tokens, width, values = config.num_tokens(shape), config.hidden_size, 4 * math.prod(config.patch_size)
    block = 24 * tokens * width**2 + 4 * tokens**2 * width + 12 * width**2  # linear layers, attention, modulation
    rest = 4 * tokens * values * width + 2 * 256 * width + 2 * width**2 + 4 * width**2  # both ends, time, last modulation
    assert count_flops(f"dit:{name}", IMAGENET, shape) == config.depth * block + rest


def test_every_name_builds() -> None:
    with torch.device("meta"):
        for name in BACKBONES:
            if name.startswith("DiT-XS"):
                assert load_backbone(f"dit:{name}", IMAGENET).ragged
            elif name.startswith("AR-XS"):
                assert not load_backbone(f"dit:{name}", IMAGENET).ragged
    assert len(BACKBONES) == len(SIZES) * 3 * (3 + 5)


def test_names_say_what_is_built() -> None:
    plain, tubelet, sincos = BACKBONES["DiT-B/4"], BACKBONES["DiT-B/4t2"], BACKBONES["DiT-B/4-sincos"]
    assert (plain.patch_size, plain.positions) == ((1, 4, 4), "rotary")
    assert (tubelet.patch_size, tubelet.positions) == ((2, 4, 4), "rotary")
    assert (sincos.patch_size, sincos.positions) == ((1, 4, 4), "sincos")
    with pytest.raises(ValueError, match="did you mean 'dit:DiT-XS/2'"):
        find_factory("dit:DiT-XXS/2")


def test_tokens_and_divisibility() -> None:
    config = BACKBONES["DiT-S/2t2"]
    config.check((4, 6, 8))
    assert config.num_tokens((4, 6, 8)) == 2 * 3 * 4
    for shape, message in [((3, 6, 8), "frames divisible by 2, got 3"), ((4, 5, 8), "height .* got 5"), ((4, 6, 7), "width .* got 7")]:
        with pytest.raises(ValueError, match=message):
            config.check(shape)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positions": "learned"}, "unknown positions 'learned'; use one of rotary, sincos"),
        ({"num_heads": 3}, "hidden_size 32 over 3 heads"),
    ],
)
def test_impossible_configurations(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiTConfig(**({"depth": 1, "hidden_size": 32, "num_heads": 2, "patch_size": (1, 2, 2)} | wrong))
