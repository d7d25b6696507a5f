"""FLOPs and parameters, counted and not timed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.backbone import Backbone, Generation, load_backbone
from bench.data.plugin import BrokenPlugin
from bench.meters.text import stand_in_text
from bench.shapes import LatentSpec, Shape


def count_flops(name: str, spec: LatentSpec, shape: Shape) -> int:
    """Forward FLOPs of one clip of latent shape (T, H, W) through the named backbone, built for it. BrokenPlugin for its output."""
    with torch.device("meta"):
        flops, outputs = _forward(load_backbone(name, spec), spec, shape)
    given: list[Any] = [tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__ for output in outputs]
    if given != [whole := (spec.latent_channels, *shape)]:
        raise BrokenPlugin(f"backbone {name!r} gave {given} for a clip of latents {whole}; give one of its shape")
    return flops


def flops_of(backbone: Backbone, spec: LatentSpec, shape: Shape) -> int:
    """Forward FLOPs of one clip through a backbone on the `meta` device: multiply-add = 2, attention included.

    On `meta` attention takes its matrix-product form, which the counter sees; on a CPU its fused kernel counts as zero.
    """
    return _forward(backbone, spec, shape)[0]


def generation_flops(name: str, spec: LatentSpec, shape: Shape, num_steps: int) -> int:
    """FLOPs of generating one clip unit after unit, without guidance: every step of every unit, and what is kept of it.

    Every step is of the same time here, and what a backbone keeps for a time is counted with the first unit's steps.
    """
    with torch.device("meta"):
        network: Any = load_backbone(name, spec)
        labels = torch.zeros(1, dtype=torch.long) if spec.num_labels else None
    network.requires_grad_(False)
    generation: Generation = network.generate(shape, labels, 1)
    total = 0
    for box in network.units(shape):
        unit = torch.empty(1, spec.latent_channels, *(part.stop - part.start for part in box), device="meta")
        for calls, call in ((num_steps, lambda unit=unit: generation.predict(unit, 0.5)), (1, lambda unit=unit: generation.keep(unit))):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                call()
            total += calls * counter.get_total_flops()
    return total


def _forward(backbone: Backbone, spec: LatentSpec, shape: Shape) -> tuple[int, Any]:
    network: Any = backbone
    network.requires_grad_(False)  # the counter's hooks trip over a parameter that is used as a view
    latents = [torch.empty(spec.input_channels, *shape, device="meta")]
    timesteps = torch.empty(1, device="meta")
    labels = torch.zeros(1, dtype=torch.long, device="meta") if spec.num_labels else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outputs = network(latents, timesteps, labels, **stand_in_text(spec, 1, "meta"))
    return counter.get_total_flops(), outputs


def num_params(backbone: nn.Module) -> int:
    """Trainable parameters."""
    return sum(weight.numel() for weight in backbone.parameters() if weight.requires_grad)
