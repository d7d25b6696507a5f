"""What must hold of an autoregressive model, as errors that a cell checks before it trains: the DiT inside it, and its cache.

Both are of small models of the same code and kind of unit, with random weights: the zeros that a model starts from would let any mistake
pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dit.autoregressive import Autoregressive
from dit.model import DiT
from dit.unit_cache import past_and_prediction

if TYPE_CHECKING:
    from bench.shapes import LatentSpec, Shape
    from dit import AutoregressiveConfig

FRAMES = 4  # of the clips, in units of 1, 2 or 4 frames
SIDE = 2  # patches


@torch.no_grad()
def clip_gap(config: AutoregressiveConfig, spec: LatentSpec) -> float:
    """Largest difference between the model of one unit, the whole clip, and a DiT with its weights, relative to the largest output."""
    model = small(replace(config, unit="clip"), spec)
    twin = DiT(model.config, spec).eval()
    twin.load_state_dict(model.dit.state_dict())
    latents, times, labels = clips(shape_of(config), spec)
    return _gap(torch.stack(model(list(latents), times, labels)), torch.stack(twin(list(latents), times, labels)))


@torch.no_grad()
def cache_gap(config: AutoregressiveConfig, spec: LatentSpec) -> float:
    """Largest difference between what sampling with its cache predicts and the training pass, relative to the largest output."""
    model = small(config, spec)
    shape = shape_of(config)
    noised, _, labels = clips(shape, spec)
    clean = torch.randn(noised.shape, generator=torch.Generator().manual_seed(2))
    times = torch.linspace(0.1, 0.9, len(model.units(shape)))
    whole = torch.stack(model(list(noised), times.expand(len(noised), -1), labels, clean=list(clean)))
    return _gap(past_and_prediction(model, noised, clean, times.tolist(), labels), whole)


def small(config: AutoregressiveConfig, spec: LatentSpec) -> Autoregressive:
    """A narrow model of two blocks, its weights random; torch's own generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Autoregressive(replace(config, depth=2, num_heads=2, hidden_size=48), spec).eval()
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.15)
    return model


def shape_of(config: AutoregressiveConfig) -> Shape:
    """Latents (T, H, W) that the configuration divides into several units, where it divides a clip at all."""
    p_t, p_h, p_w = config.patch_size
    frames = max(FRAMES, 2 * (config.unit_frames or 1))
    return (frames * p_t, SIDE * p_h, SIDE * p_w)


def clips(shape: Shape, spec: LatentSpec) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two clips (2, C, T, H, W) of noise, their times (2,) and labels (2,)."""
    latents = torch.randn(2, spec.input_channels, *shape, generator=torch.Generator().manual_seed(1))
    return latents, torch.tensor([0.3, 0.8]), torch.tensor([0, spec.num_labels]) if spec.num_labels else None


def _gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
