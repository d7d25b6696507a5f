"""Pendulum: a bob is let go on a rigid rod that hangs from a pivot, and swings without loss. No torch.

Lengths, angles and gravity lie in the ranges of phyworld's code, narrowed so that the swing fits the frame.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from bench.data.physics.rigid import SIDE, Bodies, between, broken_at, check_room, mirrored, rigid_world, times
from bench.data.physics.world import Parameter, Ranges, Scene
from bench.shapes import Refusal, Shape

GRAVITY = 9.8  # units per second squared
STEP_S = 1e-3  # longest step of the integration: its error is far below rounding of a place in float32
PIVOT_ROOM = 0.3  # units above a pivot


def move(scene: Scene, rng: np.random.Generator) -> Bodies:
    """Twin `gravity_flipped`: after the known frames it swings as if up were down."""
    length, radius, angle = scene.start["length"], scene.start["radius"], math.radians(scene.start["angle"])
    reach = length + radius
    across, down = rng.uniform(size=2)
    side = max(length * math.sin(angle), 0) + radius
    # A place where the whole circle fits, so that the twin's bob stays inside too; of a long rod, where the swing does.
    pivot = np.array([between(reach, SIDE - reach, across), between(reach, SIDE - reach, down)])
    pivot = np.clip(pivot, [side, PIVOT_ROOM], [max(side, SIDE - side), SIDE - reach])
    turns, speeds = _swing(angle, GRAVITY / length, times(scene), broken_at(scene) if scene.altered == "gravity_flipped" else math.inf)
    place = pivot + length * np.stack([np.sin(turns), np.cos(turns)], axis=-1)
    velocity = length * speeds[:, None] * np.stack([np.cos(turns), -np.sin(turns)], axis=-1)
    bodies = Bodies(place=place[:, None], velocity=velocity[:, None], radius=np.full((len(turns), 1), radius), gravity=GRAVITY, pivot=pivot)
    return mirrored(bodies) if rng.uniform() < 0.5 else bodies


def _swing(angle: float, pull: float, passed: np.ndarray, flips_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Angle and its rate at times (T,), from rest: angle'' = -pull sin(angle), with the other sign from `flips_s` on; by Runge-Kutta 4."""
    state = (angle, 0.0)
    found = [state]
    for begin, end in itertools.pairwise(passed):
        signed = -pull if end <= flips_s else pull
        num = max(1, math.ceil((end - begin) / STEP_S))
        for _ in range(num):
            state = _step(*state, signed, (end - begin) / num)
        found.append(state)
    turns, speeds = np.array(found).T
    return turns, speeds


def _step(angle: float, speed: float, pull: float, step_s: float) -> tuple[float, float]:
    half = step_s / 2
    first = pull * math.sin(angle)
    second = pull * math.sin(angle + half * speed)
    third = pull * math.sin(angle + half * (speed + half * first))
    fourth = pull * math.sin(angle + step_s * (speed + half * second))
    turned = angle + step_s * (speed + step_s / 6 * (first + second + third))
    return turned, speed + step_s / 6 * (first + 2 * second + 2 * third + fourth)


def check(ranges: Ranges, shape: Shape, fps: float) -> None:
    """The swing fits the frame, and the bob hangs clear of its pivot."""
    largest = {name: max(high for _, high in every) for name, every in ranges.items()}
    check_room("a rod with its bob", largest["length"] + largest["radius"] + PIVOT_ROOM)
    check_room("a swing", 2 * (largest["length"] * math.sin(math.radians(min(largest["angle"], 90))) + largest["radius"]))
    if (shortest := min(low for low, _ in ranges["length"])) <= largest["radius"]:
        raise Refusal(f"length from {shortest:g} does not reach out of a bob of radius {largest['radius']:g}; use longer rods")
    if (steepest := largest["angle"]) > 90 or min(low for low, _ in ranges["angle"]) < 0:
        raise Refusal(f"angle up to {steepest:g} is not between 0 and 90 degrees from hanging down; use what is")


PENDULUM = rigid_world(
    name="pendulum",
    says="a bob swings on a rod",
    parameters=(
        Parameter(name="length", trained=(2.4, 3.6), beyond=((1.6, 2.2), (3.8, 4.2)), unit="units", meaning="length of the rod"),
        Parameter(
            name="angle", trained=(20, 55), beyond=((5, 15), (60, 75)), unit="degrees", meaning="from hanging down, where it is let go"
        ),
        Parameter(name="radius", trained=(0.5, 0.9), unit="units", meaning="radius of the bob"),
    ),
    withheld=("length", "angle"),
    num_bodies=1,
    move=move,
    check=check,
    breaks=("gravity_flipped",),
)
