"""Values a network must reproduce on fixed clips before it may be used: they show that weights, preprocessing and call belong together.

A golden value is named by a measure, clips and their frames x height x width, as in "rms checkerboard 16x64x64":
    mean checkerboard     mean over the features of one checkerboard clip
    rms checkerboard      root of the mean square of those features
    distance black white  squared distance between the features of an all-black and an all-white clip, which is the Frechet distance
                          between sets of such clips
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from bench.shapes import Refusal

SQUARE = 8  # pixels of a side of the checkerboard's squares
TOLERANCE = 1e-3  # of the root mean square of the features
DISTANCE_TOLERANCE = 1e-4  # of the value; the wrong batch norm epsilon moves I3D's by 2.4e-3

WORDS = re.compile(r"(mean checkerboard|rms checkerboard|distance black white) (\d+)x(\d+)x(\d+)")


def checkerboard(num_frames: int, height: int, width: int) -> np.ndarray:
    """One clip (1, T, H, W, 3) uint8 that is another one backwards, transposed or with its colours swapped.

    Red is a checkerboard of 8-pixel squares that moves a pixel to the right in every frame, green its opposite in the upper half and
    black below, blue rises from 0 to 255 over the frames.
    """
    t, y, x = np.ogrid[:num_frames, :height, :width]
    red = ((x - t) // SQUARE + y // SQUARE) % 2 == 0  # (T, H, W)
    clip = np.zeros((1, num_frames, height, width, 3), np.uint8)
    clip[0, ..., 0] = 255 * red
    clip[0, ..., 1] = 255 * (~red & (2 * y < height))
    clip[0, ..., 2] = np.rint(np.linspace(0, 255, num_frames))[:, None, None]
    return clip


def measure(words: str, features: Callable[[Tensor], Tensor], device: torch.device) -> tuple[float, float]:
    """(value, how far it may be off) of the golden value called `words`, for a network that takes frames (B, T, H, W, 3) uint8."""
    match = WORDS.fullmatch(words)
    if match is None:
        raise Refusal(f"unknown golden value {words!r}; write 'rms (or mean) checkerboard 16x64x64' or 'distance black white 30x224x224'")
    what, shape = match[1], [int(size) for size in match.groups()[1:]]
    if what == "distance black white":
        black = np.zeros((1, *shape, 3), np.uint8)
        dark, bright = (features(torch.from_numpy(frames).to(device)).double().cpu()[0] for frames in (black, ~black))
        value = (dark - bright).square().sum().item()
        return value, DISTANCE_TOLERANCE * value
    found = features(torch.from_numpy(checkerboard(*shape)).to(device)).double().cpu()[0]  # (D,)
    rms = found.square().mean().sqrt().item()
    return (rms if what.startswith("rms") else found.mean().item()), TOLERANCE * rms


def check(name: str, golden: Mapping[str, float], features: Callable[[Tensor], Tensor], device: torch.device) -> None:
    """Refusal unless the network gives every golden value that its manifest claims."""
    for words, claimed in golden.items():
        value, tolerance = measure(words, features, device)
        if not abs(value - claimed) <= tolerance:  # NaN is refused too
            raise Refusal(
                f"extractor {name!r} is not what its manifest says: {words} is {value:.6g}, claimed {claimed:.6g} "
                f"(within {tolerance:.1g}); its weights, value range, resize or call differ from those the value was measured with"
            )
