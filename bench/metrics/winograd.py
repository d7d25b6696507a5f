"""A 3x3x3 convolution on a CPU with a third fewer multiplications: Winograd's F(2, 3) along time, a direct convolution in space.

Two output frames of a three-tap filter g need four products of the input frames d instead of six (Lavin and Gray, 1509.09308, eq. 5):
    m1 = (d0 - d2) g0,  m2 = (d1 + d2)(g0 + g1 + g2)/2,  m3 = (d2 - d1)(g0 - g1 + g2)/2,  m4 = (d1 - d3) g2
    y0 = m1 + m2 + m3,  y1 = m2 - m3 - m4
Every product here is a 1x3x3 convolution. Adding frames costs a pass over memory, so it pays for many channels only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_CHANNELS = 64  # fewer input channels leave too little work to pay for the extra passes over memory
MIN_FRAMES = 4


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int]) -> Tensor:
    """`conv3d` at stride 1 by oneDNN where there is one: torch sends small single clips to a reference loop, several times slower."""
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, (1, 1, 1), (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, padding=padding)


def transform(weight: Tensor) -> Tensor:
    """Filters (O, I, 3, 3, 3) -> the four of the products, (4, O, I, 1, 3, 3), each channels-last."""
    first, middle, last = weight.double().unbind(2)
    products = (first, (first + middle + last) / 2, (first - middle + last) / 2, last)
    laid_out = torch.stack([product.float().permute(0, 2, 3, 1) for product in products])  # (4, O, 3, 3, I)
    return laid_out.permute(0, 1, 4, 2, 3).unsqueeze(3)


def convolve_3x3x3(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Clips (B, I, T, H, W), filters from `transform` -> (B, O, T, H, W) of a "same" convolution, both channels-last."""
    num_frames = x.shape[2]
    padded = F.pad(x, (0, 0, 0, 0, 1, 1 + num_frames % 2))  # one frame either side, and one more to make pairs
    d0, d1, d2, d3 = padded[:, :, :-3:2], padded[:, :, 1:-2:2], padded[:, :, 2:-1:2], padded[:, :, 3::2]
    m1 = convolve(d0 - d2, weights[0], None, (0, 1, 1))
    m2 = convolve(d1 + d2, weights[1], bias, (0, 1, 1))  # the bias enters both outputs here
    m3 = convolve(d2 - d1, weights[2], None, (0, 1, 1))
    m4 = convolve(d1 - d3, weights[3], None, (0, 1, 1))
    batch, channels, pairs, height, width = m1.shape
    frames = x.new_empty((batch, pairs, 2, height, width, channels)).permute(0, 5, 1, 2, 3, 4)  # (B, O, T/2, 2, H, W)
    torch.add(m1.add_(m2), m3, out=frames[:, :, :, 0])
    torch.sub(m2.sub_(m3), m4, out=frames[:, :, :, 1])
    return frames.flatten(2, 3)[:, :, :num_frames]
