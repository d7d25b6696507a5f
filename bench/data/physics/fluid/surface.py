"""What the cover of a liquid says of its surface: how high it stands, its pieces, its crest. The same for simulated and filmed ones.

Pieces and crest are looked for on one grid of squares, whatever the cover's own: a thread of liquid is wet or not by the size of a place.
"""

from __future__ import annotations

import functools

import numpy as np
import scipy  # its parts are imported when they are used: whoever only names worlds and scores needs none

from bench.data.physics.fluid.tank import Tank

SQUARES = 32  # along the shorter side
WET = 0.5  # cover from which a square counts as liquid
LEAST_PIECE = 2  # squares; less is spray
BLOCKS = 16  # along the shorter side, of which it is said how full they are
TOUCHING = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # pieces join by sides and corners, never from frame to frame


@functools.cache
def areas(num: int, into: int) -> scipy.sparse.csr_array:
    """(into, num): the mean of `num` equal places over each of `into` equal ones that cover the same length."""
    ends = np.arange(into + 1)[:, None] / into * num
    filled = (ends - np.arange(num)).clip(0, 1)  # of each place, what lies before each end
    return scipy.sparse.csr_array(np.diff(filled, axis=0) * (into / num))


def resampled(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(..., h, w) -> (..., height, width), by area: the mean stays what it is. Sparse: a product of whole matrices would wake a library's
    threads, which are slower on so little, and whose sums depend on their number.
    """
    *before, rows, columns = values.shape
    across = (areas(columns, width) @ values.reshape(-1, columns).T).T.reshape(-1, rows, width)
    down = areas(rows, height) @ across.swapaxes(0, 1).reshape(rows, -1)
    return down.reshape(height, -1, width).swapaxes(0, 1).reshape(*before, height, width)


def surface(cover: np.ndarray, num_columns: int, tank: Tank) -> np.ndarray:
    """Cover (..., h, w) -> how high its liquid would stand in each of a frame's columns, (..., columns) lengths."""
    return resampled(cover, 1, num_columns)[..., 0, :] * tank.height


def blocks(cover: np.ndarray, tank: Tank) -> np.ndarray:
    """Cover (..., h, w) -> the share that it covers of each block of the frame, row by row, (..., blocks)."""
    return _by(BLOCKS, cover, tank).reshape(*cover.shape[:-2], -1)


def pieces_and_crest(cover: np.ndarray, span: np.ndarray, tank: Tank) -> tuple[np.ndarray, np.ndarray]:
    """Cover (M, h, w) of M frames -> pieces of liquid that are no spray, and how high what hangs together with the floor reaches.

    (M,) and (M,) lengths above the lower edge, where cover passes WET between two squares; 0 where nothing is on the floor. `span` (2,):
    left and right end of the way that drops fall through, which the crest must be clear of.
    """
    squares = _by(SQUARES, cover, tank)
    pieces, num = scipy.ndimage.label(squares > WET, TOUCHING)
    frame = np.zeros(num + 1, np.intp)  # that each piece is in
    frame[pieces] = np.arange(len(cover))[:, None, None]
    size = np.bincount(pieces.ravel(), minlength=num + 1)
    size[0] = 0  # what is dry
    on_floor = np.zeros(num + 1, bool)
    on_floor[pieces[:, -1]] = True
    on_floor[0] = False
    middles = (np.arange(squares.shape[2]) + 0.5) / squares.shape[2] * tank.width
    side = tank.width / squares.shape[2]
    pool = on_floor[pieces] & ((middles < span[0] - side) | (middles > span[1] + side))  # (M, rows, columns)
    count = np.bincount(frame[size >= LEAST_PIECE], minlength=len(cover)).astype(float)
    return count, np.where(pool.any(1), _edge(squares, pool) * tank.height, 0.0).max(1)


def _edge(squares: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Where the uppermost square of `pool` (M, rows, columns) ends in each column, as a share of the frame's height, (M, columns)."""
    top = pool.argmax(1)[:, None]
    here = np.take_along_axis(squares, top, 1)
    above = np.where(top > 0, np.take_along_axis(squares, np.maximum(top - 1, 0), 1), 0.0)
    edge = top + 0.5 - (here - WET) / np.maximum(here - above, 1e-9)  # rows from the top
    return 1 - edge[:, 0].clip(0) / squares.shape[1]


def _by(num: int, cover: np.ndarray, tank: Tank) -> np.ndarray:
    """Cover resampled to `num` places along the shorter side."""
    return resampled(cover, round(num * tank.height), round(num * tank.width))
