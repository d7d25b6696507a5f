"""Liquids that break one law from some moment on: each takes a flow that has shown its known frames, and says what comes after.

One is None where nothing in the clip obeys its law after the known frames, so breaking it would change nothing or more than it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np

from bench.data.physics.fluid.flow import EDGE, Flow
from bench.data.physics.fluid.state import Moment, observe
from bench.data.physics.world import Scene

GROWTH = 0.3  # of all liquid, from the last known frame to the last
SPLASHED = 2  # frames that show the splash before it is played backwards
Twin = Callable[
    [Flow, list[Moment], Scene], tuple[list[Moment], Flow] | None
]  # known moments -> those of the whole clip, the flow after them


def go_on(flow: Flow, num: int, duration: float, *, first: bool = False) -> list[Moment]:
    """The next `num` moments, `duration` seconds apart, the `first` of them now."""
    moments = []
    for index in range(num):
        if index or not first:
            flow.advance(duration)
        moments.append(observe(flow))
    return moments


def gravity_flipped(flow: Flow, moments: list[Moment], scene: Scene) -> tuple[list[Moment], Flow]:
    """All liquid falls upward, to the lid. Its potential energy is still counted for gravity as it was."""
    flow.gravity = -flow.gravity
    after = go_on(flow, scene.shape[0] - scene.known, 1 / scene.fps)
    for moment in after:
        moment["potential"] = -moment["potential"]
    return moments + after, flow


def teleport(flow: Flow, moments: list[Moment], scene: Scene) -> tuple[list[Moment], Flow] | None:
    """The drop is elsewhere, half of its free way to the side, right after the known frames. None where it touched the pool."""
    if not math.isnan(flow.contact):
        return None
    across, width = flow.places[0, flow.dyed], flow.tank.width
    left, right = float(across.min()), float(across.max())
    free = width - (right - left) - 2 * flow.tank.cell[0]
    moved = (left - flow.tank.cell[0] + free / 2) % free + flow.tank.cell[0] - left
    flow.places[0, flow.dyed] += moved
    if flow.touches():
        return None
    return moments + go_on(flow, scene.shape[0] - scene.known, 1 / scene.fps), flow


def reversed_splash(flow: Flow, moments: list[Moment], scene: Scene) -> tuple[list[Moment], Flow] | None:
    """The splash gathers itself up again: from some frame on the clip runs backwards. None where too little of a splash comes before."""
    num_frames = scene.shape[0]
    every = moments + go_on(flow, num_frames - scene.known, 1 / scene.fps)
    if math.isnan(flow.contact):
        return None
    turn = max(scene.known - 1, math.ceil(flow.contact * scene.fps) + SPLASHED, num_frames // 2)
    if turn > num_frames - 1 - SPLASHED:
        return None
    return [every[min(index, 2 * turn - index)] for index in range(num_frames)], flow


def growing_mass(flow: Flow, moments: list[Moment], scene: Scene) -> tuple[list[Moment], Flow]:
    """All liquid swells, each part of it at the same rate."""
    num, duration, first = scene.shape[0] - scene.known, 1 / scene.fps, flow.dyed.size
    rng, moments = np.random.default_rng(scene.seed), list(moments)
    edge = EDGE * np.array(flow.tank.cell)[:, None]
    for index in range(num):
        flow.advance(duration, swelling=math.log1p(GROWTH) / (num * duration))
        more = rng.choice(flow.dyed.size, round(first * (1 + GROWTH) ** ((index + 1) / num)) - flow.dyed.size, replace=False)
        nearby = flow.places[:, more] + rng.uniform(-0.3, 0.3, (2, more.size)) * np.array(flow.tank.cell)[:, None]
        nearby = nearby.clip(edge, np.array([[flow.tank.width], [flow.tank.height]]) - edge)
        flow.places = np.concatenate([flow.places, nearby], axis=1)
        flow.velocities = np.concatenate([flow.velocities, flow.velocities[:, more]], axis=1)
        flow.affine = np.concatenate([flow.affine, flow.affine[:, :, more]], axis=2)
        flow.dyed = np.concatenate([flow.dyed, flow.dyed[more]])
        moments.append(observe(flow))
    return moments, flow


def pass_through(flow: Flow, moments: list[Moment], scene: Scene) -> tuple[list[Moment], Flow] | None:
    """The drop falls through the pool as if it were not there, and neither moves the other. None where they touch before or never."""
    if not math.isnan(flow.contact):
        return None
    drop, pool, moments = _part(flow, flow.dyed), _part(flow, ~flow.dyed), list(moments)
    for _ in range(scene.shape[0] - scene.known):
        drop.advance(1 / scene.fps)
        pool.advance(1 / scene.fps)
        both = copy.copy(drop)
        both.places = np.concatenate([pool.places, drop.places], axis=1)
        both.velocities = np.concatenate([pool.velocities, drop.velocities], axis=1)
        both.affine = np.concatenate([pool.affine, drop.affine], axis=2)
        both.dyed = np.concatenate([pool.dyed, drop.dyed])
        both.contact = flow.contact = both.time if math.isnan(flow.contact) and both.touches() else flow.contact
        moments.append(observe(both))
    return None if math.isnan(flow.contact) else (moments, flow)


def _part(flow: Flow, which: np.ndarray) -> Flow:
    """Some of a flow's particles (N,) bool, on their own."""
    part = copy.copy(flow)
    part.places, part.velocities = flow.places[:, which], flow.velocities[:, which]
    part.affine, part.dyed = flow.affine[:, :, which], flow.dyed[which]
    return part


TWINS: dict[str, Twin] = {
    twin.__name__: twin for twin in (gravity_flipped, teleport, reversed_splash, growing_mass, pass_through)
}  # fmt: skip
