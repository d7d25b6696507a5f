"""What the cover of a liquid says of its surface: pieces, and how high it stands. The same for what is simulated and for what is filmed."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

WET = 0.5  # cover from which a place counts as liquid
LEAST_PIECE = 0.001  # squared lengths: about four pixels of 64 x 64; less is spray
TOUCHING = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # pieces join by sides and corners, never from frame to frame


def labelled(cover: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cover (M, h, w) -> the number of the piece that each place is of, 0 = dry, and the frame of each piece (pieces + 1,)."""
    pieces, num = scipy.ndimage.label(cover > WET, TOUCHING)
    frame = np.zeros(num + 1, np.intp)
    frame[pieces] = np.arange(len(cover))[:, None, None]
    return pieces, frame


def count_pieces(cover: np.ndarray, place: float) -> np.ndarray:
    """Pieces of liquid that are no spray, in each of M frames (M, h, w). `place`: area of one, squared lengths."""
    pieces, frame = labelled(cover)
    size = np.bincount(pieces.ravel(), minlength=len(frame)) * place
    size[0] = 0.0
    return np.bincount(frame[size >= LEAST_PIECE], minlength=len(cover)).astype(float)


def crest(cover: np.ndarray, counts: np.ndarray, height: float) -> np.ndarray:
    """How high above the lower edge what hangs together with the floor reaches, in M frames (M, h, w), lengths; 0 where nothing does.

    `counts`: (M, w) columns to look at. `height`: of the frame, lengths. The edge is where cover passes WET between two places.
    """
    pieces, frame = labelled(cover)
    on_floor = np.zeros(len(frame), bool)
    on_floor[pieces[:, -1]] = True
    on_floor[0] = False
    pool = on_floor[pieces] & counts[:, None]  # (M, h, w)
    top = pool.argmax(1)[:, None]  # (M, 1, w) row
    here = np.take_along_axis(cover, top, 1)[:, 0]
    above = np.where(top[:, 0] > 0, np.take_along_axis(cover, np.maximum(top - 1, 0), 1)[:, 0], 0.0)
    edge = top[:, 0] + 0.5 - (here - WET) / np.maximum(here - above, 1e-9)  # rows from the top
    heights = height * (1 - edge.clip(0) / cover.shape[1])
    return np.where(pool.any(1), heights, 0.0).max(1)


def columns_beside(span: np.ndarray, num: int, width: float) -> np.ndarray:
    """Which of `num` columns of a frame `width` lengths wide lie clear of the drops' way from (M, 2) left to right: (M, num) bool."""
    column = width / num
    centres = (np.arange(num) + 0.5) * column
    return (centres < span[:, :1] - column) | (centres > span[:, 1:] + column)
