"""What the worlds of rigid bodies share: discs drawn from their exact state, and the two laws that any of them can break. No torch.

Units: the frame's shorter side is 10 units; x to the right, y down, both from the frame's top left corner; time in seconds. All happens in
the square of 10 by 10 units in the middle of the frame, and places are drawn for a clip of `SPAN_S`. So a start has the same motion at any
number of frames, rate, height and width.

Ranges of radius and speed, the square of 10 units and the 0.1 seconds of a frame are phyworld's (arXiv 2411.02385; numbers as in its code,
github.com/phyworld/phyworld, id_ood_data/: training has radii to 1.4 in uniform motion and parabola, and 0.5 to 1.5 in collisions).
A large and fast ball leaves the frame before a long clip ends, as it does there; one ball inside the trained ranges stays for `SPAN_S`.
The truth goes on outside, and a score leaves out the frames in which a body is cut.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bench.data.physics.world import Film, Parameter, Range, Ranges, Scene, World
from bench.data.worlds.drawing import BACKGROUND, STATE, render
from bench.shapes import Refusal, Shape

SIDE = 10.0  # units of a frame's shorter side
FPS = 10.0  # frames per second
SPAN_S = 1.5  # seconds, of 16 frames: places are drawn so that bodies stay inside for as long, where they can
LEAST_PIXELS = 0.5  # radius of the smallest body that can be read
JUMP = 2.0  # units, the least that a teleported body jumps
GROWTH = 0.6  # share of its radius by which a growing body grows in a second
TWINS = ("teleport", "growing")  # laws that any of these worlds can break: a body stays in its place, and keeps its size

RADIUS = Parameter(name="radius", trained=(0.7, 1.4), beyond=((0.3, 0.6), (1.5, 2.0)), unit="units", meaning="radius of the ball")
SPEED = Parameter(
    name="speed", trained=(1.0, 4.0), beyond=((0.0, 0.8), (4.5, 6.0)), unit="units/s", meaning="horizontal speed at the start"
)


@dataclass(frozen=True, kw_only=True)
class Bodies:
    """Discs of K bodies over the T frames of a clip, in the square."""

    place: np.ndarray  # (T, K, 2) units, x and y of the centres
    velocity: np.ndarray  # (T, K, 2) units per second
    radius: np.ndarray  # (T, K) units
    collided: np.ndarray | None = None  # (T, K) bool: it met another, or a floor, since the frame before; None: nothing ever does
    gravity: float = 0.0  # units per second squared, downwards
    pivot: np.ndarray | None = None  # (2,) where a rod to the one body hangs


Move = Callable[[Scene, np.random.Generator], Bodies | None]  # what follows from a start; None as in `World.film`
RoomCheck = Callable[[Ranges, Shape, float], None]  # as in `World.check`


def rigid_world(
    *,
    name: str,
    says: str,
    parameters: tuple[Parameter, ...],
    withheld: tuple[str, str],
    num_bodies: int,
    move: Move,
    check: RoomCheck,
    breaks: tuple[str, ...] = (),
    version: int = 1,
    made_with: tuple[str, ...] = (),
) -> World:
    """A world of discs. `breaks`: the laws that `move` itself can break, beside TWINS."""
    twins = (*breaks, *TWINS)
    return World(
        name=name,
        version=version,
        says=says,
        unit="tenth of the frame's shorter side",
        fps=FPS,
        parameters=parameters,
        withheld=withheld,
        twins=twins,
        film=functools.partial(_film, move, num_bodies, twins),
        check=functools.partial(_check, check),
        made_with=made_with,
    )


def _film(move: Move, num_bodies: int, twins: tuple[str, ...], scene: Scene) -> Film | None:
    if scene.altered not in (None, *twins):
        raise Refusal(f"law {scene.altered!r} cannot be broken here; {', '.join(twins)} can")
    if scene.altered and scene.known >= scene.shape[0]:
        return None  # no frame is left to break it in
    rng = np.random.default_rng(scene.seed)
    hues = _hues(num_bodies, rng)
    bodies = move(scene, rng)
    if bodies is not None and scene.altered == "teleport":
        bodies = _teleported(bodies, scene)
    if bodies is not None and scene.altered == "growing":
        since = np.maximum(times(scene) - broken_at(scene), 0)
        bodies = replace(bodies, radius=bodies.radius * (1 + GROWTH * since)[:, None])
    return None if bodies is None else _finished(bodies, hues, scene)


def _hues(num: int, rng: np.random.Generator) -> np.ndarray:
    """Hues in turns, a third of a turn or more apart: so far apart, colours that mix at an edge can be told from each other."""
    first, spare = rng.uniform(), rng.uniform(-1, 1)
    apart = np.arange(num) / max(num, 2) + (spare / 6 if num == 2 else 0) * np.arange(num)
    return (first + apart) % 1.0


def times(scene: Scene) -> np.ndarray:
    """(T,) seconds."""
    return np.arange(scene.shape[0]) / scene.fps


def broken_at(scene: Scene) -> float:
    """Time of the last known frame: a law holds until then."""
    return float(times(scene)[scene.known - 1])


def middle(scene: Scene) -> int:
    """The first frame that shows a break which happens at once: in the middle of those after the known ones."""
    return scene.known + (scene.shape[0] - scene.known) // 2


def between(low: float, high: float, share: float) -> float:
    """The value at a share of the way from `low` to `high`; the middle where there is no way."""
    return low + share * (high - low) if high > low else (low + high) / 2


def mirrored(bodies: Bodies) -> Bodies:
    """Left and right changed."""
    place, velocity = bodies.place.copy(), bodies.velocity.copy()
    place[..., 0], velocity[..., 0] = SIDE - place[..., 0], -velocity[..., 0]
    return replace(bodies, place=place, velocity=velocity)


def _teleported(bodies: Bodies, scene: Scene) -> Bodies | None:
    """From the middle on, the first body goes on in another place, inside the square and clear of the others; None where none is free."""
    rng, after = np.random.default_rng([scene.seed, 1]), slice(middle(scene), None)
    radius, was = bodies.radius[after, :1], bodies.place[after, :1]
    for _ in range(200):
        jump = rng.uniform(-SIDE, SIDE, size=2)
        now = was + jump
        clear = np.linalg.norm(now - bodies.place[after, 1:], axis=-1) >= radius + bodies.radius[after, 1:]
        near = np.minimum(np.minimum(was, SIDE - was) - radius[..., None], 0)  # no further out than it was
        inside = np.minimum(now, SIDE - now) - radius[..., None] >= near
        if np.linalg.norm(jump) >= JUMP and clear.all() and inside.all():
            place = bodies.place.copy()
            place[after, :1] = now
            return replace(bodies, place=place)
    return None


def _finished(bodies: Bodies, hues: np.ndarray, scene: Scene) -> Film:
    """Frames, and the exact state of all bodies. Mass is the disc's area; height counts from the square's bottom."""
    num_frames, num_bodies = bodies.radius.shape
    _, height, width = scene.shape
    origin = np.array(frame_units(height, width)) / 2 - SIDE / 2  # of the square, in the frame
    mass = math.pi * bodies.radius**2  # (T, K)
    place = bodies.place + origin
    collided = np.zeros((num_frames, num_bodies)) if bodies.collided is None else bodies.collided
    truth = {
        "x": place[..., 0],
        "y": place[..., 1],
        "vx": bodies.velocity[..., 0],
        "vy": bodies.velocity[..., 1],
        "radius": bodies.radius,
        "mass": mass,
        "hue": np.broadcast_to(hues, (num_frames, num_bodies)),
        "kinetic_energy": mass * (bodies.velocity**2).sum(axis=-1) / 2,
        "potential_energy": mass * bodies.gravity * (SIDE - bodies.place[..., 1]),
        "collided": collided.astype(np.float64),
    }
    frames = draw(place[None], bodies.radius[None], truth["hue"][None], height, width)[0]
    if bodies.pivot is not None:
        hang(frames, bodies.pivot + origin, place[:, 0], bodies.radius[:, 0])
    return Film(frames=frames, truth={name: np.ascontiguousarray(values) for name, values in truth.items()})


def frame_units(height: int, width: int) -> tuple[float, float]:
    """Width and height of a frame of (H, W) pixels, in units."""
    return (SIDE * width / min(height, width), SIDE * height / min(height, width))


def draw(place: np.ndarray, radius: np.ndarray, hue: np.ndarray, height: int, width: int) -> np.ndarray:
    """Discs at (N, T, K, 2) units with radii and hues (N, T, K) -> frames (N, T, H, W, 3) uint8, drawn as the source `worlds` does."""
    states = np.zeros((*radius.shape, len(STATE)))
    fields = {"x": place[..., 0] / SIDE, "y": place[..., 1] / SIDE, "radius": radius / SIDE, "hue": hue}
    for name, values in fields.items():
        states[..., STATE.index(name)] = values
    return render(states, height, width)


ROD_LEVEL = 96  # grey, well below any colour of a body
ROD_WIDTH = 0.25  # units


def hang(frames: np.ndarray, pivot: np.ndarray, place: np.ndarray, radius: np.ndarray) -> None:
    """Draws, into frames (T, H, W, 3) of discs at (T, 2) with radii (T,), a rod from a pivot (2,) that ends behind each; all in units."""
    _, height, width, _ = frames.shape
    scale = min(height, width) / SIDE  # pixels a unit
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1) / scale  # (H, W, 2) units
    length = np.linalg.norm(place - pivot, axis=-1)[:, None, None]
    along = (place - pivot)[:, None, None] / length[..., None]  # (T, 1, 1, 2)
    nearest = pivot + np.clip(((pixels - pivot) * along).sum(axis=-1), 0, length)[..., None] * along  # (T, H, W, 2), on the rod
    to_rod = np.linalg.norm(pixels - nearest, axis=-1) - ROD_WIDTH / 2
    to_disc = np.linalg.norm(pixels - place[:, None, None], axis=-1) - radius[:, None, None]
    rod, disc = (np.clip(0.5 - distance * scale, 0, 1) for distance in (to_rod, to_disc))
    frames += (rod * (1 - disc) * (ROD_LEVEL - BACKGROUND) + 0.5).astype(np.uint8)[..., None]


def _check(check: RoomCheck, ranges: Ranges, shape: Shape, fps: float) -> None:
    """What holds of every world of discs, then what its own `check` says."""
    for name, every in ranges.items():
        if name.startswith("radius") and (least := min(low for low, _ in every)) * min(shape[1:]) / SIDE < LEAST_PIXELS:
            raise Refusal(
                f"{name} from {least:g} is a disc of {max(least, 0) * min(shape[1:]) / SIDE:.2g} pixels' radius in {shape[1]}x{shape[2]}; "
                f"use radii from {LEAST_PIXELS * SIDE / min(shape[1:]):.2g}, or larger frames"
            )
    check(ranges, shape, fps)


def check_room(what: str, needed: float) -> None:
    """Refusal where bodies need more than the square."""
    if needed > SIDE:
        raise Refusal(f"{what} needs {needed:.3g} units, and a frame's shorter side has {SIDE:g}; use smaller ranges")


def check_stays(what: str, stays_s: float, lasts_s: float) -> None:
    """Refusal where what is trained on is outside for half of a clip."""
    if stays_s < lasts_s / 2:
        raise Refusal(f"{what} leaves the frame after {stays_s:.2g} s of {lasts_s:.2g}; use fewer frames, or lower ranges to train on")


def check_crosses(radius: Range, speed: Range, lasts_s: float) -> None:
    """The same of a ball that crosses the frame: the fastest and largest."""
    check_stays(f"radius {radius[1]:g} at speed {speed[1]:g}", (SIDE - 2 * radius[1]) / max(speed[1], 1e-9), lasts_s)


def lasts(shape: Shape, fps: float) -> float:
    """Seconds from the first to the last frame."""
    return (shape[0] - 1) / fps
