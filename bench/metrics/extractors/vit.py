"""A plain video vision transformer, named as in the checkpoints of VideoMAE and V-JEPA: clips in, tokens out. Knows no files.

Tubelet embedding, positions added once, pre-norm blocks of attention and a GELU MLP (Dosovitskiy et al., 2010.11929; 2 x p x p
tubelets: Tong et al., 2203.12602).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.weights.cache import WeightsError
from bench.shapes import Refusal, check_shape

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of a video ViT."""

    size: int = 224  # height and width of a frame
    patch_size: int
    tubelet_frames: int = 2
    num_frames: int = 16  # that positions were made for; other numbers interpolate them
    hidden_size: int
    depth: int
    num_heads: int
    mlp_size: int
    num_classes: int = 174  # of SSv2, for a head that is in the file and unused
    split_bias: bool  # attention has biases for queries and values, none for keys, named apart: VideoMAE's

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        side = self.size // self.patch_size
        return self.num_frames // self.tubelet_frames, side, side

    @property
    def num_tokens(self) -> int:
        """N of a clip with `num_frames`."""
        frames, height, width = self.grid
        return frames * height * width


class VitAttention(nn.Module):
    """Self-attention over all tokens of a clip, (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        hidden = config.hidden_size
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=not config.split_bias)
        if config.split_bias:
            self.q_bias = nn.Parameter(torch.zeros(hidden))
            self.v_bias = nn.Parameter(torch.zeros(hidden))
        self.split_bias = config.split_bias
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias]) if self.split_bias else self.qkv.bias
        query, key, value = heads(F.linear(x, self.qkv.weight, bias), self.num_heads, 3)  # each (B, K, N, E)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def heads(x: Tensor, num_heads: int, parts: int) -> tuple[Tensor, ...]:
    """(B, N, parts x K x E) -> `parts` of (B, K, N, E)."""
    return x.unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Mlp(nn.Module):
    """(B, N, D) -> (B, N, D), exact GELU between."""

    def __init__(self, hidden_size: int, mlp_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, mlp_size)
        self.fc2 = nn.Linear(mlp_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VitBlock(nn.Module):
    """(B, N, D) -> (B, N, D): x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.attn = VitAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(config.hidden_size, config.mlp_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VideoViT(nn.Module):
    """Clips (B, 3, T, S, S) -> tokens (B, N, D) before the last norm, which is the caller's."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        window = (config.tubelet_frames, config.patch_size, config.patch_size)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, config.hidden_size, window, stride=window)})
        self.blocks = nn.ModuleList(VitBlock(config) for _ in range(config.depth))

    def tokens(self, clips: Tensor, positions: Tensor) -> Tensor:
        """`positions` (1, N, D) as for `num_frames` frames, already of the clips' length."""
        size, step = self.config.size, self.config.tubelet_frames
        check_shape("clips", clips, (None, 3, None, size, size))
        if clips.shape[2] % step:
            raise Refusal(f"a video ViT takes frames in groups of {step}, got {clips.shape[2]}; use {clips.shape[2] // step * step}")
        x = self.patch_embed["proj"](clips).flatten(2).transpose(1, 2) + positions  # frames outermost, then rows
        for block in self.blocks:
            x = block(x)
        return x


def interpolate_positions(positions: Tensor, grid: tuple[int, int, int], num_steps: int, scale: float) -> Tensor:
    """Positions (1, N, D) on `grid` -> (1, N', D) with `num_steps` along time: trilinear, half-pixel, at the `scale` the authors use."""
    if num_steps == grid[0]:
        return positions
    volume = positions.unflatten(1, grid).permute(0, 4, 1, 2, 3)  # (1, D, T, H, W)
    volume = F.interpolate(volume, scale_factor=(scale, 1, 1), mode="trilinear", align_corners=False)
    assert volume.shape[2] == num_steps
    return volume.flatten(2).transpose(1, 2)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of tensors in plain containers. WeightsError for every other file; its code is not run."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged file can fail anywhere in the reader of torch, and all of it means one thing
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise WeightsError(f"refused to read {file}: not a checkpoint that holds tensors only ({reason})") from error
    if not isinstance(checkpoint, dict):
        raise WeightsError(f"{file} holds {type(checkpoint).__name__}, expected a dict of tensors")
    return checkpoint


def part(checkpoint: Mapping[str, Any], file: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The first of `names` that the checkpoint has. WeightsError listing what it has where it has none."""
    for name in names:
        if isinstance(checkpoint.get(name), dict):
            return checkpoint[name]
    raise WeightsError(f"{file} has none of {', '.join(names)}; it has {', '.join(sorted(map(str, checkpoint))[:8]) or 'nothing'}")


def load_exactly(network: nn.Module, tensors: Mapping[str, Any], file: Path) -> None:
    """Loads `tensors` into `network` as float32. WeightsError naming every key that is missing, left over or of another shape."""
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{file} is not a checkpoint of this network: {' '.join(str(error).split())}") from error
    network.float()
