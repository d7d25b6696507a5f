"""The two bilinear resizes that video metrics are published with, by name: TensorFlow 1's, and the half-pixel one of torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Resize = Callable[[Tensor, int, int], Tensor]  # images (N, H, W, C), height, width


def resize_tf1(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize (N, H, W, C) float -> (N, height, width, C) as TensorFlow 1 does: no half-pixel centres, corners not aligned.

    Output i reads input i * H / height: lower = floor, upper = lower + 1 (at most H - 1), blended by the fraction. No antialiasing.
    """
    for dim, size in ((2, width), (1, height)):
        if images.shape[dim] == size:
            continue
        # In float32 as TensorFlow computes it: the rounding decides which pixel an exact grid point reads.
        ratio = np.float32(images.shape[dim]) / np.float32(size)
        source = torch.from_numpy(np.arange(size, dtype=np.float32) * ratio).to(images.device)
        lower = source.long()
        upper = (lower + 1).clamp_max(images.shape[dim] - 1)
        fraction = (source - lower).view(-1, *(1,) * (images.ndim - 1 - dim))
        low = images.index_select(dim, lower)
        images = images.index_select(dim, upper).sub_(low).mul_(fraction).add_(low)
    return images


def resize_half_pixel(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize (N, H, W, C) float -> (N, height, width, C): output i reads input (i + 1/2) H / height - 1/2. No antialiasing.

    What `interpolate(mode="bilinear", align_corners=False)` does, and so what most torch ports of FVD do.
    """
    if images.shape[1:3] == (height, width):
        return images
    planes = images.permute(0, 3, 1, 2)  # (N, C, H, W)
    return F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


# By the name a manifest of one's own gives it; the number is its version. Bump it when a value changes.
RESIZES: dict[str, Resize] = {
    "tf1-bilinear/1": resize_tf1,
    "half-pixel-bilinear/1": resize_half_pixel,
}
