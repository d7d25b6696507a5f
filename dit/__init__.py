"""The patch transformer: names, sizes and shape rules. Knows no torch; `model.py` is imported when a model is built.

A name is `DiT-<size>/<patch>[t<frames>][-sincos]`:
    DiT-S/2          size S, one token per 2x2 latent voxels of one frame
    DiT-S/2t2        the same over two frames: a 2x2x2 tubelet per token
    DiT-S/2-sincos   sine-cosine positions, as in the paper, in place of rotary ones
    AR-S/2-frame     the same blocks, a clip generated frame by frame; other units: patch, 2f, 4f, clip (dit/units.py)
Sizes S to XL are those of DiT (Peebles & Xie, 2212.09748, table 1); XS is ours, for a machine without a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bench.backbone import with_changes
from bench.shapes import LatentSpec, Shape, check_divisible
from dit.units import NAMED, boxes, frames_of, unit_shape

if TYPE_CHECKING:
    from dit.autoregressive import Autoregressive
    from dit.model import DiT

# fmt: off
SIZES = {
    #      depth  hidden  heads
    "XS": (    6,    128,     4),
    "S":  (   12,    384,     6),
    "B":  (   12,    768,    12),
    "L":  (   24,   1024,    16),
    "XL": (   28,   1152,    16),
}
# fmt: on
PATCHES = (2, 4, 8)  # latent voxels per token, in height and in width
TUBELETS = (1, 2)  # latent frames per token
POSITIONS = ("rotary", "sincos")
FEW_HEADS = 6  # below which a model is sized by the width of its heads and not by their number


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """One row of the ladder. Calling it with a `LatentSpec` builds the model."""

    ragged: ClassVar[bool] = True  # any mix of shapes in one batch
    takes_known_frames: ClassVar[bool] = True
    takes_text: ClassVar[bool] = True
    depth: int  # transformer blocks
    hidden_size: int  # D
    num_heads: int  # K
    patch_size: Shape  # latent voxels per token (p_t, p_h, p_w)
    positions: str = "rotary"  # a key of POSITIONS
    mlp_ratio: int = 4  # width of the feed-forward layer / D

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise ValueError(f"unknown positions {self.positions!r}; use one of {', '.join(POSITIONS)}")
        if self.hidden_size % self.num_heads or self.head_dim % 2 or self.head_dim < 6:
            raise ValueError(
                f"hidden_size {self.hidden_size} over {self.num_heads} heads must give an even head width of at least 6: "
                "one rotated pair for each of the three axes"
            )
        if self.hidden_size % 4:
            raise ValueError(f"hidden_size {self.hidden_size} must be divisible by 4: a sine and a cosine for each of height and width")

    @property
    def head_dim(self) -> int:
        """E, the width of one head."""
        return self.hidden_size // self.num_heads

    def check(self, shape: Shape) -> None:
        """ValueError where latents (T, H, W) do not divide into patches."""
        check_divisible("DiT", shape, self.patch_size)

    def num_tokens(self, shape: Shape) -> int:
        """Tokens of one clip of latents (T, H, W): (T/p_t)(H/p_h)(W/p_w)."""
        return math.prod(size // patch for size, patch in zip(shape, self.patch_size, strict=True))

    def configured(self, **changes: Any) -> Self:
        """The configuration with other fields. ValueError for a field that it lacks or a value of another type."""
        return with_changes(self, changes)

    def scaled(self, width: float, deeper: int, skew: float = 0.0) -> dict[str, Any]:
        """Changes that make it `width` times as wide and `deeper` blocks deeper; it has no levels to skew. ValueError below one block."""
        if self.depth + deeper < 1:
            raise ValueError(f"DiT of {self.depth} blocks cannot have {-deeper} fewer")
        # Narrow models have too few heads for fine steps: there the heads get wider.
        few = self.num_heads < FEW_HEADS
        num_heads = self.num_heads if few else max(1, round(width * self.num_heads))
        head_dim = max(6, 2 * round(width * self.head_dim / 2)) if few else self.head_dim
        return {"depth": self.depth + deeper, "num_heads": num_heads, "hidden_size": num_heads * head_dim}

    def __call__(self, spec: LatentSpec) -> DiT | Autoregressive:
        """The model for this latent space, freshly initialised from torch's global generator."""
        from dit.model import DiT

        return DiT(self, spec)


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig(DiTConfig):
    """One row of the ladder of the models that generate a clip unit after unit."""

    ragged: ClassVar[bool] = False
    takes_known_frames: ClassVar[bool] = False
    takes_text: ClassVar[bool] = False  # they would have to reach the clean copy too
    unit: str = "frame"  # see dit/units.py

    def __post_init__(self) -> None:
        super().__post_init__()
        frames_of(self.unit)

    @property
    def generates_units(self) -> bool:
        """Whether a clip is more than one unit: else it is a DiT's, loss, sampling and all."""
        return self.unit != "clip"

    @property
    def unit_frames(self) -> int | None:
        """Frames of tokens in a unit; None for a patch and the whole clip."""
        return frames_of(self.unit)

    def unit_shape(self, shape: Shape) -> Shape:
        """Latent (T, H, W) of a unit of a clip of latents (T, H, W)."""
        return unit_shape(self.unit, shape, self.patch_size)

    def units(self, shape: Shape) -> list[tuple[slice, slice, slice]]:
        """Where the units of a clip of latents (T, H, W) lie, in the order in which they are generated."""
        return boxes(shape, self.unit_shape(shape))

    def check(self, shape: Shape) -> None:
        """ValueError where latents (T, H, W) do not divide into patches or units."""
        check_divisible("AR", shape, self.patch_size)
        self.unit_shape(shape)

    def canaries(self, spec: LatentSpec) -> dict[str, Callable[[], float]]:
        """Self-checks of a cell, name -> largest relative difference, which torch is imported for when they are called."""

        def clip() -> float:
            from dit.unit_twin import clip_gap

            return clip_gap(self, spec)

        def cache() -> float:
            from dit.unit_twin import cache_gap

            return cache_gap(self, spec)

        return {"unit = clip equals the DiT": clip} | ({"cached sampling equals the training pass": cache} if self.generates_units else {})

    def __call__(self, spec: LatentSpec) -> Autoregressive:
        """The model for this latent space, freshly initialised from torch's global generator."""
        from dit.autoregressive import Autoregressive

        return Autoregressive(self, spec)


def _ladder() -> dict[str, DiTConfig]:
    """Every name and its configuration. Tubelets and sine-cosine positions are variants of the plain patch, not of each other."""
    ladder: dict[str, DiTConfig] = {}
    for size, (depth, hidden_size, num_heads) in SIZES.items():
        for patch in PATCHES:
            variants = {f"t{frames}" if frames > 1 else "": (frames, "rotary") for frames in TUBELETS} | {"-sincos": (1, "sincos")}
            for suffix, (frames, positions) in variants.items():
                ladder[f"DiT-{size}/{patch}{suffix}"] = DiTConfig(
                    depth=depth, hidden_size=hidden_size, num_heads=num_heads, patch_size=(frames, patch, patch), positions=positions
                )
            for unit in NAMED:
                ladder[f"AR-{size}/{patch}-{unit}"] = AutoregressiveConfig(
                    depth=depth, hidden_size=hidden_size, num_heads=num_heads, patch_size=(1, patch, patch), unit=unit
                )
    return ladder


BACKBONES = _ladder()
