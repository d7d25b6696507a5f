"""Extractors that must not win: a battery that they pass measures nothing.

`random3d` is what any 3-D network of its shape sees, with random weights. It is also the stand-in where there are no weights.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.i3d import exact_float32
from bench.metrics.manifest import RANDOM3D


class Random3D(nn.Module):
    """Two random 3-D convolutions; mean and spread of 64 channels over the clip. A control, and a stand-in where there are no weights.

    What it scores well by is what any network of this shape sees, so an extractor worth its name must do better.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("first", (32, 3, 2, 5, 5)), ("second", (64, 32, 2, 3, 3))):
            fan_in = shape[1] * shape[2] * shape[3] * shape[4]
            self.register_buffer(name, torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5)  # keeps the variance through relu

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        clips = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, 3, T, H, W)
        with exact_float32(), torch.autocast(frames.device.type, enabled=False):
            x = F.conv3d(clips, self.get_buffer("first"), stride=(1, 2, 2), padding=(0, 2, 2)).relu_()  # (B, 32, T-1, H/2, W/2)
            x = F.conv3d(x, self.get_buffer("second"), stride=(1, 2, 2), padding=(1, 1, 1)).relu_()  # (B, 64, T, H/4, W/4)
        flat = x.flatten(2)  # (B, 64, T*H*W/16)
        return torch.cat([flat.mean(2), flat.std(2, correction=0)], dim=1)  # (B, 128)

    def weights_sha256(self) -> str:
        """Hash of the random weights: another version of torch may draw others."""
        return hashlib.sha256(b"".join(buffer.cpu().numpy().tobytes() for buffer in self.buffers())).hexdigest()


def random3d() -> Random3D:
    """The control. RuntimeError where this torch draws other random weights than its manifest names."""
    network = Random3D()
    if (digest := network.weights_sha256()) != RANDOM3D.weights_sha256:
        raise RuntimeError(
            f"random3d has weights {digest[:12]}, its manifest says {RANDOM3D.weights_sha256[:12]}; torch draws other numbers"
        )
    return network
