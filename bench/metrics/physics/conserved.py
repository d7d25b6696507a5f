"""What the laws of rigid worlds keep, and how far a clip strays from it: energy, momentum, and the one gravity of a free fall. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.data.physics import parabola, pendulum, stack
from bench.metrics.physics.contract import Stage
from bench.metrics.physics.counted import ScoredFrames, change, mean, true_places

SLOWEST = 0.5  # units per second: energy and momentum are relative to the truth's, but to those of bodies as fast at least


@dataclass(frozen=True, kw_only=True)
class Conservation:
    """What holds in a world."""

    gravity: float = 0.0  # units per second squared, downwards
    momentum: tuple[int, ...] = ()  # axes along which nothing from outside acts: 0 = x, 1 = y
    free: bool = False  # a body falls freely
    lossy: bool = False  # contacts take energy


LAWS: Mapping[str, Conservation] = {
    "motion": Conservation(momentum=(0, 1)),
    "collision": Conservation(momentum=(0, 1)),
    "parabola": Conservation(gravity=parabola.GRAVITY, momentum=(0,), free=True),
    "pendulum": Conservation(gravity=pendulum.GRAVITY),
    "stack": Conservation(gravity=stack.GRAVITY, lossy=True),
}


def gravity_error(places: np.ndarray, stage: Stage, frames: np.ndarray) -> np.ndarray:
    """Places (N, T, 1, 2), chosen frames (N, T) -> (N,) how far the gravity of the parabola through the heights is off the true one's.

    Relative to it; NaN where no body falls freely, and in a clip with fewer than three frames.
    """
    errors, truth = np.full(len(places), np.nan), true_places(stage)
    if not LAWS[stage.config.world].free:
        return errors
    for clip, chosen in enumerate(frames):
        if chosen.sum() >= 3:
            heights = np.stack([places[clip, chosen, 0, 1], truth[clip, chosen, 0, 1]], axis=1)
            found, true = np.polyfit(np.flatnonzero(chosen), heights, 2)[0]
            errors[clip] = abs(found - true) / abs(true)
    return errors


def drifts(places: np.ndarray, stage: Stage, counts: ScoredFrames) -> dict[str, np.ndarray]:
    """Places (N, T, K, 2) -> `energy_drift` and `momentum_drift` (N,): the mean of how far they are off what the truth keeps.

    Of each step between two frames, but for those in which the truth has a collision, and the ones beside them, where a velocity means
    nothing. Energy is relative to the largest kinetic energy of the truth, momentum to that of all bodies that move, in whatever direction.
    Where contacts take energy only what is more than at the start counts, of all steps. NaN where no step is left, or nothing is kept.
    """
    law, truth = LAWS[stage.config.world], true_places(stage)
    mass = stage.truth["mass"][:, :1]  # (N, 1, K): a body keeps it
    total, _ = _energies(places, mass, law.gravity, stage.fps)
    true_total, true_kinetic = _energies(truth, mass, law.gravity, stage.fps)
    scale = np.maximum(true_kinetic.max(axis=1), mass.sum(axis=(1, 2)) * SLOWEST**2 / 2)[:, None]
    quiet = _quiet(stage)
    if law.lossy:
        energy = mean(np.maximum(total - true_total[:, 1:2], 0) / scale, counts.steps)
    else:
        energy = mean(np.abs(total - _kept(true_total, quiet)) / scale, counts.steps & quiet)
    if not law.momentum:
        return {"energy_drift": energy, "momentum_drift": np.full(len(energy), np.nan)}
    axes, speed = list(law.momentum), np.linalg.norm(change(truth), axis=-1) * stage.fps
    moving = np.maximum((mass * speed).sum(axis=2).max(axis=1), mass.sum(axis=(1, 2)) * SLOWEST)[:, None]
    kept = _kept(_momenta(truth, mass, stage.fps), quiet)
    off = np.linalg.norm((_momenta(places, mass, stage.fps) - kept)[..., axes], axis=-1) / moving
    return {"energy_drift": energy, "momentum_drift": mean(off, counts.steps & quiet)}


def _energies(places: np.ndarray, mass: np.ndarray, gravity: float, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Total and kinetic energy of the step to each frame, (N, T) each, by its mean velocity and place; of none in the first."""
    kinetic = (mass * ((change(places) * fps) ** 2).sum(axis=-1) / 2).sum(axis=2)
    down = places[..., 1] - change(places)[..., 1] / 2
    return kinetic - (mass * gravity * down).sum(axis=2), kinetic


def _momenta(places: np.ndarray, mass: np.ndarray, fps: float) -> np.ndarray:
    """Momentum of the step to each frame (N, T, 2)."""
    return (mass[..., None] * change(places) * fps).sum(axis=2)


def _quiet(stage: Stage) -> np.ndarray:
    """(N, T) bool: steps without a collision in them or in the one before or after."""
    event = stage.truth["collided"].max(axis=2) > 0
    quiet = ~event
    quiet[:, 1:] &= ~event[:, :-1]
    quiet[:, :-1] &= ~event[:, 1:]
    quiet[:, 0] = False  # no step leads to the first frame
    return quiet


def _kept(values: np.ndarray, quiet: np.ndarray) -> np.ndarray:
    """Values (N, T, ...) of the truth -> (N, 1, ...) their mean over the quiet steps, in which they do not change."""
    chosen = quiet.reshape(*quiet.shape, *[1] * (values.ndim - 2))
    return np.where(chosen, values, 0).sum(axis=1, keepdims=True) / np.maximum(chosen.sum(axis=1, keepdims=True), 1)
