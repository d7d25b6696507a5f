"""Rigid bodies that fall into a box, by PyBullet, drawn on the CPU, with their exact state in three dimensions.

The first body is the class; two or three smaller ones of any kind fall with it. x points right, y away from the camera, z up; the
floor is z = 0, gravity 9.81 m/s^2 downwards, `CAMERA` looks on.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.data.recorders.contract import ClipMaker, Recorded, Recorder

HEIGHT, WIDTH = 120, 160
STEPS_PER_S = 240  # of the engine, its own default
STEPS = 16  # from one frame to the next
KINDS = ("box", "sphere", "cylinder")
COLOURS = ((0.9, 0.15, 0.15), (0.15, 0.35, 0.9), (0.15, 0.75, 0.25), (0.95, 0.8, 0.1), (0.75, 0.2, 0.8), (0.1, 0.8, 0.85))
HALF = 1.2  # metres from the middle to a wall
PLACES = ((-0.5, -0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, 0.5))  # x and y above which bodies start, so that none is in another
RADIUS = ((0.3, 0.38), (0.16, 0.24))  # metres, of the first body and of the others
THICK = 0.05  # metres, half of what a wall has
BOUNCE = 0.8  # restitution of everything; the engine multiplies those of two bodies
SPEED = 2.0  # metres a second, at most along x and y, at the start
SPIN = 4.0  # radians a second, at most about each axis
CAMERA = {"eye": (0.0, -3.1, 2.9), "target": (0.0, -0.1, 0.45), "up": (0.0, 0.0, 1.0), "field_of_view": 50.0}  # metres; degrees, upright


@contextlib.contextmanager
def _opened(kind: str) -> Iterator[ClipMaker]:
    """The engine, with nothing in it."""
    import pybullet

    client = pybullet.connect(pybullet.DIRECT)
    try:
        yield lambda seed, num_frames: _clip(pybullet, client, kind, seed, num_frames)
    finally:
        pybullet.disconnect(client)


def _clip(engine: Any, client: int, kind: str, seed: int, num_frames: int) -> Recorded:
    """A box is built, bodies are dropped, and what follows is drawn."""
    rng = np.random.default_rng(seed)
    engine.resetSimulation(physicsClientId=client)
    engine.setGravity(0, 0, -9.81, physicsClientId=client)
    _build_box(engine, client)
    num_bodies = int(rng.integers(3, 5))
    kinds = [kind, *(KINDS[index] for index in rng.integers(len(KINDS), size=num_bodies - 1))]
    colours = [COLOURS[index] for index in rng.permutation(len(COLOURS))[:num_bodies]]
    radii = [rng.uniform(*RADIUS[min(body, 1)]) for body in range(num_bodies)]
    masses = np.array([1000 * radius**3 for radius in radii])  # kilograms
    bodies = []
    for place, (of, radius, mass, colour) in zip(rng.permutation(PLACES), zip(kinds, radii, masses, colours, strict=True), strict=False):
        at = (*(place + rng.uniform(-0.05, 0.05, 2)), rng.uniform(0.6, 1.6))
        turned = rng.normal(size=4)
        body = _body(engine, client, of, radius, mass, at, tuple(turned / np.linalg.norm(turned)), colour)
        velocity = (*rng.uniform(-SPEED, SPEED, 2), 0.0)
        engine.resetBaseVelocity(body, velocity, rng.uniform(-SPIN, SPIN, 3).tolist(), physicsClientId=client)
        bodies.append(body)
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    rows: dict[str, list[list[Any]]] = {"position": [], "orientation": [], "velocity": [], "angular_velocity": []}
    view = engine.computeViewMatrix(CAMERA["eye"], CAMERA["target"], CAMERA["up"])
    projection = engine.computeProjectionMatrixFOV(CAMERA["field_of_view"], WIDTH / HEIGHT, 0.1, 20.0)
    for frame in range(num_frames):
        frames[frame] = _drawn(engine, client, view, projection)
        placed = [engine.getBasePositionAndOrientation(body, physicsClientId=client) for body in bodies]
        moving = [engine.getBaseVelocity(body, physicsClientId=client) for body in bodies]
        for name, values in zip(rows, (*zip(*placed, strict=True), *zip(*moving, strict=True)), strict=True):
            rows[name].append(list(values))
        for _ in range(STEPS):
            engine.stepSimulation(physicsClientId=client)
    state = {name: np.array(values) for name, values in rows.items()}  # (T, bodies, 3), of orientation (T, bodies, 4): x, y, z, w
    constant = {"kind": np.array(kinds), "radius": np.array(radii), "mass": masses, "colour": np.array(colours)}  # (bodies, ...)
    return Recorded(frames=frames, state=state | constant)


def _build_box(engine: Any, client: int) -> None:
    """A floor and four walls without an end, which are not drawn; three low walls that are drawn, and hold nothing."""
    for normal in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)):
        plane = engine.createCollisionShape(engine.GEOM_PLANE, planeNormal=normal, physicsClientId=client)
        wall = engine.createMultiBody(0, plane, -1, [-HALF * along for along in normal], physicsClientId=client)
        engine.changeDynamics(wall, -1, restitution=BOUNCE, physicsClientId=client)
    outer, low, grey = HALF + THICK, HALF / 2, (0.5, 0.55, 0.65, 1)
    for at, half, colour in (
        ((0, 0, -THICK), (HALF, HALF, THICK), (0.8, 0.8, 0.75, 1)),
        ((-outer, 0, low), (THICK, HALF, low), grey),
        ((outer, 0, low), (THICK, HALF, low), grey),
        ((0, outer, low), (HALF, THICK, low), grey),
    ):
        look = engine.createVisualShape(
            engine.GEOM_BOX, halfExtents=half, rgbaColor=colour, specularColor=(0, 0, 0), physicsClientId=client
        )
        solid = engine.createCollisionShape(engine.GEOM_BOX, halfExtents=half, physicsClientId=client) if at[2] < 0 else -1
        part = engine.createMultiBody(0, solid, look, at, physicsClientId=client)
        engine.changeDynamics(part, -1, restitution=BOUNCE, physicsClientId=client)


def _body(engine: Any, client: int, kind: str, radius: float, mass: float, at: tuple, turned: tuple, colour: tuple) -> int:
    """A body of one colour: a cube of edge 1.6 radii, a sphere, a cylinder as high as it is wide."""
    extents: dict[str, dict[str, Any]] = {
        "box": {"halfExtents": (0.8 * radius,) * 3},
        "sphere": {"radius": radius},
        "cylinder": {"radius": 0.85 * radius, "height": 1.7 * radius},
    }
    extent = extents[kind]
    shape = {"box": engine.GEOM_BOX, "sphere": engine.GEOM_SPHERE, "cylinder": engine.GEOM_CYLINDER}[kind]
    solid = engine.createCollisionShape(shape, **extent, physicsClientId=client)
    seen = {"length" if key == "height" else key: value for key, value in extent.items()}  # the same under another name
    look = engine.createVisualShape(shape, **seen, rgbaColor=(*colour, 1), specularColor=(0, 0, 0), physicsClientId=client)
    body = engine.createMultiBody(mass, solid, look, at, turned, physicsClientId=client)
    engine.changeDynamics(body, -1, restitution=BOUNCE, lateralFriction=0.4, rollingFriction=0.002, physicsClientId=client)
    return body


def _drawn(engine: Any, client: int, view: Any, projection: Any) -> np.ndarray:
    """A frame (H, W, 3) uint8."""
    *_, pixels, _, _ = engine.getCameraImage(
        WIDTH, HEIGHT, view, projection, lightDirection=(1, -2, 4), shadow=0,
        renderer=engine.ER_TINY_RENDERER, flags=engine.ER_NO_SEGMENTATION_MASK, physicsClientId=client,
    )  # fmt: skip
    return np.reshape(pixels, (HEIGHT, WIDTH, 4))[..., :3]


PYBULLET = Recorder(
    name="pybullet",
    version=1,
    records="boxes, spheres and cylinders that fall into a box, with their exact state",
    licence="none claimed: plain shapes; the engine is under the zlib licence",
    notice="Drawn by PyBullet, Erwin Coumans and contributors.",
    package="pybullet",
    extra="games",
    classes=KINDS,
    height=HEIGHT,
    width=WIDTH,
    num_frames=16,
    fps=STEPS_PER_S / STEPS,
    has_state=True,
    open=_opened,
)
