"""The world `liquid`: a drop of dyed liquid falls into a pool, two-dimensional, incompressible, with a free surface.

Lengths in the frame's shorter side, x to the right, y down; seconds; density 1. The frame is the tank: its sides and floor are closed
and slippery; what reaches the lid stops there and falls. There is air above, without weight, and no surface tension.

A start says the two discs that the drop is made of (one on the other, side by side, or apart: two drops), the pool beneath, and gravity.
Free, from the seed: where the drop falls, its hue, and where in their cells the particles lie.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.data.physics.fluid.drawing import HUES, dye_colour, picture
from bench.data.physics.fluid.flow import Flow
from bench.data.physics.fluid.state import truth_of
from bench.data.physics.fluid.tank import Tank
from bench.data.physics.fluid.twins import TWINS, go_on
from bench.data.physics.world import Film, Parameter, Range, Scene, World
from bench.shapes import Refusal, Shape

SIDE = "shorter side"
LEAST_FPS = 2.0  # frames per second: below it a clip takes minutes and shows a pool that lies still
ROOM = 0.03  # lengths, about two cells: between drop and pool, walls and lid at the start, and from a pool's surface to the floor
PARAMETERS = (
    Parameter(name="radius", trained=(0.08, 0.12), beyond=((0.05, 0.07), (0.13, 0.14)), unit=SIDE, meaning="of the drop"),
    Parameter(name="height", trained=(0.12, 0.24), beyond=((0.27, 0.31),), unit=SIDE, meaning="of the drop's lower edge above the pool"),
    Parameter(name="speed", trained=(0.1, 0.6), beyond=((0.8, 1.2),), unit=f"{SIDE}/s", meaning="of the drop at the start, downward"),
    Parameter(name="depth", trained=(0.2, 0.3), beyond=((0.12, 0.17), (0.33, 0.36)), unit=SIDE, meaning="of the pool, on average"),
    Parameter(name="gravity", trained=(3.0, 5.0), beyond=((1.5, 2.5), (6.0, 7.0)), unit=f"{SIDE}/s2", meaning="downward"),
    Parameter(name="tilt", trained=(-0.06, 0.06), beyond=((-0.13, -0.1), (0.1, 0.13)), unit=SIDE, meaning="rise of the pool to the right"),
    Parameter(name="apart", trained=(0.0, 0.5), beyond=((2.4, 2.8),), unit="radius", meaning="of the drop's discs; above 2: two drops"),
)  # fmt: skip


def check(ranges: Mapping[str, tuple[Range, ...]], shape: Shape, fps: float) -> None:
    """Refusal where a drop would start outside the frame or in the pool, or a pool has no depth."""
    if fps < LEAST_FPS:
        raise Refusal(f"fps = {fps:g} of world liquid: a frame would take {1 / fps:.3g} seconds of splashing; use {LEAST_FPS:g} or more")
    tank = Tank.of_frame(*shape[1:])
    least = {name: min(low for low, _ in every) for name, every in ranges.items()}
    most = {name: max(high for _, high in every) for name, every in ranges.items()}
    lean = max(-least["tilt"], most["tilt"]) / 2
    for name, low in (("radius", ROOM), ("gravity", 0.1), ("speed", 0.0), ("apart", 0.0)):
        if least[name] < low:
            raise Refusal(f"{name} = {least[name]:g} of world liquid: it must be at least {low:g}")
    if least["depth"] < lean + ROOM:
        raise Refusal(f"depth = {least['depth']:g} with tilt {2 * lean:g} leaves a part of the floor dry; use {lean + ROOM:.3g} or more")
    if least["height"] < lean + ROOM:
        raise Refusal(
            f"height = {least['height']:g} with tilt {2 * lean:g}: the drop does not fit above the pool; use {lean + ROOM:.3g} or more"
        )
    top = most["depth"] + most["height"] + 2 * most["radius"]
    if top > tank.height - ROOM:
        raise Refusal(
            f"depth, height and radius up to {most['depth']:g}, {most['height']:g} and {most['radius']:g} put the drop's top at {top:.3g}, "
            f"outside the frame; their sum, the radius twice, must be at most {tank.height - ROOM:.3g}"
        )
    reach = most["radius"] * (1 + most["apart"] / 2)
    if 2 * reach > tank.width - 2 * ROOM:
        raise Refusal(
            f"radius and apart up to {most['radius']:g} and {most['apart']:g} make a drop {2 * reach:.3g} wide, outside the frame; "
            f"it must be at most {tank.width - 2 * ROOM:.3g}"
        )


def begin(scene: Scene) -> tuple[Flow, tuple[float, float], float]:
    """The liquid at the first frame, the left and right end of the drop's way down, and its hue."""
    start, tank, rng = scene.start, Tank.of_frame(*scene.shape[1:]), np.random.default_rng(scene.seed)
    radius, reach = start["radius"], start["radius"] * (1 + start["apart"] / 2)
    middle = reach + ROOM + rng.uniform() * (tank.width - 2 * (reach + ROOM))
    hue = float(rng.uniform(*HUES))
    rows, columns = tank.shape
    # Four places in each cell of the tank, moved a little at random; the liquid has those inside it. So a start that is a little
    # different has almost the same particles, and as many as its area asks for.
    lattice = np.stack(np.meshgrid(np.arange(2 * columns), np.arange(2 * rows))).reshape(2, -1)
    places = (lattice + rng.uniform(0.3, 0.7, lattice.shape)) / 2 * np.array(tank.cell)[:, None]
    pool = tank.height - places[1] < start["depth"] + start["tilt"] * (places[0] / tank.width - 0.5)
    down = tank.height - start["depth"] - start["height"] - radius
    across = np.abs(places[0] - middle) - start["apart"] * radius / 2  # from either disc's middle, the one on this side
    dyed = np.hypot(np.where(across > -radius, across, -radius), places[1] - down) < radius
    both = pool | dyed
    velocities = np.stack([np.zeros(both.sum()), start["speed"] * dyed[both]])
    flow = Flow(tank=tank, gravity=start["gravity"], places=places[:, both], velocities=velocities, dyed=dyed[both])
    return flow, (middle - reach, middle + reach), hue


def film(scene: Scene) -> Film | None:
    """A clip; of a broken law None where nothing in this clip obeys it after the known frames (fluid/twins.py)."""
    num_frames, height, width = scene.shape
    flow, span, hue = begin(scene)
    num_shared = num_frames if scene.altered is None else min(scene.known, num_frames)
    moments = go_on(flow, num_shared, 1 / scene.fps, first=True)
    if scene.altered is not None:
        altered = TWINS[scene.altered](flow, moments, scene)
        if num_shared == num_frames or altered is None:
            return None
        moments, flow = altered
    truth = truth_of(moments, flow, span, width)
    truth["gravity"] = np.full((num_frames, 1), scene.start["gravity"])
    truth["dye"] = np.tile(dye_colour(hue), (num_frames, 1, 1))
    frames = picture(np.stack([each["cover"] for each in moments]), dye_colour(hue), height, width)
    return Film(frames=frames, truth=truth)


LIQUID = World(
    name="liquid",
    version=1,
    says="a drop of dyed liquid falls into a pool and splashes",
    unit=SIDE,
    fps=25.0,
    parameters=PARAMETERS,
    withheld=("radius", "height"),
    twins=tuple(TWINS),
    film=film,
    check=check,
    made_with=("numpy", "scipy"),
    spread=True,
)
