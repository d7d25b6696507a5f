"""The scorecard of rigid worlds: whether bodies last, and how far they are from where the truth and the laws of motion have them. No torch.

Every score is of the frames after the known ones in which the truth has all bodies wholly inside the frame, as in phyworld's code; a clip
without any has none. A body that is not seen has not left the score: it rests where it was last seen (at first, where the truth has it) and
overlaps with nothing; that it was lost is told by the valid rate.

The primary score is the error of places, which asks of every world the same: how far is what moves from where it truly is? phyworld's
(arXiv 2411.02385), the velocity error, stands beside it. That compares with what is published, and a bounce that comes a frame late counts
once; but between neighbouring frames a tenth of a unit by which a blurred body trembles is more than a unit a second.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from bench.data.physics.rigid import SIDE, draw
from bench.metrics.physics.conserved import LAWS, SLOWEST, drifts, gravity_error
from bench.metrics.physics.contract import PerClip, Readings, Scorecard, Stage
from bench.metrics.physics.counted import change, counted, largest, mean, true_places
from bench.metrics.physics.discs import THRESHOLDS, read_discs
from bench.metrics.pixels.contract import SHARE, PixelValue


@dataclass(frozen=True, kw_only=True)
class SameBody:
    """What counts as the same body. Fixed: they are part of the scorecard's name."""

    radius_share: float = 0.25  # of its radius, by which it may be larger or smaller, but one pixel at least
    hue_off: float = 25.0  # degrees on the hue circle
    strange_share: float = 0.25  # of the smallest body's area: as much may be of no body


SAME = SameBody()


def read(frames: np.ndarray, stage: Stage) -> Readings:
    """What the instrument sees, by the hues and radii of the last known frame: see `read_discs`."""
    return read_discs(frames, stage.truth["hue"][:, stage.known - 1], stage.truth["radius"][:, stage.known - 1])


def score(readings: Readings, stage: Stage) -> PerClip:
    """Readings -> value by name, each (N,). Velocities and accelerations are differences of places, of the truth as of what is read."""
    counts, places, radius = counted(stage), held(readings, stage), readings["radius"]
    off = places - true_places(stage)  # (N, T, K, 2)
    apart = np.linalg.norm(off, axis=-1)
    return {
        "valid_rate": 1 - largest(~_valid(readings, stage), counts.frames),
        "velocity_error": mean(np.linalg.norm(change(off), axis=-1) * stage.fps, counts.steps),
        "centre_error": mean(apart, counts.frames),
        "iou": mean(np.where(np.isnan(radius), 0, iou(apart, radius, stage.truth["radius"])), counts.frames),
        "acceleration_error": mean(np.linalg.norm(change(change(off)), axis=-1) * stage.fps**2, counts.turns),
        "gravity_error": gravity_error(places, stage, counts.frames),
        **drifts(places, stage, counts),
        "penetration": largest(penetration(places, radius), counts.frames),
    }


def held(readings: Readings, stage: Stage) -> np.ndarray:
    """Places (N, T, K, 2) in units; of a body that is not seen the last one where it was, at first the true one of the first frame."""
    places = np.stack([readings["x"], readings["y"]], axis=-1)
    before = true_places(stage)[:, 0]
    for frame in range(places.shape[1]):
        before = places[:, frame] = np.where(np.isnan(places[:, frame]), before, places[:, frame])
    return places


def _valid(readings: Readings, stage: Stage) -> np.ndarray:
    """(N, T) bool: every body is there once, in its size and colour, and nothing else is."""
    known = stage.truth["radius"][:, [stage.known - 1]]  # (N, 1, K)
    pixel = SIDE / min(stage.config.height, stage.config.width)
    same_size = np.abs(readings["radius"] - known) <= np.maximum(SAME.radius_share * known, pixel)  # False of NaN, which is not seen
    same_hue = readings["colour_off"] <= SAME.hue_off
    alone = readings["strange"] <= SAME.strange_share * np.pi * known.min(axis=2) ** 2
    return np.asarray(((readings["pieces"] == 1) & same_size & same_hue).all(axis=2) & alone)


def iou(apart: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Area that two discs of radii `first` and `second` share over that of both together, their centres `apart`; elementwise."""
    with np.errstate(invalid="ignore", divide="ignore"):  # of concentric ones, and of those not seen
        to_chord = (apart**2 + first**2 - second**2) / (2 * apart)  # from the first centre
        angles = np.arccos(np.clip(to_chord / first, -1, 1)), np.arccos(np.clip((apart - to_chord) / second, -1, 1))
    lens = sum(radius**2 * (angle - np.sin(2 * angle) / 2) for radius, angle in zip((first, second), angles, strict=True))
    inner = np.pi * np.minimum(first, second) ** 2
    common = np.select([apart >= first + second, apart <= np.abs(first - second)], [0.0, inner], lens)
    return common / (np.pi * (first**2 + second**2) - common)


def penetration(places: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Places (N, T, K, 2), radii as seen (N, T, K) -> (N, T) units by which the two discs overlap that do most, 0 where none do.

    One that is not seen overlaps with nothing. NaN in a world of one body.
    """
    num = radius.shape[2]
    if num < 2:
        return np.full(radius.shape[:2], np.nan)
    pairs = [(one, other) for one in range(num) for other in range(one)]
    depths = [radius[..., i] + radius[..., j] - np.linalg.norm(places[..., i, :] - places[..., j, :], axis=-1) for i, j in pairs]
    return np.maximum(np.nan_to_num(np.stack(depths), nan=0.0).max(axis=0), 0)


def continued(clips: np.ndarray, stage: Stage) -> np.ndarray:
    """True clips (N, T, H, W, 3) -> the same known frames, then every disc from where the last of them shows it, on its way from the one
    before. Size and hue are those of the known frames; a rod is not drawn.
    """
    last, num_frames = stage.known - 1, clips.shape[1]
    places = held(read(clips, stage), stage)
    step = places[:, [last]] - places[:, [max(last - 1, 0)]]  # (N, 1, K, 2)
    places = places[:, [last]] + step * np.arange(1, num_frames - last)[:, None, None]  # (N, T - known, K, 2)
    radius, hue = (np.broadcast_to(stage.truth[name][:, [last]], places.shape[:3]) for name in ("radius", "hue"))
    return np.concatenate([clips[:, : stage.known], draw(places, radius, hue, *clips.shape[2:4])], axis=1)


def drawn(readings: Readings, stage: Stage) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Places over time, each (N, T, K): as seen, NaN where a body is not, and true."""
    return {name: (readings[name], stage.truth[name]) for name in ("x", "y")}


VALID_RATE = PixelValue(
    name="valid_rate",
    title="Clips whose bodies keep number, size and colour",
    better="higher",
    unit=SHARE,
    axis=True,
    plain="keep every body, in its size and colour",
)
VELOCITY_ERROR = PixelValue(
    name="velocity_error",
    title="Velocity error",
    better="lower",
    unit="units/s",
    axis=True,
    plain="move their bodies as the truth does",
)
CENTRE_ERROR = PixelValue(
    name="centre_error",
    title="Centre error",
    better="lower",
    unit="units",
    axis=True,
    plain="have their bodies where the truth has them",
)
RIGID = Scorecard(
    name="rigid",
    version=1,
    worlds=tuple(LAWS),
    values=(
        VALID_RATE,
        VELOCITY_ERROR,
        CENTRE_ERROR,
        PixelValue(name="iou", title="Overlap with the true discs (IoU)", better="higher"),
        PixelValue(name="acceleration_error", title="Acceleration error", better="lower", unit="units/s2"),
        PixelValue(name="gravity_error", title="Error of gravity, by the parabola of the fall", better="lower"),
        PixelValue(name="energy_drift", title="Energy off what is kept between collisions", better="lower"),
        PixelValue(name="momentum_drift", title="Momentum off what is kept between collisions", better="lower"),
        PixelValue(name="penetration", title="Deepest overlap of two bodies", better="lower", unit="units"),
    ),
    primary="centre_error",
    read=read,
    score=score,
    continued=continued,
    drawn=drawn,
    settings={**asdict(THRESHOLDS), **asdict(SAME), "slowest": SLOWEST},
)
