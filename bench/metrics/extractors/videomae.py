"""VideoMAE-v2-g fine-tuned on Something-Something v2, the extractor of content-debiased FVD (Ge et al., 2404.12391), with torch only.

What cd-fvd does (songweige/content-debiased-fvd, cdfvd/third_party/VideoMAEv2 and cdfvd/fvd.py), and so what this does:
frames stretched to 224x224 by half-pixel bilinear, in [0, 1] with no further normalisation; ViT-giant/14, tubelets of two frames; one
sinusoid over the index of all tokens (not one for each axis); the mean over tokens, then a layer norm: 1408 features before the head.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from bench.metrics.extractors.i3d import exact_float32
from bench.metrics.extractors.resize import resize_half_pixel
from bench.metrics.extractors.vit import LAYER_NORM_EPS, VideoViT, ViTConfig, interpolate_positions, load_exactly, part, read_checkpoint
from bench.metrics.weights import table as weights

GIANT = ViTConfig(patch_size=14, hidden_size=1408, depth=40, num_heads=16, mlp_size=6144, split_bias=True)


def preprocess(frames: Tensor, size: int) -> Tensor:
    """Frames (B, T, H, W, 3) uint8 -> clips (B, 3, T, size, size) in [0, 1]."""
    scaled = resize_half_pixel(frames.flatten(0, 1).float() / 255, size, size)
    return scaled.unflatten(0, frames.shape[:2]).permute(0, 4, 1, 2, 3)


def sinusoid(num_tokens: int, hidden_size: int) -> Tensor:
    """(1, N, D): sin at even and cos at odd features of index / 10000^(2 floor(j / 2) / D), in float64, then float32."""
    index = torch.arange(num_tokens, dtype=torch.float64)[:, None]
    feature = torch.arange(hidden_size)
    angle = index / 10000 ** (2 * (feature // 2).double() / hidden_size)
    return torch.where(feature % 2 == 0, angle.sin(), angle.cos()).float()[None]


class VideoMAE(VideoViT):
    """Clips (B, 3, T, S, S) in [0, 1] -> features (B, D)."""

    positions: Tensor

    def __init__(self, config: ViTConfig = GIANT):
        super().__init__(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(config.hidden_size, config.num_classes)
        self.register_buffer("positions", sinusoid(config.num_tokens, config.hidden_size), persistent=False)

    @exact_float32()
    def forward(self, clips: Tensor) -> Tensor:
        num_steps = clips.shape[2] // self.config.tubelet_frames
        # The authors add 0.1 against rounding, which moves the interpolated positions a little.
        scale = (num_steps + 0.1) / self.config.grid[0]
        positions = interpolate_positions(self.positions, self.config.grid, num_steps, scale)
        return self.fc_norm(self.tokens(clips, positions).mean(1))


def load_videomae(device: str | torch.device, file: Path | None = None, config: ViTConfig = GIANT) -> VideoMAE:
    """The network with its weights: the verified ones of the cache, or `file`, a checkpoint of the same format. WeightsError otherwise."""
    file = weights.files("videomae")[0] if file is None else file
    with torch.device("meta"):
        network = VideoMAE(config)
    load_exactly(network, part(read_checkpoint(file), file, ("model", "module")), file)
    network.positions = sinusoid(config.num_tokens, config.hidden_size)
    return network.to(device).eval()
