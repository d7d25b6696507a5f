"""Extractors that must not win: a battery that they pass measures nothing.

`random3d` is what any 3-D network of its shape sees, with random weights: the baseline. It is also the stand-in where there are no
weights. `frame_mean` cannot see the order of frames.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.extractors.i3d import exact_float32
from bench.metrics.extractors.manifest import FRAME_MEAN, RANDOM3D, Manifest


class RandomNetwork(nn.Module):
    """Two layers of random filters, `first` (32, 3, ...) and `second` (64, 32, ...)."""

    def __init__(self, manifest: Manifest, first: tuple[int, ...], second: tuple[int, ...]):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in (("first", (32, 3, *first)), ("second", (64, 32, *second))):
            gain = (2 / math.prod(shape[1:])) ** 0.5  # keeps the variance through relu
            self.register_buffer(name, torch.randn(shape, generator=generator) * gain)
        digest = hashlib.sha256(b"".join(buffer.numpy().tobytes() for buffer in self.buffers())).hexdigest()
        if digest != manifest.weights_sha256:
            raise RuntimeError(f"{manifest.name} has weights {digest}, its manifest has others; this version of torch draws other numbers")


class Random3D(RandomNetwork):
    """Two random 3-D convolutions; mean and spread of 64 channels over the clip. A control, and a stand-in where there are no weights.

    What it scores well by is what any network of this shape sees, so an extractor worth its name must do better.
    """

    def __init__(self) -> None:
        super().__init__(RANDOM3D, (2, 5, 5), (2, 3, 3))

    @exact_float32()
    def forward(self, frames: Tensor) -> Tensor:
        clips = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, 3, T, H, W)
        x = F.conv3d(clips, self.get_buffer("first"), stride=(1, 2, 2), padding=(0, 2, 2)).relu_()  # (B, 32, T-1, H/2, W/2)
        x = F.conv3d(x, self.get_buffer("second"), stride=(1, 2, 2), padding=(1, 1, 1)).relu_()  # (B, 64, T, H/4, W/4)
        flat = x.flatten(2)  # (B, 64, T*H*W/16)
        return torch.cat([flat.mean(2), flat.std(2, correction=0)], dim=1)  # (B, 128)


class FrameMean(RandomNetwork):
    """Two random 2-D convolutions on every frame alone, then the mean over time: it cannot tell one order of the frames from another.

    What a frame-wise quality score sees of a clip. It must fail the battery's full shuffle, where its distance is the floor.
    """

    def __init__(self) -> None:
        super().__init__(FRAME_MEAN, (5, 5), (3, 3))

    @exact_float32()
    def forward(self, frames: Tensor) -> Tensor:
        images = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1  # (B*T, 3, H, W)
        x = F.conv2d(images, self.get_buffer("first"), stride=2, padding=2).relu_()  # (B*T, 32, H/2, W/2)
        x = F.conv2d(x, self.get_buffer("second"), stride=2, padding=1).relu_()  # (B*T, 64, H/4, W/4)
        flat = x.flatten(2)  # (B*T, 64, H*W/16)
        per_frame = torch.cat([flat.mean(2), flat.std(2, correction=0)], dim=1).unflatten(0, frames.shape[:2])  # (B, T, 128)
        return per_frame.sort(dim=1).values.mean(1)  # (B, 128); sorted, so that rounding does not see the order either
