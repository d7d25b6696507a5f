"""The modern convolutional network: names, sizes and shape rules. Knows no torch; `conv.py` is imported when a model is built.

Without attention, but with all else that a DiT has and the U-Net of 2022 has not: time and label shift, scale and gate every block from one
vector (adaLN-Zero), and all starts closed. So against a DiT it asks about convolution or attention alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.backbone import with_changes
from bench.shapes import LatentSpec, Shape, check_divisible, num_voxels

if TYPE_CHECKING:
    from baselines.conv import VideoConv

# Parameters are those of DiT-<size>/2 within 2 %.
# fmt: off
SIZES = {
    #       block channels        blocks
    "XS": ((64, 176),            (2, 4)),
    "S":  ((128, 256, 512),      (3, 3, 8)),
    "B":  ((256, 512, 1024),     (3, 3, 8)),
    "L":  ((352, 704, 1408),     (3, 4, 17)),
    "XL": ((384, 768, 1536),     (3, 4, 22)),
}
# fmt: on
STEP = 16  # widths are multiples of it: of the heads that attend to text, and of what a processor multiplies at once


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """One row of the ladder. Calling it with a `LatentSpec` builds the model."""

    ragged: ClassVar[bool] = False  # one shape a batch
    takes_known_frames: ClassVar[bool] = True
    takes_text: ClassVar[bool] = True
    block_channels: tuple[int, ...]  # width of each level, outermost first; each level halves height and width
    num_blocks: tuple[int, ...]  # of each level, on the way down and again on the way up; of the innermost, once
    expansion: int = 4  # width between the pointwise layers of a block / that of its level

    def __post_init__(self) -> None:
        if len(self.num_blocks) != len(self.block_channels):
            raise ValueError(f"num_blocks {self.num_blocks} and block_channels {self.block_channels} must have one number for each level")
        for channels in self.block_channels:
            if channels % STEP:
                raise ValueError(f"block_channels {self.block_channels}: {channels} is not divisible by {STEP}")

    @property
    def cond_width(self) -> int:
        """D of the vector of time and label: as in a DiT, the width of where most of the work is, the innermost level."""
        return self.block_channels[-1]

    def check(self, shape: Shape) -> None:
        """ValueError where latents (T, H, W) cannot be halved once a level. Any number of frames will do."""
        stride = 2 ** (len(self.block_channels) - 1)
        check_divisible("Conv", shape, (1, stride, stride))

    def num_tokens(self, shape: Shape) -> int:
        """Latent voxels T x H x W: a convolution visits each."""
        return num_voxels(shape)

    def canaries(self, spec: LatentSpec) -> dict[str, Callable[[], float]]:
        """Self-checks the harness runs in every cell of this backbone: name -> relative error, 0 when sound."""
        from baselines.conv_twin import one_frame_gap

        return {"one frame equals the image twin": lambda: one_frame_gap(self, spec)}

    def configured(self, **changes: Any) -> ConvConfig:
        """The configuration with other fields. ValueError for a field that it lacks or a value of another type."""
        return with_changes(self, changes)

    def scaled(self, width: float, deeper: int, skew: float = 0.0) -> dict[str, Any]:
        """Changes that make it `width` times as wide and give each level `deeper` more blocks. ValueError below one.

        `skew` widens the innermost level by half of it and narrows the outermost by as much, those between in proportion.
        """
        if min(self.num_blocks) + deeper < 1:
            raise ValueError(f"Conv of {self.num_blocks} blocks a level cannot have {-deeper} fewer")
        last = max(1, len(self.block_channels) - 1)
        widths = [width * (1 + skew * (level / last - 0.5)) for level in range(len(self.block_channels))]
        channels = [max(STEP, STEP * round(wide * each / STEP)) for wide, each in zip(widths, self.block_channels, strict=True)]
        return {"block_channels": channels, "num_blocks": [num + deeper for num in self.num_blocks]}

    def __call__(self, spec: LatentSpec) -> VideoConv:
        """The model for this latent space, freshly initialised from torch's global generator."""
        from baselines.conv import VideoConv

        return VideoConv(self, spec)


LADDER = {f"Conv-{size}": ConvConfig(block_channels=channels, num_blocks=num_blocks) for size, (channels, num_blocks) in SIZES.items()}
