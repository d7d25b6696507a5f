"""How each class of diffusers is called: the order of its axes, and what else its forward wants. As its own pipeline does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import (
    get_1d_sincos_pos_embed_from_grid,
    get_2d_sincos_pos_embed,
    get_3d_rotary_pos_embed,
    get_3d_rotary_pos_embed_allegro,
)
from torch import Tensor
from torch.fx.experimental import _config as tracing

from bench.shapes import Shape

FRAMES_PER_SECOND = 25  # of every clip, in the eyes of LTX
IMAGE_TO_VIDEO = (6.0, 127.0, 0.02)  # frame rate less 1, motion, noise on the image: what SVD's pipeline passes if it is told nothing


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What there is to call a class with."""

    clips: Tensor  # (B, C, T, H, W)
    timesteps: Tensor  # (B,) in [0, 1000]
    context: Tensor  # (B, 2, context width)
    pooled: Tensor | None  # (B, pooled width)
    positions: Any  # what POSITIONS made for this shape
    strides: Shape  # frames and pixels of a latent voxel


def plain(model: Any, inputs: Inputs, **more: Any) -> Tensor:
    """(B, C, T, H, W), time and text, and what else a class wants."""
    given = {"hidden_states": inputs.clips, "timestep": inputs.timesteps, "encoder_hidden_states": inputs.context}
    return model(**{**given, **more}, return_dict=False)[0]


def rotated(model: Any, inputs: Inputs) -> Tensor:
    """Allegro: rotary positions are handed in."""
    return plain(model, inputs, image_rotary_emb=inputs.positions)


def frames_first(model: Any, inputs: Inputs) -> Tensor:
    """CogVideoX and its kin: frames before channels, (B, T, C, H, W), and positions handed in if they are rotary."""
    return plain(model, inputs, hidden_states=inputs.clips.transpose(1, 2), image_rotary_emb=inputs.positions).transpose(1, 2)


def valid(inputs: Inputs) -> Tensor:
    """That all tokens of text are, (B, 2)."""
    return torch.ones(inputs.context.shape[:2], dtype=torch.bool, device=inputs.context.device)


def hunyuan(model: Any, inputs: Inputs) -> Tensor:
    """Text as tokens, all of them valid, and as one vector."""
    return plain(model, inputs, encoder_attention_mask=valid(inputs), pooled_projections=inputs.pooled)


def mochi(model: Any, inputs: Inputs) -> Tensor:
    """Text as tokens, all of them valid: its attention looks for those that are, which needs values, and `meta` has none."""
    with tracing.patch(meta_nonzero_assume_all_nonzero=inputs.clips.is_meta):  # type: ignore[attr-defined]
        return plain(model, inputs, encoder_attention_mask=valid(inputs))


def ltx(model: Any, inputs: Inputs) -> Tensor:
    """Takes and gives patches (B, N, C p_t p_h p_w), and places them in seconds and pixels."""
    p_t, p = model.config.patch_size_t, model.config.patch_size
    batch, channels, frames, height, width = inputs.clips.shape
    grid = (frames // p_t, height // p, width // p)
    patches = inputs.clips.reshape(batch, channels, grid[0], p_t, grid[1], p, grid[2], p)
    patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)  # (B, N, P)
    patches = plain(
        model,
        inputs,
        hidden_states=patches,
        encoder_attention_mask=None,
        num_frames=grid[0],
        height=grid[1],
        width=grid[2],
        rope_interpolation_scale=(inputs.strides[0] / FRAMES_PER_SECOND, *inputs.strides[1:]),
    )
    prediction = patches.reshape(batch, *grid, channels, p_t, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return prediction.reshape(inputs.clips.shape)


def unet3d(model: Any, inputs: Inputs) -> Tensor:
    """ModelScope's U-Net: the label is also added to time."""
    return model(inputs.clips, inputs.timesteps, inputs.context, timestep_cond=inputs.pooled, return_dict=False)[0]


def motion(model: Any, inputs: Inputs) -> Tensor:
    """AnimateDiff's U-Net: its text is that of each frame."""
    context = inputs.context.repeat_interleave(inputs.clips.shape[2], dim=0)  # (B T, 2, context width)
    return model(inputs.clips, inputs.timesteps, context, timestep_cond=inputs.pooled, return_dict=False)[0]


def spatio_temporal(model: Any, inputs: Inputs) -> Tensor:
    """Stable Video Diffusion's U-Net: frames before channels, and three numbers about the clip."""
    about = torch.tensor(IMAGE_TO_VIDEO, device=inputs.clips.device).expand(len(inputs.clips), -1)  # (B, 3)
    frames_first = inputs.clips.transpose(1, 2)  # (B, T, C, H, W)
    return model(frames_first, inputs.timesteps, inputs.context, added_time_ids=about, return_dict=False)[0].transpose(1, 2)


def allegro_positions(model: Any, shape: Shape, device: torch.device) -> Any:
    """Rotary tables of each axis, and the index of every token of latents (T, H, W) on it, (3, 1, N)."""
    frames, height, width = _grid(model, shape)
    config = model.config
    *tables, grid_t, grid_h, grid_w = get_3d_rotary_pos_embed_allegro(
        embed_dim=config.attention_head_dim,
        crops_coords=((0, 0), (height, width)),
        grid_size=(height, width),
        temporal_size=frames,
        interpolation_scale=(config.interpolation_scale_t, config.interpolation_scale_h, config.interpolation_scale_w),
        device=device,
    )
    index = torch.cartesian_prod(*(axis.to(torch.long) for axis in (grid_t, grid_h, grid_w)))  # (N, 3)
    return tuple(tables), tuple(index.T.reshape(3, 1, -1))


def cogvideox_positions(model: Any, shape: Shape, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Rotary positions of latents (T, H, W), each (N, E); or None, once the model's own sinusoids are those of this shape.

    As shipped, a model for clips of another size than its configuration's makes its sinusoids anew in every call.
    """
    frames, height, width = _grid(model, shape)
    if model.config.use_rotary_positional_embeddings:
        return get_3d_rotary_pos_embed(
            model.config.attention_head_dim, ((0, 0), (height, width)), (height, width), temporal_size=frames, device=device
        )
    embed = model.patch_embed
    embed.sample_frames = (shape[0] - 1) * embed.temporal_compression_ratio + 1
    _, embed.sample_height, embed.sample_width = shape
    sizes = embed.sample_height, embed.sample_width, (frames - 1) * embed.temporal_compression_ratio + 1
    embed.pos_embedding = embed._get_positional_embeddings(*sizes, device=device)
    return None


def latte_positions(model: Any, shape: Shape, device: torch.device) -> None:
    """The model's sinusoids become those of latents (T, H, W). As shipped, it takes one number of frames, and makes others anew."""
    frames, height, width = _grid(model, shape)
    embed, channels = model.pos_embed, model.proj_out.in_features
    embed.height, embed.width = height, width
    spatial = get_2d_sincos_pos_embed(
        channels, (height, width), base_size=embed.base_size, interpolation_scale=embed.interpolation_scale, device=device, output_type="pt"
    )
    embed.pos_embed = spatial.float()[None]  # (1, H/p W/p, D)
    index = torch.arange(frames, device=device)[:, None]
    model.temp_pos_embed = get_1d_sincos_pos_embed_from_grid(channels, index, output_type="pt").float()[None]  # (1, T, D)


def mochi_positions(model: Any, shape: Shape, device: torch.device) -> None:
    """The model's learnt rotary angles, by products that no autocast rounds: as shipped it opens one, which `meta` has not."""

    def rotations(frequencies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Frequencies (3, K, E/2) and positions (N, 3) -> cosine and sine, each (N, K, E/2)."""
        angles = (positions.float()[:, :, None, None] * frequencies.float()).sum(dim=1)
        return angles.cos(), angles.sin()

    model.rope._create_rope = rotations


def _grid(model: Any, shape: Shape) -> Shape:
    """Tokens on each axis of latents (T, H, W)."""
    frames, height, width = shape
    patch = model.config.patch_size
    return frames // (getattr(model.config, "patch_size_t", None) or 1), height // patch, width // patch


# Of the classes that `plain` does not suit.
CALLS: dict[str, Callable[[Any, Inputs], Tensor]] = {
    "AllegroTransformer3DModel": rotated,
    "CogVideoXTransformer3DModel": frames_first,
    "ConsisIDTransformer3DModel": frames_first,
    "HunyuanVideoTransformer3DModel": hunyuan,
    "LTXVideoTransformer3DModel": ltx,
    "MochiTransformer3DModel": mochi,
    "UNet3DConditionModel": unet3d,
    "UNetMotionModel": motion,
    "UNetSpatioTemporalConditionModel": spatio_temporal,
}

# Of the classes whose positions are made outside of them, or in a way that costs time in every call or does not run everywhere.
POSITIONS: dict[str, Callable[[Any, Shape, torch.device], Any]] = {
    "AllegroTransformer3DModel": allegro_positions,
    "CogVideoXTransformer3DModel": cogvideox_positions,
    "ConsisIDTransformer3DModel": cogvideox_positions,
    "LatteTransformer3DModel": latte_positions,
    "MochiTransformer3DModel": mochi_positions,
}
