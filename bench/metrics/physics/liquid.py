"""The scorecard of a liquid: what its pixels say of mass, motion, surface and splash, beside the exact state of the true clip.

Lengths in the frame's shorter side. All errors are means over the frames after the known ones. Where a frame hardly shows liquid, or
dye, its centre is held to be where it was last read, so a clip that loses its drop keeps that error; `seen_share` counts such frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.data.physics.fluid.surface import LEAST_PIECE, SQUARES, WET, blocks, pieces_and_crest, surface
from bench.data.physics.fluid.tank import Tank
from bench.metrics.physics.contract import PerClip, Readings, Scorecard, Stage
from bench.metrics.physics.dye import LEAST_COVER, centres, moved_on, unmixed
from bench.metrics.pixels.contract import PixelValue

SIDE = "shorter side"
LEAST_FALL = 4  # frames of free fall that a parabola is fitted to, the last known one among them
LEAST_SEEN = 0.1  # of the mass that the first frame has, of liquid or of dye: less has no centre, so that a stray pixel is none
SLACK = 0.01  # lengths that the centre of mass may stand higher than its energy allows before a frame counts
LEAST_CROWN = 0.03  # lengths that a true crown rises above the pool beside the drop
NUM_WAVES = 8  # of the surface along the frame's width, the longest ones
STILL = 0.002  # lengths: amplitude below which a wave is taken for none
VALUES = (
    PixelValue(
        name="drop_path_error", title="Path of the drop, error", better="lower", unit=SIDE, axis=True,
        plain="let the drop fall and spread where it does",
    ),
    PixelValue(
        name="liquid_path_error", title="Path of all liquid, error", better="lower", unit=SIDE,
        plain="move all liquid as it moves",
    ),
    PixelValue(name="mass_drift", title="Mass of liquid, drift", better="lower", plain="keep the amount of liquid"),
    PixelValue(name="dye_mass_drift", title="Mass of dye, drift", better="lower", plain="keep the amount of dye"),
    PixelValue(
        name="fall_error", title="Gravity before contact, error", better="lower",
        plain="let the drop fall at the right acceleration",
    ),
    PixelValue(
        name="lifted_share", title="Frames lifted beyond their energy", better="lower", unit="share of frames",
        plain="lift no liquid by itself",
    ),
    PixelValue(name="surface_error", title="Height of the surface, error", better="lower", unit=SIDE, plain="put the surface where it is"),
    PixelValue(
        name="crown_height_error", title="Height of the splash, error", better="lower", unit=SIDE,
        plain="splash as high as the liquid does",
    ),
    PixelValue(name="crown_time_error", title="Time of the splash, error", better="lower", unit="s", plain="splash when the liquid does"),
    PixelValue(name="liquid_iou", title="Overlap of liquid (IoU)", better="higher", plain="have liquid where it is"),
    PixelValue(name="dye_iou", title="Overlap of dye (IoU)", better="higher", plain="have dye where it is"),
    PixelValue(name="pieces_error", title="Number of pieces, error", better="lower", plain="break the liquid into as many pieces"),
    PixelValue(
        name="wave_error", title="Waves of the surface, error", better="lower", unit="decades",
        plain="have waves of the right sizes",
    ),
    PixelValue(
        name="seen_share", title="Frames in which liquid and dye are seen", better="higher", unit="share of frames",
        plain="lose neither liquid nor dye",
    ),
)  # fmt: skip


def read(frames: np.ndarray, stage: Stage) -> Readings:
    """Of clips (N, T, H, W, 3) uint8, by the colours of their drops:

    `centre` (N, T, 2, 2) of all liquid and of the dye, x and y, NaN where too little is left; `mass` (N, T, 2) likewise, squared lengths;
    `surface` (N, T, W); `filled` (N, T, 2, blocks); `crest`, `pieces` (N, T). As in the truth (bench/data/physics/fluid/state.py).
    """
    every = [_read_clip(clip, stage, index) for index, clip in enumerate(frames)]
    return {name: np.stack([each[name] for each in every]) for name in every[0]}


def _read_clip(clip: np.ndarray, stage: Stage, index: int) -> dict[str, np.ndarray]:
    """Of one clip (T, H, W, 3)."""
    tank = Tank.of_frame(*clip.shape[1:3])
    cover = unmixed(clip, stage.truth["dye"][index, 0, 0]).swapaxes(0, 1).astype(np.float64)  # (T, 2, H, W)
    mass = cover.mean((2, 3)) * tank.width * tank.height  # (T, 2)
    lost = mass < LEAST_SEEN * stage.truth["mass"][index, 0]
    pieces, crest = pieces_and_crest(cover[:, 0], stage.truth["span"][index, 0, 0], tank)
    return {
        "centre": np.where(lost[..., None], np.nan, centres(cover, (tank.width, tank.height))),
        "mass": mass,
        "surface": surface(cover[:, 0], clip.shape[2], tank),
        "filled": blocks(cover, tank),
        "crest": crest,
        "pieces": pieces,
    }


def score(readings: Readings, stage: Stage) -> PerClip:
    """What each clip is off, (N,) each. `fall_error` is NaN where too few frames of a true fall are left, the crown's where none rises."""
    truth, after = stage.truth, slice(stage.known, None)
    path = held(readings["centre"], truth["centre"], stage.known)
    off = np.linalg.norm(path - truth["centre"], axis=-1)[:, after].mean(1)  # (N, 2)
    drift = np.abs(readings["mass"] / truth["mass"] - 1)[:, after].mean(1)  # (N, 2)
    overlap = _overlap(readings["filled"], truth["filled"])[:, after].mean(1)  # (N, 2)
    waves, true_waves = _waves(readings["surface"]), _waves(truth["surface"][:, :, 0])
    crown_height, crown_time = _crown(readings["crest"], stage)
    return {
        "drop_path_error": off[:, 1],
        "liquid_path_error": off[:, 0],
        "mass_drift": drift[:, 0],
        "dye_mass_drift": drift[:, 1],
        "fall_error": _gravity(path[:, :, 1, 1], stage),
        "lifted_share": _too_high(path[:, :, 0, 1], stage)[:, after].mean(1),
        "surface_error": np.abs(readings["surface"] - truth["surface"][:, :, 0])[:, after].mean((1, 2)),
        "crown_height_error": crown_height,
        "crown_time_error": crown_time,
        "liquid_iou": overlap[:, 0],
        "dye_iou": overlap[:, 1],
        "pieces_error": np.abs(readings["pieces"] - truth["pieces"][:, :, 0])[:, after].mean(1),
        "wave_error": np.abs(waves - true_waves)[:, after].mean((1, 2)),
        "seen_share": 1 - np.isnan(readings["centre"][:, after]).any(axis=(2, 3)).mean(axis=1),
    }


def held(places: np.ndarray, true: np.ndarray, known: int) -> np.ndarray:
    """Places (N, T, ...) without NaN: each is where it was last read; before any reading, where the last known frame truly has it."""
    filled = places.copy()
    missing = np.isnan(filled[:, 0])
    filled[:, 0][missing] = true[:, known - 1][missing]
    for index in range(1, filled.shape[1]):
        missing = np.isnan(filled[:, index])
        filled[:, index][missing] = filled[:, index - 1][missing]
    return filled


def _overlap(filled: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union of shares of blocks (N, T, 2, blocks): (N, T, 2); 1 where both are empty."""
    union = np.maximum(filled, true).sum(-1)
    return np.divide(np.minimum(filled, true).sum(-1), union, out=np.ones(union.shape), where=union > 0)


def _gravity(down: np.ndarray, stage: Stage) -> np.ndarray:
    """Relative error of the acceleration of a parabola through the drop's path (N, T), from the last known frame to the last in the air."""
    off = np.full(len(down), np.nan)
    for index, (path, contact) in enumerate(zip(down, stage.truth["contact"][:, 0, 0], strict=True)):
        end = len(path) if np.isnan(contact) else int(np.ceil(contact * stage.fps - 1e-9))  # the first frame that is no fall
        fall = path[stage.known - 1 : end]
        if len(fall) >= LEAST_FALL:
            off[index] = abs(2 * np.polyfit(np.arange(len(fall)) / stage.fps, fall, 2)[0] / stage.truth["gravity"][index, 0, 0] - 1)
    return off


def _too_high(down: np.ndarray, stage: Stage) -> np.ndarray:
    """Whether the liquid's centre (N, T) stands higher than all energy of the last known frame would lift it, by more than SLACK: bool."""
    truth = stage.truth
    energy = (truth["kinetic"] + truth["potential"])[:, stage.known - 1]  # (N, 1)
    weight = truth["mass"][:, stage.known - 1, :1] * truth["gravity"][:, stage.known - 1]
    return _tank(stage).height - down > energy / weight + SLACK


def _crown(read_crest: np.ndarray, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Error of the highest crest (N, T) after the known frames, and of its time. NaN where the true one rises little above the pool."""
    true = stage.truth["crest"][:, :, 0]
    found, wanted = read_crest[:, stage.known :], true[:, stage.known :]
    rises = wanted.max(1) - true[:, stage.known - 1] >= LEAST_CROWN
    off = np.abs(found.max(1) - wanted.max(1)), np.abs(found.argmax(1) - wanted.argmax(1)) / stage.fps
    return np.where(rises, off[0], np.nan), np.where(rises, off[1], np.nan)


def _waves(heights: np.ndarray) -> np.ndarray:
    """Decimal logarithm of the power of a surface's longest waves (N, T, K) -> (N, T, NUM_WAVES), a still one's that of STILL."""
    amplitudes = 2 / heights.shape[-1] * np.abs(np.fft.rfft(heights)[..., 1 : NUM_WAVES + 1])
    return np.log10(amplitudes**2 + STILL**2)


def _tank(stage: Stage) -> Tank:
    return Tank.of_frame(stage.config.height, stage.config.width)


def continued(frames: np.ndarray, stage: Stage) -> np.ndarray:
    """True clips (N, T, H, W, 3) in which after the known frames the drop moves on at constant velocity, and nothing else moves."""
    return np.stack([moved_on(clip, stage.truth["dye"][index, 0, 0], stage.known) for index, clip in enumerate(frames)])


def drawn(readings: Readings, stage: Stage) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Heights above the frame's lower edge: of the centres (N, T), and of the surface (N, T, W)."""
    truth, top = stage.truth, _tank(stage).height
    return {
        "drop_height": (top - readings["centre"][:, :, 1, 1], top - truth["centre"][:, :, 1, 1]),
        "liquid_height": (top - readings["centre"][:, :, 0, 1], top - truth["centre"][:, :, 0, 1]),
        "surface": (readings["surface"], truth["surface"][:, :, 0]),
    }


LIQUID = Scorecard(
    name="liquid",
    version=1,
    worlds=("liquid",),
    values=VALUES,
    primary="drop_path_error",  # the drop moves by half a frame, all liquid by a hundredth, and a pool that lies still overlaps
    read=read,
    score=score,
    continued=continued,
    drawn=drawn,
    settings={
        "least_cover": LEAST_COVER,
        "least_seen": LEAST_SEEN,
        "squares": SQUARES,
        "wet": WET,
        "least_piece": LEAST_PIECE,
        "least_fall": LEAST_FALL,
        "slack": SLACK,
        "least_crown": LEAST_CROWN,
        "num_waves": NUM_WAVES,
        "still": STILL,
    },
)
