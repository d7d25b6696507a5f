"""Uniform motion: a ball rolls over the frame at one speed, to the left or to the right. phyworld's first world; no torch."""

from __future__ import annotations

import numpy as np

from bench.data.physics.rigid import (
    RADIUS,
    SIDE,
    SPAN_S,
    SPEED,
    Bodies,
    between,
    check_crosses,
    check_room,
    lasts,
    middle,
    mirrored,
    rigid_world,
    times,
)
from bench.data.physics.world import Ranges, Scene
from bench.shapes import Shape


def move(scene: Scene, rng: np.random.Generator) -> Bodies:
    """Twin `turned`: it turns back at once, with nothing in its way."""
    radius, speed = scene.start["radius"], scene.start["speed"]
    across, down = rng.uniform(size=2)
    passed = times(scene)
    velocity = np.full(len(passed), speed)
    if scene.altered == "turned":
        turn = middle(scene)
        velocity[turn:] *= -1
        passed = np.where(np.arange(len(passed)) < turn, passed, 2 * passed[turn - 1] - passed)
    x = between(radius, max(radius, SIDE - radius - speed * SPAN_S), across) + speed * passed
    y = np.full(len(passed), between(radius, SIDE - radius, down))
    bodies = Bodies(
        place=np.stack([x, y], axis=-1)[:, None],
        velocity=np.stack([velocity, np.zeros(len(passed))], axis=-1)[:, None],
        radius=np.full((len(passed), 1), radius),
    )
    return mirrored(bodies) if rng.uniform() < 0.5 else bodies


def check(ranges: Ranges, shape: Shape, fps: float) -> None:
    """A ball fits, and most of them stay for half of a clip."""
    check_room("a ball", 2 * max(high for _, high in ranges["radius"]))
    check_crosses(ranges["radius"][0], ranges["speed"][0], lasts(shape, fps))


MOTION = rigid_world(
    name="motion",
    says="a ball moves at one speed",
    parameters=(RADIUS, SPEED),
    withheld=("radius", "speed"),
    num_bodies=1,
    move=move,
    check=check,
    breaks=("turned",),
)
