"""A 3x3x3 convolution on a CPU with half the multiplications: Winograd's F(4, 3) along time, a direct convolution in space.

Four output frames of a three-tap filter need six products of transformed frames instead of twelve, two need four instead of six
(Lavin and Gray, 1509.09308, section 4.1):  y = A^T [(G g) * (B^T d)].  Every product here is a 1x3x3 convolution over space. The
transforms are small matrix products over whole frames and cost a pass over memory each, so it pays for many channels only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_CHANNELS = 64  # fewer input channels leave too little work to pay for the extra passes over memory
MIN_FRAMES = 4


@dataclass(frozen=True)
class Tile:
    """F(m, 3): m outputs of n = m + 2 inputs."""

    inputs: Tensor  # B^T (n, n)
    filters: Tensor  # G (n, 3), float64
    outputs: Tensor  # A^T (m, n)


TILES = {
    2: Tile(
        torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
        torch.tensor([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]], dtype=torch.float64),
        torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]]),
    ),
    4: Tile(
        torch.tensor(
            [
                [4.0, 0, -5, 0, 1, 0],
                [0, -4, -4, 1, 1, 0],
                [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0],
                [0, 2, -1, -2, 1, 0],
                [0, 4, 0, -5, 0, 1],
            ]
        ),
        torch.tensor(
            [
                [1 / 4, 0, 0],
                [-1 / 6, -1 / 6, -1 / 6],
                [-1 / 6, 1 / 6, -1 / 6],
                [1 / 24, 1 / 12, 1 / 6],
                [1 / 24, -1 / 12, 1 / 6],
                [0, 0, 1],
            ],
            dtype=torch.float64,
        ),
        torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
    ),
}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int]) -> Tensor:
    """`conv3d` at stride 1 by oneDNN where there is one: torch sends small single clips to a reference loop, several times slower."""
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, (1, 1, 1), (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, padding=padding)


def tile_frames(num_frames: int) -> int:
    """Outputs of a tile: 4, unless that leaves more than one frame of the last tile unused."""
    return 4 if -num_frames % 4 <= 1 else 2


def transform(weight: Tensor, size: int) -> Tensor:
    """Filters (O, I, 3, 3, 3) -> those of the products, (n, O, I, 1, 3, 3), each channels-last."""
    products = torch.einsum("ns,oishw->nohwi", TILES[size].filters, weight.double()).float().contiguous()
    return products.permute(0, 1, 4, 2, 3).unsqueeze(3)


def convolve_3x3x3(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Clips (B, I, T, H, W), filters from `transform` -> (B, O, T, H, W) of a "same" convolution, both channels-last."""
    size = len(weights) - 2
    tile, (num_clips, _, num_frames, height, width) = TILES[size], x.shape
    num_tiles = -(-num_frames // size)
    frames = F.pad(x, (0, 0, 0, 0, 1, 1 + num_tiles * size - num_frames)).permute(0, 2, 3, 4, 1)  # (B, T', H, W, I)
    places = [(clip, index) for clip in range(num_clips) for index in range(num_tiles)]
    seen = x.new_empty((size + 2, num_clips, num_tiles, height, width, frames.shape[-1]))
    for clip, index in places:
        window = frames[clip, index * size : (index + 1) * size + 2]  # (n, H, W, I)
        torch.mm(tile.inputs, window.flatten(1), out=seen[:, clip, index].flatten(1))
    products = x.new_empty((size + 2, num_clips, num_tiles, height, width, weights.shape[1]))
    for product, shown, weight in zip(products, seen, weights, strict=True):
        product.copy_(convolve(shown.permute(0, 4, 1, 2, 3), weight, None, (0, 1, 1)).permute(0, 2, 3, 4, 1))
    out = x.new_empty((num_clips, num_tiles * size, height, width, weights.shape[1]))
    for clip, index in places:
        torch.mm(tile.outputs, products[:, clip, index].flatten(1), out=out[clip, index * size : (index + 1) * size].flatten(1))
    return out.add_(bias).permute(0, 4, 1, 2, 3)[:, :, :num_frames]
