"""Units of a clip: what an autoregressive backbone generates one after another, and what that costs in calls. Knows no torch.

A unit is a box of latent voxels, and a run of tokens in raster order (t, h, w):
    patch    one token
    frame    one frame of tokens
    2f, 4f   so many frames of tokens
    clip     all of them: full-sequence diffusion
"""

from __future__ import annotations

import itertools
import math
import re
from typing import NamedTuple

from bench.shapes import Refusal, Shape, nearest_multiples

NAMED = ("patch", "frame", "2f", "4f", "clip")  # units with a name on the ladder; any other number of frames is a change of it


class Counts(NamedTuple):
    """What generating a clip takes."""

    calls: int  # of the network, one after another
    tokens: int  # that went through it


def frames_of(unit: str) -> int | None:
    """Frames of tokens in a unit, None for a patch and the whole clip. Refusal for a word that is no unit.

    >>> frames_of("frame"), frames_of("4f"), frames_of("clip")
    (1, 4, None)
    """
    if unit in ("patch", "clip"):
        return None
    if unit == "frame":
        return 1
    if not re.fullmatch(r"[1-9][0-9]{0,5}f", unit):
        raise Refusal(f"unknown unit {unit!r}; use patch, frame, clip or a number of frames such as 2f")
    return int(unit[:-1])


def unit_shape(unit: str, shape: Shape, patch_size: Shape) -> Shape:
    """Latent (T, H, W) of a unit of a clip of latents `shape`, which patches divide. Refusal where the unit does not divide the clip.

    >>> unit_shape("2f", (4, 6, 6), (1, 2, 2))
    (2, 6, 6)
    """
    if unit == "patch":
        return patch_size
    if unit == "clip":
        return shape
    frames = (frames_of(unit) or 1) * patch_size[0]
    if shape[0] % frames:
        raise Refusal(
            f"unit {unit!r} needs latent frames divisible by {frames}, got {shape[0]} (latents {shape}); "
            f"{nearest_multiples(shape[0], frames)}, or another unit"
        )
    return (frames, shape[1], shape[2])


def boxes(shape: Shape, size: Shape) -> list[tuple[slice, slice, slice]]:
    """Where each unit of latent `size` lies in a clip of latents `shape`, in the order in which they are generated: t, then h, then w."""
    starts = itertools.product(*(range(0, whole, part) for whole, part in zip(shape, size, strict=True)))
    return [(slice(t, t + size[0]), slice(h, h + size[1]), slice(w, w + size[2])) for t, h, w in starts]


def generating(num_tokens: int, num_units: int, num_steps: int) -> Counts:
    """Calls and tokens of a clip: each unit is denoised in `num_steps`, and all but the last go through once more, clean, for the cache.

    >>> generating(90, 10, 25)
    Counts(calls=259, tokens=2331)
    """
    return Counts(num_units * num_steps + num_units - 1, num_tokens * num_steps + num_tokens - num_tokens // num_units)


def num_units(shape: Shape, size: Shape) -> int:
    """Units of latent `size` in a clip of latents `shape`."""
    return math.prod(whole // part for whole, part in zip(shape, size, strict=True))
