"""Stacked bodies: a disc falls onto two that lie side by side on a floor, and pushes them apart; by pymunk, no torch.

Nothing rubs and nothing spins. Every contact takes energy, so energy never rises. The floor is the square's bottom; bodies that are pushed
far slide out of the frame.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pymunk

from bench.data.physics.rigid import SIDE, Bodies, between, check_room, mirrored, rigid_world, times
from bench.data.physics.world import Parameter, Ranges, Scene
from bench.shapes import Refusal, Shape

GRAVITY = 9.8  # units per second squared
RESTITUTION = 0.5  # speed at which two discs part over that at which they meet; of a disc and the floor its root
OVER_ELASTIC = 1.4  # the same in the twin
LYING = (0.9, 1.2)  # radius of those that lie, both the same
GAP = (0.1, 0.6)  # units between them
STEP_S = 1 / 1000  # longest physics step
SLOP = 1e-3  # units that bodies may sink into each other; pymunk's 0.1 is meant for pixels
THICK = 4.0  # of the floor: nothing falls through between two steps
DISC, FLOOR = 1, 2  # kinds of shapes


def move(scene: Scene, rng: np.random.Generator) -> Bodies | None:
    """Twins, all after the known frames: `over_elastic`, contacts give energy; `pass_through`, discs do not meet; `gravity_flipped`."""
    radius, height, offset = (scene.start[name] for name in ("radius", "height", "offset"))
    shares = rng.uniform(size=3)
    lying, gap = between(*LYING, shares[0]), between(*GAP, shares[1])
    apart = lying + gap / 2
    centre = between(SIDE * 0.45, SIDE * 0.55, shares[2])
    # It falls straight down, and by `height` before it would touch the one that lies nearer, or both.
    reach, aside = radius + lying, apart - abs(offset)
    touches = SIDE - lying - math.sqrt(max(reach**2 - aside**2, 0.0))
    rests = SIDE - lying + SLOP  # in touch with the floor from the first step on
    places = [(centre - apart, rests), (centre + apart, rests), (centre + offset, touches - height)]
    bodies = _simulated(scene, places, (lying, lying, radius))
    if scene.altered in ("over_elastic", "pass_through"):
        valid = _simulated(replace(scene, altered=None), places, (lying, lying, radius))
        assert valid.collided is not None
        if not valid.collided[scene.known :].any():
            return None
    return mirrored(bodies) if rng.uniform() < 0.5 else bodies


def _simulated(scene: Scene, places: list[tuple[float, float]], radii: tuple[float, ...]) -> Bodies:
    """The discs from rest; a body has collided where it came to touch another, or the floor, after the first step."""
    space = pymunk.Space()
    space.gravity = (0.0, GRAVITY)
    space.iterations, space.collision_slop = 50, SLOP
    floor = pymunk.Segment(space.static_body, (-10 * SIDE, SIDE + THICK), (11 * SIDE, SIDE + THICK), THICK)
    floor.elasticity, floor.collision_type = 1.0, FLOOR
    space.add(floor)
    bodies, discs = [], []
    for start, radius in zip(places, radii, strict=True):
        body = pymunk.Body(math.pi * radius**2, math.inf)
        disc = pymunk.Circle(body, radius)
        disc.elasticity, disc.friction, disc.collision_type = math.sqrt(RESTITUTION), 0.0, DISC
        body.position = start
        space.add(body, disc)
        bodies.append(body)
        discs.append(disc)
    touched: set[pymunk.Shape] = set()
    for kind in (DISC, FLOOR):
        space.on_collision(DISC, kind, begin=lambda arbiter, _, __: touched.update(arbiter.shapes))
    passed = times(scene)
    place, velocity = np.empty((len(passed), len(discs), 2)), np.empty((len(passed), len(discs), 2))
    collided = np.zeros((len(passed), len(discs)), bool)
    for frame, now in enumerate(passed):
        if frame == scene.known and scene.altered:
            _break(scene.altered, space, discs)
        num_steps = math.ceil((now - passed[frame - 1]) / STEP_S - 1e-6) if frame else 0
        for step in range(num_steps):
            space.step((now - passed[frame - 1]) / num_steps)
            if frame == 1 and step == 0:
                touched.clear()  # what lies on the floor from the start has not collided
        place[frame] = [tuple(body.position) for body in bodies]
        velocity[frame] = [tuple(body.velocity) for body in bodies]
        collided[frame] = [disc in touched for disc in discs]
        touched.clear()
    return Bodies(place=place, velocity=velocity, radius=np.tile(radii, (len(passed), 1)), collided=collided, gravity=GRAVITY)


def _break(law: str, space: pymunk.Space, discs: list[pymunk.Circle]) -> None:
    """From now on a law does not hold. Those that any world can break are broken later."""
    if law == "gravity_flipped":
        space.gravity = (0.0, -GRAVITY)
    for disc in discs:
        if law == "over_elastic":
            disc.elasticity = math.sqrt(OVER_ELASTIC)
        if law == "pass_through":
            disc.filter = pymunk.ShapeFilter(group=1)  # shapes of one group do not meet


def check(ranges: Ranges, shape: Shape, fps: float) -> None:
    """The falling disc begins inside, and falls onto the two."""
    radius, height, offset = (max(high for _, high in ranges[name]) for name in ("radius", "height", "offset"))
    check_room("a disc above two", 2 * (LYING[1] + radius) + height)
    if (least := min(low for low, _ in ranges["offset"])) < 0 or offset > LYING[0]:
        raise Refusal(f"offset from {least:g} to {offset:g} is not between 0 and {LYING[0]:g}, above one of the two; use what is")
    if (lowest := min(low for low, _ in ranges["height"])) < 0:
        raise Refusal(f"height from {lowest:g} begins inside another disc; use 0 or more")


STACK = rigid_world(
    name="stack",
    says="a disc falls onto two others",
    parameters=(
        Parameter(
            name="radius", trained=(0.7, 1.2), beyond=((0.4, 0.6), (1.3, 1.5)), unit="units", meaning="radius of the disc that falls"
        ),
        Parameter(
            name="height", trained=(1.0, 2.5), beyond=((0.3, 0.8), (3.0, 4.0)), unit="units", meaning="that it falls before it touches"
        ),
        Parameter(name="offset", trained=(0.0, 0.6), beyond=((0.7, 0.9),), unit="units", meaning="from the middle between those below"),
    ),
    withheld=("radius", "height"),
    num_bodies=3,
    move=move,
    check=check,
    breaks=("over_elastic", "pass_through", "gravity_flipped"),
    made_with=("pymunk",),
)
