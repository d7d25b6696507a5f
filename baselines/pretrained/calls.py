"""How each published class is called, as its own pipeline does it, where this differs from a class with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed, get_3d_rotary_pos_embed
from torch import Tensor

from baselines.diffusers_zoo.calls import CALLS, POSITIONS, Inputs, cogvideox_positions
from baselines.diffusers_zoo.calls import plain as plain
from bench.shapes import Shape


def of_text(model: Any, inputs: Inputs, mask: Tensor | None) -> Tensor:
    """Text as tokens (B, L, W): those that `mask` (B, L) leaves out are zero already; Latte, which can, does not look at them at all."""
    del mask
    return CALLS.get(type(model).__name__, plain)(model, inputs)


def latte(model: Any, inputs: Inputs, mask: Tensor | None) -> Tensor:
    """Latte says noise and variance; the variance is not ours to use. Its frames are clips of their own to its attention to text."""
    mask = None if mask is None else mask.repeat_interleave(inputs.clips.shape[2], dim=0)  # (B T, L)
    said = plain(model, inputs, encoder_attention_mask=mask)
    return said[:, : inputs.clips.shape[1]]


def one_frame(model: Any, inputs: Inputs, mask: Tensor | None) -> Tensor:
    """DiT, of images and classes: the classes are in the place of text, (B,). It says noise and variance."""
    del mask
    batch, channels = inputs.clips.shape[:2]
    said = model(inputs.clips[:, :, 0], inputs.timesteps, class_labels=inputs.context, return_dict=False)[0]
    return said.view(batch, -1, 1, *inputs.clips.shape[3:])[:, :channels]


def cogvideox_own_positions(model: Any, shape: Shape, device: torch.device) -> Any:
    """Rotary positions on the grid of the size that it was trained on, as its pipeline has them; else its sinusoids."""
    config = model.config
    if not config.use_rotary_positional_embeddings:
        return cogvideox_positions(model, shape, device)
    side, step = config.patch_size, config.patch_size_t
    grid = (shape[1] // side, shape[2] // side)
    base = (config.sample_height // side, config.sample_width // side)
    if step is None:
        box = centred(grid, base)
        return get_3d_rotary_pos_embed(config.attention_head_dim, box, grid, temporal_size=shape[0], device=device)
    return get_3d_rotary_pos_embed(
        config.attention_head_dim, None, grid, temporal_size=-(-shape[0] // step), grid_type="slice", max_size=base, device=device
    )


def centred(grid: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The largest box of the aspect of `grid` (rows, columns) that `base` holds, in its middle: (top, left), (bottom, right)."""
    scale = min(base[0] / grid[0], base[1] / grid[1])
    sizes = [round(side * scale) for side in grid]
    top, left = (round((outer - inner) / 2) for outer, inner in zip(base, sizes, strict=True))
    return (top, left), (top + sizes[0], left + sizes[1])


def dit_positions(model: Any, shape: Shape, device: torch.device) -> None:
    """The model's sinusoids become those of latents (1, H, W). As shipped, it makes those of another size anew in every call."""
    embed = model.pos_embed
    grid = (shape[1] // model.config.patch_size, shape[2] // model.config.patch_size)
    if grid == (embed.height, embed.width):
        return
    embed.height, embed.width = grid
    positions = get_2d_sincos_pos_embed(
        model.inner_dim, grid, base_size=embed.base_size, interpolation_scale=embed.interpolation_scale, device=device, output_type="pt"
    )
    embed.pos_embed = positions.float()[None]  # (1, H/p W/p, D)


OWN_CALLS: dict[str, Callable[[Any, Inputs, Tensor | None], Tensor]] = {
    "DiTTransformer2DModel": one_frame,
    "LatteTransformer3DModel": latte,
}
OWN_POSITIONS: dict[str, Callable[[Any, Shape, torch.device], Any]] = {
    **POSITIONS,
    "CogVideoXTransformer3DModel": cogvideox_own_positions,
    "DiTTransformer2DModel": dit_positions,
}
