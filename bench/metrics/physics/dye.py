"""Pixels of a liquid to what covers them: its colours taken apart, place by place. No network, and nothing learnt."""

from __future__ import annotations

import numpy as np
import scipy  # its parts are imported when they are used: whoever only names worlds and scores needs none

from bench.data.physics.fluid.drawing import BACKGROUND, POOL

LEAST_COVER = 0.1  # of a pixel, by liquid or by dye; less is taken for noise of a decoder


def unmixed(frames: np.ndarray, dye: np.ndarray) -> np.ndarray:
    """Frames (..., H, W, 3) uint8 of one clip, its dye's colour (3,) -> how much of each pixel all liquid and the dyed liquid cover.

    (2, ..., H, W) float32 in [0, 1]. A pixel is background, plus shares of the pool's and of the dye's difference from it: least squares
    over the two, neither below 0, their sum at most 1.
    """
    background = np.array(BACKGROUND, np.float32)
    pool, drop = (np.asarray(colour, np.float32) - background for colour in (POOL, dye))
    difference = frames.astype(np.float32) - background
    by_pool, by_drop = difference @ pool, difference @ drop
    aa, bb, ab = float(pool @ pool), float(drop @ drop), float(pool @ drop)
    share_pool, share_drop = (bb * by_pool - ab * by_drop) / (aa * bb - ab**2), (aa * by_drop - ab * by_pool) / (aa * bb - ab**2)
    no_pool, no_drop = share_pool < 0, share_drop < LEAST_COVER
    share_drop = np.where(no_pool, by_drop / bb, share_drop)
    share_drop = np.where(no_drop | (share_drop < LEAST_COVER), 0.0, share_drop)
    share_pool = np.where(no_drop, by_pool / aa, share_pool).clip(0)
    share_pool = np.where(no_pool & ~no_drop, 0.0, share_pool)
    every = share_pool + share_drop
    scale = np.where(every < LEAST_COVER, 0.0, 1 / np.maximum(every, 1.0))
    return np.stack([every * scale, share_drop * scale])


def centres(cover: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Cover (..., H, W) of a frame `size` (width, height) lengths -> its centre of mass (..., 2) x, y in lengths; NaN where it is dry."""
    total = cover.sum((-2, -1))
    across = (np.arange(cover.shape[-1]) + 0.5) / cover.shape[-1] * size[0]
    down = (np.arange(cover.shape[-2]) + 0.5) / cover.shape[-2] * size[1]
    moments = np.stack([cover.sum(-2) @ across, cover.sum(-1) @ down], axis=-1)
    return np.divide(moments, total[..., None], out=np.full(moments.shape, np.nan), where=total[..., None] > 0)


def moved_on(frames: np.ndarray, dye: np.ndarray, known: int) -> np.ndarray:
    """A clip (T, H, W, 3) uint8 in which, after its `known` frames, the dye moves at the velocity that its centre has between the last two
    of them, and nothing else moves. After one known frame, or where either shows no dye, that does not either.
    """
    cover = unmixed(frames[max(known - 2, 0) : known], dye)[1]  # (2, H, W) dye
    height, width = frames.shape[1:3]
    places = centres(cover, (width, height))
    step = np.nan_to_num(places[-1] - places[0])  # pixels a frame, x and y
    colour, last = np.asarray(dye, np.float64), cover[-1][..., None]
    behind = frames[known - 1] - last * (colour - np.array(BACKGROUND))
    out = frames.copy()
    for index in range(known, len(frames)):
        ago = index - known + 1
        layer = scipy.ndimage.shift(cover[-1], ago * step[::-1], order=1)[..., None].clip(0, 1)
        out[index] = np.rint(behind * (1 - layer) + layer * colour).clip(0, 255)
    return out
