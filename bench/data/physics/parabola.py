"""Projectile: a ball is thrown to the side near the frame's top, and falls. phyworld's third world, with its code's gravity; no torch."""

from __future__ import annotations

import math

import numpy as np

from bench.data.physics.rigid import (
    RADIUS,
    SIDE,
    SPAN_S,
    SPEED,
    Bodies,
    between,
    broken_at,
    check_crosses,
    check_room,
    check_stays,
    lasts,
    mirrored,
    rigid_world,
    times,
)
from bench.data.physics.world import Ranges, Scene
from bench.shapes import Shape

GRAVITY = 2.5  # units per second squared
BELOW_TOP = (0.5, 1.5)  # units between the frame's top and the ball's


def move(scene: Scene, rng: np.random.Generator) -> Bodies:
    """Twin `gravity_flipped`: after the known frames it falls upwards."""
    radius, speed = scene.start["radius"], scene.start["speed"]
    across, down = rng.uniform(size=2)
    passed = times(scene)
    late = np.maximum(passed - broken_at(scene), 0) if scene.altered == "gravity_flipped" else np.zeros(len(passed))
    x = between(radius, max(radius, SIDE - radius - speed * SPAN_S), across) + speed * passed
    y = between(radius + BELOW_TOP[0], radius + BELOW_TOP[1], down) + GRAVITY * passed**2 / 2 - GRAVITY * late**2
    velocity = [np.full(len(passed), speed), GRAVITY * passed - 2 * GRAVITY * late]
    bodies = Bodies(
        place=np.stack([x, y], axis=-1)[:, None],
        velocity=np.stack(velocity, axis=-1)[:, None],
        radius=np.full((len(passed), 1), radius),
        gravity=GRAVITY,
    )
    return mirrored(bodies) if rng.uniform() < 0.5 else bodies


def check(ranges: Ranges, shape: Shape, fps: float) -> None:
    """A ball fits below the top, and most of them stay for half of a clip."""
    largest = max(high for _, high in ranges["radius"])
    check_room("a ball below the frame's top", 2 * largest + BELOW_TOP[1])
    check_crosses(ranges["radius"][0], ranges["speed"][0], lasts(shape, fps))
    falls = SIDE - 2 * ranges["radius"][0][1] - BELOW_TOP[1]
    check_stays("a ball that falls", math.sqrt(2 * falls / GRAVITY), lasts(shape, fps))


PARABOLA = rigid_world(
    name="parabola",
    says="a ball is thrown and falls",
    parameters=(RADIUS, SPEED),
    withheld=("radius", "speed"),
    num_bodies=1,
    move=move,
    check=check,
    breaks=("gravity_flipped",),
)
