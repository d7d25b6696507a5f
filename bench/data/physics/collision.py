"""Elastic collision: two balls meet on a horizontal line in the middle of the frame. phyworld's second world; no torch.

Masses are the discs' areas. Each ball has the ranges of the one ball of the other worlds; phyworld draws the line's height too, and radii
from 0.5 to 1.5.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.data.physics.rigid import (
    RADIUS,
    SIDE,
    SPEED,
    Bodies,
    between,
    broken_at,
    check_crosses,
    check_room,
    lasts,
    mirrored,
    rigid_world,
    times,
)
from bench.data.physics.world import Ranges, Scene
from bench.shapes import Shape

MEETING_S = (0.35, 0.7)  # when balls meet: after four frames, and before a clip of twelve is over for long enough to see what follows
SEEN_S = 1.1  # seconds, of 12 frames, for which places keep both balls inside, where they can
LEAST_GAP = 0.2  # units between the balls' rims at the start; slower ones do not meet in time
OVER_ELASTIC = 1.5  # speed at which balls part over that at which they meet, in the twin


def move(scene: Scene, rng: np.random.Generator) -> Bodies | None:
    """Twins: `over_elastic`, the balls part with more energy than they met with; `pass_through`, they do not meet at all."""
    radii = np.array([scene.start["radius_1"], scene.start["radius_2"]])
    before = np.array([scene.start["speed_1"], -scene.start["speed_2"]])
    when, across, side = rng.uniform(size=3)
    closing = before[0] - before[1]
    most_gap = SIDE - 2 * radii.sum()
    gap = min(max(closing * between(*MEETING_S, when), LEAST_GAP), max(most_gap, 0.0))
    meets_s = gap / closing if closing > 0 else np.inf
    passed = times(scene)
    if scene.altered in ("over_elastic", "pass_through") and not broken_at(scene) < meets_s < passed[-1]:
        return None
    starts = np.array([0.0, radii.sum() + gap])
    low, high = _extent(starts, radii, before, meets_s)
    first, last = radii[0], SIDE - radii[1] - starts[1]  # both balls begin inside
    starts = starts + np.clip(between(-low, SIDE - high, across), first, max(first, last))
    x, velocity = _path(passed, starts, radii, before, meets_s, scene.altered)  # (T, 2) each
    collided = np.zeros((len(passed), 2), bool)
    if scene.altered != "pass_through" and meets_s <= passed[-1]:
        collided[np.searchsorted(passed, meets_s)] = True
    bodies = Bodies(
        place=np.stack([x, np.full_like(x, SIDE / 2)], axis=-1),
        velocity=np.stack([velocity, np.zeros_like(velocity)], axis=-1),
        radius=np.tile(radii, (len(passed), 1)),
        collided=collided,
    )
    return mirrored(bodies) if side < 0.5 else bodies


def _path(
    passed: np.ndarray, starts: np.ndarray, radii: np.ndarray, before: np.ndarray, meets_s: float, altered: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Places and velocities (T, 2) on the line at times (T,): straight until the balls meet, and after."""
    mass = radii**2
    centre = (mass * before).sum() / mass.sum()  # velocity of the centre of mass: does not change
    parting = {"pass_through": 1.0, "over_elastic": -OVER_ELASTIC}.get(altered or "", -1.0)
    after = centre + parting * (before - centre)
    late = np.maximum(passed - meets_s, 0)[:, None]
    velocity = np.where(passed[:, None] >= meets_s, after, before)
    return starts + before * (passed[:, None] - late) + after * late, velocity


def _extent(starts: np.ndarray, radii: np.ndarray, before: np.ndarray, meets_s: float) -> tuple[float, float]:
    """Leftmost and rightmost edge that the balls reach: their ways are straight between these times."""
    x, _ = _path(np.array([0.0, min(meets_s, SEEN_S), SEEN_S]), starts, radii, before, meets_s, None)
    return float((x - radii).min()), float((x + radii).max())


def check(ranges: Ranges, shape: Shape, fps: float) -> None:
    """Both balls fit beside each other, and stay for half of a clip."""
    check_room("two balls side by side", 2 * sum(max(high for _, high in ranges[name]) for name in ("radius_1", "radius_2")) + LEAST_GAP)
    for ball in "12":
        check_crosses(ranges[f"radius_{ball}"][0], ranges[f"speed_{ball}"][0], lasts(shape, fps))


COLLISION = rigid_world(
    name="collision",
    says="two balls meet and part without loss",
    parameters=tuple(
        replace(known, name=f"{known.name}_{ball}", meaning=meaning)
        for ball, which in (("1", "first"), ("2", "second"))
        for known, meaning in ((RADIUS, f"radius of the {which} ball"), (SPEED, f"speed of the {which} ball towards the other"))
    ),
    withheld=("radius_1", "speed_1"),
    num_bodies=2,
    move=move,
    check=check,
    breaks=("over_elastic", "pass_through"),
)
