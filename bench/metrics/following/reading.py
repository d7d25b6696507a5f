"""What is to be seen in clips of worlds, read from pixels alone: how many objects, and each one's colour, shape and first direction.

Made for bright saturated shapes on a plain dark background. What is no such object has no colour, shape or direction: it is no guess. No
network and nothing random: on real clips the reading is what the clips were made of, and how often it is not stands beside every number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy  # its parts are imported when they are used

from bench.data.worlds.caption import COLOURS, DIRECTIONS, steady
from bench.data.worlds.drawing import SHAPES
from bench.metrics.pixels.foreground import components, contrast

MOST = 6  # objects of a clip that are looked at, the longest seen first
# Of a disc, a square, a triangle and a ring of half its radius, whatever their size and turn: the third and the fourth harmonic of the
# outline (|sum of z^k| over sum of |z|^k, z from the centre), and area over 2 pi times the mean square distance from the centre.
FORMS = np.array([[0.0, 0.0, 1.0], [0.0, 0.429, 0.955], [0.658, 0.0, 0.827], [0.0, 0.0, 0.6]])
WEIGHTS = np.array([1.0, 1.0, 1.5])  # of the three
PART = 0.1  # of what hangs together, the least that is an object of another colour


@dataclass(frozen=True)
class ReadingThresholds:
    """What counts as an object, and as one that can be named. Fixed: they are part of the measure's protocol."""

    foreground: float = 72.0  # levels (of 255) that a pixel's strongest channel differs from the clip's background
    object_share: float = 0.02  # of the square of the frame's shorter side; the least that an object covers
    crowd_share: float = 0.6  # of the frame's area; more is no object but a flooded frame
    chroma: float = 60.0  # levels between strongest and weakest channel of an object's colour, or it has none
    form: float = 0.25  # distance to the nearest of FORMS beyond which an object has no shape
    moved: float = 0.015  # shorter sides in the first steps, below which an object goes nowhere


THRESHOLDS = ReadingThresholds()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is seen in N clips. Places in SHAPES, COLOURS and DIRECTIONS; -1 of what has none, or of an object that is not there."""

    number: np.ndarray  # (N,) objects in most frames
    colour: np.ndarray  # (N, MOST)
    shape: np.ndarray  # (N, MOST)
    direction: np.ndarray  # (N, MOST)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """An object in one frame."""

    centre: np.ndarray  # (2,) x, y in pixels
    colour: np.ndarray  # (3,) mean, levels
    form: np.ndarray  # (3,) as FORMS


@dataclass(frozen=True)
class _Track:
    """An object over the frames that it is found in."""

    pieces: dict[int, _Piece] = field(default_factory=dict)  # frame -> what it is there


def read(clips: Sequence[np.ndarray] | np.ndarray) -> Seen:
    """Clips, N of (T, H, W, 3) uint8, at least one -> what is seen in each."""
    number = np.zeros(len(clips), dtype=np.int64)
    named = np.full((3, len(clips), MOST), -1)
    for index, clip in enumerate(clips):
        pixels = np.asarray(clip)
        side = min(pixels.shape[1:3])
        frames = _pieces(pixels)
        counts = np.bincount([len(pieces) for pieces in frames])
        number[index] = counts.argmax()
        for place, track in enumerate(_tracks(frames, side)[: min(number[index], MOST)]):
            named[:, index, place] = _colour(track), _shape(track), _direction(track, min(steady(len(frames)), len(frames) - 1), side)
    return Seen(number=number, colour=named[0], shape=named[1], direction=named[2])


def _pieces(clip: np.ndarray) -> list[list[_Piece]]:
    """Clip (T, H, W, 3) -> its objects, frame by frame."""
    _, height, width, _ = clip.shape
    levels = contrast(clip)
    found = components(levels > THRESHOLDS.foreground)
    least, most = max(THRESHOLDS.object_share * min(height, width) ** 2, 3), THRESHOLDS.crowd_share * height * width
    frames: list[list[_Piece]] = [[] for _ in clip]
    for piece, area in enumerate(found.areas):
        if not least <= area <= most:
            continue
        frame = found.frames[piece]
        pixels = clip[frame].astype(np.float64)
        mask = found.labels[frame] == piece + 1
        for own in _apart(mask, pixels, least):
            others = (found.labels[frame] > 0) & ~own
            frames[frame].append(_measured(own, others, pixels, levels[frame]))
    return frames


def _apart(mask: np.ndarray, pixels: np.ndarray, least: float) -> list[np.ndarray]:
    """A piece (H, W) bool -> itself, or its parts where objects of several colours touch."""
    colours = np.where(mask, hue_place(pixels), -1)
    parts = []
    for colour in np.unique(colours[mask]):
        labels, num = scipy.ndimage.label(colours == colour, structure=np.ones((3, 3)))
        parts += [labels == part + 1 for part in range(num)]
    large = [part for part in parts if part.sum() >= max(least, PART * mask.sum())]
    return large if len(large) > 1 else [mask]


def _measured(own: np.ndarray, others: np.ndarray, pixels: np.ndarray, levels: np.ndarray) -> _Piece:
    """Centre, colour and form of an object that covers `own` (H, W) bool; its edge's faint pixels count too."""
    full = np.quantile(levels[own], 0.75)
    around = scipy.ndimage.binary_dilation(own, structure=np.ones((3, 3), dtype=bool)) & ~others
    weight = np.where(around, np.minimum(levels / full, 1.0), 0.0)
    rows, columns = np.indices(own.shape)
    total = weight.sum()
    centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / total
    z = (columns - centre[0]) + 1j * (rows - centre[1])
    distance = np.abs(z)
    third, fourth = (abs((weight * z**k).sum()) / (weight * distance**k).sum() for k in (3, 4))
    spread = total**2 / (2 * math.pi * (weight * distance**2).sum())
    return _Piece(centre=centre, colour=pixels[own & (levels >= 0.8 * full)].mean(axis=0), form=np.array([third, fourth, spread]))


def _tracks(frames: list[list[_Piece]], side: int) -> list[_Track]:
    """Objects followed from frame to frame, by place and by colour; those that are seen longest first."""
    tracks: list[_Track] = []
    for frame, pieces in enumerate(frames):
        cost = np.array([[_apartness(track, piece, side) for piece in pieces] for track in tracks]).reshape(len(tracks), len(pieces))
        known = dict(zip(*(ends.tolist() for ends in scipy.optimize.linear_sum_assignment(cost)), strict=True))
        for track, piece in known.items():
            tracks[track].pieces[frame] = pieces[piece]
        tracks += [_Track({frame: piece}) for place, piece in enumerate(pieces) if place not in known.values()]
    return sorted(tracks, key=lambda track: -len(track.pieces))


def _apartness(track: _Track, piece: _Piece, side: int) -> float:
    """How unlikely a piece is a track's next: shorter sides that it moved, and as much as one where its colour has another name."""
    last = track.pieces[max(track.pieces)]
    return float(np.linalg.norm(last.centre - piece.centre) / side + (hue_place(last.colour) != hue_place(piece.colour)))


def hue_place(colours: np.ndarray) -> np.ndarray:
    """Colours (..., 3) -> place in COLOURS of the nearest hue; of a grey one 0."""
    red, green, blue = (colours[..., channel] for channel in range(3))
    angle = np.arctan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    return np.rint(angle / (math.tau / len(COLOURS))).astype(int) % len(COLOURS)


def _colour(track: _Track) -> int:
    mean = np.mean([piece.colour for piece in track.pieces.values()], axis=0)
    return int(hue_place(mean)) if np.ptp(mean) >= THRESHOLDS.chroma else -1


def _shape(track: _Track) -> int:
    form = np.mean([piece.form for piece in track.pieces.values()], axis=0)
    apart = np.linalg.norm((FORMS - form) * WEIGHTS, axis=1)
    return int(apart.argmin()) if apart.min() <= THRESHOLDS.form else -1


def _direction(track: _Track, last: int, side: int) -> int:
    """By what it moved from the first frame to frame `last`; -1 where it is not in both, or hardly moved."""
    if last < 1 or not {0, last} <= track.pieces.keys():
        return -1
    dx, dy = track.pieces[last].centre - track.pieces[0].centre
    if math.hypot(dx, dy) < THRESHOLDS.moved * side:
        return -1
    angle = math.atan2(dy, dx)
    return int(np.argmin([abs(math.remainder(angle - each, math.tau)) for each in DIRECTIONS.values()]))


assert SHAPES == ("disc", "square", "triangle", "ring")  # the rows of FORMS
