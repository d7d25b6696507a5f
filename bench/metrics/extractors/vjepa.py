"""V-JEPA ViT-H/16 and its attentive SSv2 probe, the extractor of JEDi (Luo et al., 2410.05203), with torch only.

What JEDi does (oooolga/JEDi, videojedi/V_JEPA.py with the evaluation config vith16_ssv2_16x2x3): the target encoder of `vith16.pth.tar`,
all tokens through its last norm, then the pooler of `ssv2-probe.pth.tar`, one query that attends to them: 1280 features. Frames in
[0, 1], normalised as ImageNet's. JEDi takes frames of any size and interpolates positions in space; here frames are stretched to the
224x224 the network was trained at, by half-pixel bilinear. Its distance is a polynomial MMD of degree 2 without a constant, x 100.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.extractors.i3d import exact_float32
from bench.metrics.extractors.videomae import preprocess as to_unit_range
from bench.metrics.extractors.vit import (
    LAYER_NORM_EPS,
    Mlp,
    VideoViT,
    ViTConfig,
    heads,
    interpolate_positions,
    load_exactly,
    part,
    read_checkpoint,
)
from bench.metrics.weights import table as weights

HUGE = ViTConfig(patch_size=16, hidden_size=1280, depth=32, num_heads=16, mlp_size=5120, split_bias=False)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red, green, blue


def preprocess(frames: Tensor, size: int) -> Tensor:
    """Frames (B, T, H, W, 3) uint8 -> clips (B, 3, T, size, size), normalised as ImageNet's."""
    mean, std = (torch.tensor(values, device=frames.device).view(1, 3, 1, 1, 1) for values in (MEAN, STD))
    return (to_unit_range(frames, size) - mean) / std


class Encoder(VideoViT):
    """Clips (B, 3, T, S, S) -> tokens (B, N, D). Positions come with the file: fixed sinusoids of frame, row and column."""

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, config.hidden_size), requires_grad=False)
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, clips: Tensor) -> Tensor:
        num_steps = clips.shape[2] // self.config.tubelet_frames
        positions = interpolate_positions(self.pos_embed, self.config.grid, num_steps, num_steps / self.config.grid[0])
        return self.norm(self.tokens(clips, positions))


class CrossAttention(nn.Module):
    """Queries (B, Q, D) attend to tokens (B, N, D)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        hidden = config.hidden_size
        self.num_heads = config.num_heads
        self.q = nn.Linear(hidden, hidden)
        self.kv = nn.Linear(hidden, 2 * hidden)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        (query,) = heads(self.q(queries), self.num_heads, 1)
        key, value = heads(self.kv(tokens), self.num_heads, 2)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class CrossAttentionBlock(nn.Module):
    """Queries (B, Q, D), tokens (B, N, D) -> (B, Q, D). The tokens are normed, the queries are not. torch's layer norm eps, 1e-5."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.xattn = CrossAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.mlp = Mlp(config.hidden_size, 4 * config.hidden_size)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        queries = queries + self.xattn(queries, self.norm1(tokens))
        return queries + self.mlp(self.norm2(queries))


class Pooler(nn.Module):
    """Tokens (B, N, D) -> features (B, D): what one learned query reads."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.cross_attention_block = CrossAttentionBlock(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.cross_attention_block(self.query_tokens.expand(len(tokens), -1, -1), tokens)[:, 0]


class VJEPA(nn.Module):
    """Clips (B, 3, T, S, S), normalised -> features (B, D)."""

    def __init__(self, config: ViTConfig = HUGE):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.probe = nn.ModuleDict({"pooler": Pooler(config), "linear": nn.Linear(config.hidden_size, config.num_classes)})

    @exact_float32()
    def forward(self, clips: Tensor) -> Tensor:
        return self.probe["pooler"](self.encoder(clips))


def stripped(tensors: dict[str, Any]) -> dict[str, Any]:
    """Keys without what the authors' wrappers put before them: `module.` of data parallelism, then `backbone.` of masking."""
    return {name.removeprefix("module.").removeprefix("backbone."): tensor for name, tensor in tensors.items()}


def load_vjepa(device: str | torch.device, files: tuple[Path, Path] | None = None, config: ViTConfig = HUGE) -> VJEPA:
    """The network with its weights: the verified ones of the cache, or `files`, encoder and probe of the same format."""
    encoder, probe = weights.files("vjepa") if files is None else files
    with torch.device("meta"):
        network = VJEPA(config)
    load_exactly(network.encoder, stripped(part(read_checkpoint(encoder), encoder, ("target_encoder", "encoder"))), encoder)
    load_exactly(network.probe, stripped(part(read_checkpoint(probe), probe, ("classifier",))), probe)
    return network.to(device).eval()
