"""FLOPs and parameters, counted and not timed."""

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.backbone import Backbone, load_backbone
from bench.shapes import LatentSpec, Shape


def count_flops(name: str, spec: LatentSpec, shape: Shape) -> int:
    """Forward FLOPs of one clip of latent shape (T, H, W) through the named backbone, which is built for it."""
    with torch.device("meta"):
        return flops_of(load_backbone(name, spec), spec, shape)


def flops_of(backbone: Backbone, spec: LatentSpec, shape: Shape) -> int:
    """Forward FLOPs of one clip through a backbone on the `meta` device: multiply-add = 2, attention included.

    On `meta` attention takes its matrix-product form, which the counter sees; on a CPU its fused kernel counts as zero.
    """
    network: Any = backbone
    network.requires_grad_(False)  # the counter's hooks trip over a parameter that is used as a view
    latents = [torch.empty(spec.latent_channels, *shape, device="meta")]
    timesteps = torch.empty(1, device="meta")
    labels = torch.zeros(1, dtype=torch.long, device="meta") if spec.num_labels else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(latents, timesteps, labels)
    return counter.get_total_flops()


def num_params(backbone: nn.Module) -> int:
    """Trainable parameters."""
    return sum(weight.numel() for weight in backbone.parameters() if weight.requires_grad)
