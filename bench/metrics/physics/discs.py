"""The instrument of rigid worlds: where discs of known colours are in every frame, and how large, from pixels alone. No torch.

A pixel is background with a share of each body's colour over it. The shares are found by least squares; those of a body add up to its area,
and their weighted mean is its centre, to about a hundredth of a pixel on true clips. A body is followed by its colour, so nothing has to be
matched from frame to frame. With one body, grey up to a rod's level is told apart too, and is of no body.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are used

from bench.data.physics.rigid import ROD_LEVEL, SIDE
from bench.data.worlds.drawing import BACKGROUND
from bench.metrics.pixels.foreground import components


@dataclass(frozen=True, kw_only=True)
class DiscThresholds:
    """What counts as a disc. Fixed: they are part of the scorecard's name."""

    cover: float = 0.4  # share of a body's colour in a pixel that belongs to one of its pieces; the smallest true disc has .7 in its middle
    rim: int = 2  # pixels around a piece whose shares count too: a true edge is one pixel wide
    piece: float = 0.25  # of the body's area; smaller pieces of its colour are noise
    strange: float = 72.0  # levels (of 255) of a pixel that no mixture of background and bodies gives


THRESHOLDS = DiscThresholds()


def read_discs(frames: np.ndarray, hues: np.ndarray, radii: np.ndarray) -> dict[str, np.ndarray]:
    """Clips (N, T, H, W, 3) uint8 of bodies of hues (N, K) in turns, about as large as radii (N, K) units -> what is seen of each.

    `x`, `y`, `radius` (N, T, K) in units and `colour_off` (N, T, K), degrees on the hue circle, are of its largest piece, NaN where it has
    none; `pieces` (N, T, K) counts them; `strange` (N, T) is the area in square units of what is of no body.
    """
    clips = [_read_clip(clip, *own) for clip, *own in zip(frames, hues, radii, strict=True)]
    return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def _read_clip(clip: np.ndarray, hues: np.ndarray, radii: np.ndarray) -> dict[str, np.ndarray]:
    num_frames, height, width, _ = clip.shape
    unit = min(height, width) / SIDE  # pixels
    light = clip.astype(np.float32) - BACKGROUND  # (T, H, W, 3)
    colours = np.array([colorsys.hsv_to_rgb(hue, 1.0, 1.0) for hue in hues]) * 255 - BACKGROUND  # (K, 3)
    grey = np.full((1, 3), ROD_LEVEL - BACKGROUND)
    palette = (np.concatenate([colours, grey]) if len(hues) == 1 else colours).astype(np.float32)
    cover = np.clip(light @ np.linalg.pinv(palette), 0, 1)  # (T, H, W, K or 2)
    strange = np.abs(light - cover @ palette).max(axis=-1) > THRESHOLDS.strange
    found = {name: np.full((num_frames, len(hues)), np.nan) for name in ("x", "y", "radius", "colour_off")}
    found["pieces"] = np.zeros((num_frames, len(hues)))
    for body, radius in enumerate(radii):
        pieces = components(cover[..., body] > THRESHOLDS.cover)
        whole = pieces.areas >= THRESHOLDS.piece * np.pi * (radius * unit) ** 2
        found["pieces"][:, body] = np.bincount(pieces.frames[whole], minlength=num_frames)
        order = np.lexsort((pieces.areas, pieces.frames))  # the last of a frame is its largest
        order = order[whole[order]]
        seen, last = np.unique(pieces.frames[order][::-1], return_index=True)
        largest = np.full(num_frames, -1)
        largest[seen] = order[::-1][last] + 1  # label
        own = pieces.labels == largest[:, None, None]  # (T, H, W)
        shares = cover[..., body] * scipy.ndimage.maximum_filter(own, size=(1, 2 * THRESHOLDS.rim + 1, 2 * THRESHOLDS.rim + 1))
        shares = shares[seen].astype(np.float64)
        area = shares.sum(axis=(1, 2))
        found["x"][seen, body] = (shares.sum(axis=1) @ (np.arange(width) + 0.5)) / area / unit
        found["y"][seen, body] = (shares.sum(axis=2) @ (np.arange(height) + 0.5)) / area / unit
        found["radius"][seen, body] = np.sqrt(area / np.pi) / unit
        mean = np.einsum("thw,thwc->tc", own[seen].astype(np.float32), light[seen])
        found["colour_off"][seen, body] = np.degrees(np.abs(np.angle(_chroma(mean) / _chroma(colours[body]))))
    return {**found, "strange": strange.sum(axis=(1, 2)) / unit**2}


def _chroma(colours: np.ndarray) -> np.ndarray:
    """Colours (..., 3) -> a complex number each whose angle is the hue; grey mixed in does not turn it."""
    red, green, blue = (colours[..., i] for i in range(3))
    return red - (green + blue) / 2 + 1j * np.sqrt(3) / 2 * (green - blue)
