"""The latent-diffusion video U-Net: names, sizes and shape rules. Knows no torch; `unet.py` is imported when a model is built.

Beside it the modern convolutional network, see `conv_config.py`.

The arrangement is Gen-1's (Esser et al., 2302.03011): the image U-Net of Stable Diffusion with a temporal convolution after
every spatial residual block and temporal attention after every spatial attention. UNet-L has the widths of ModelScope's video U-Net
(2308.06571) and Stable Diffusion; the smaller ones match a DiT at patch 2 in parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from baselines.conv_config import LADDER, ConvConfig
from bench.backbone import with_changes
from bench.shapes import LatentSpec, Shape, check_divisible, num_voxels

if TYPE_CHECKING:
    from baselines.unet import VideoUNet

# fmt: off
SIZES = {
    #      block channels          res blocks  head  norm groups  context
    "XS": ((32, 80),                        1,   16,           8,     256),
    "S":  ((64, 160, 256),                  2,   32,          32,     384),
    "B":  ((96, 192, 384, 384),             2,   32,          32,     768),
    "L":  ((320, 640, 1280, 1280),          2,   64,          32,    1024),
}
# fmt: on


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """One row of the ladder. Calling it with a `LatentSpec` builds the model."""

    ragged: ClassVar[bool] = False  # one shape a batch
    takes_known_frames: ClassVar[bool] = True
    takes_text: ClassVar[bool] = True
    block_channels: tuple[int, ...]  # width of each level, outermost first; each level halves height and width
    num_res_blocks: int  # residual blocks of a level on the way down; one more on the way up
    head_dim: int  # E, the width of one attention head
    norm_groups: int  # groups of every group norm
    context_width: int  # width of a token of context, and of a label's embedding

    def __post_init__(self) -> None:
        for channels in self.block_channels:
            for divisor, name in ((self.head_dim, "head_dim"), (self.norm_groups, "norm_groups")):
                if channels % divisor:
                    raise ValueError(f"block_channels {self.block_channels}: {channels} is not divisible by {name} {divisor}")

    def check(self, shape: Shape) -> None:
        """ValueError where latents (T, H, W) cannot be halved once a level. Any number of frames will do."""
        stride = 2 ** (len(self.block_channels) - 1)
        check_divisible("UNet", shape, (1, stride, stride))

    def num_tokens(self, shape: Shape) -> int:
        """Latent voxels T x H x W: a convolution visits each."""
        return num_voxels(shape)

    def canaries(self, spec: LatentSpec) -> dict[str, Callable[[], float]]:
        """Self-checks the harness runs in every cell of this backbone: name -> relative error, 0 when sound."""
        from baselines.twin import one_frame_gap

        return {"one frame equals the image twin": lambda: one_frame_gap(self, spec)}

    def configured(self, **changes: Any) -> UNetConfig:
        """The configuration with other fields. ValueError for a field that it lacks or a value of another type."""
        return with_changes(self, changes)

    def scaled(self, width: float, deeper: int, skew: float = 0.0) -> dict[str, Any]:
        """Changes that make it `width` times as wide and give each level `deeper` more residual blocks. ValueError below one.

        `skew` widens the innermost level by half of it and narrows the outermost by as much, those between in proportion.
        """
        if self.num_res_blocks + deeper < 1:
            raise ValueError(f"UNet of {self.num_res_blocks} residual blocks a level cannot have {-deeper} fewer")
        step = math.lcm(self.head_dim, self.norm_groups)
        last = max(1, len(self.block_channels) - 1)
        widths = [width * (1 + skew * (level / last - 0.5)) for level in range(len(self.block_channels))]
        channels = [max(step, step * round(wide * channels / step)) for wide, channels in zip(widths, self.block_channels, strict=True)]
        return {"block_channels": channels, "num_res_blocks": self.num_res_blocks + deeper}

    def __call__(self, spec: LatentSpec) -> VideoUNet:
        """The model for this latent space, freshly initialised from torch's global generator."""
        from baselines.unet import VideoUNet

        return VideoUNet(self, spec)


BACKBONES: dict[str, UNetConfig | ConvConfig] = {
    f"UNet-{size}": UNetConfig(
        block_channels=channels, num_res_blocks=num_res_blocks, head_dim=head_dim, norm_groups=norm_groups, context_width=context_width
    )
    for size, (channels, num_res_blocks, head_dim, norm_groups, context_width) in SIZES.items()
} | LADDER
