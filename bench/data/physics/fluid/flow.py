"""How a liquid moves from one moment to a later one, and what it has of energy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from bench.data.physics.fluid.particles import corners, count
from bench.data.physics.fluid.projection import Projection, fill_holes
from bench.data.physics.fluid.tank import Tank

PER_CELL = 4  # particles
CFL = 1.5  # cells that the fastest particle crosses in a step, at most
EDGE = 1e-6  # cells between a particle and a wall, at least


@dataclass(kw_only=True)
class Flow:
    """A liquid in a tank, of density 1. Changes as time goes on."""

    tank: Tank
    gravity: float  # lengths per second squared; downward, or upward where negative: then the lid is the floor
    places: np.ndarray  # (2, N) lengths: x, y
    velocities: np.ndarray  # (2, N) lengths per second
    dyed: np.ndarray  # (N,) bool: of the drop
    affine: np.ndarray = field(init=False)  # (2, 2, N) of x and y velocity, their change per cell in x and y
    num_steps: int = 0
    divergence: float = 0.0  # the largest that any cell was left with, times a cell's width, lengths per second
    time: float = 0.0
    contact: float = math.nan  # when the drop first touched the pool

    def __post_init__(self) -> None:
        self.affine = np.zeros((2, 2, self.places.shape[1]))

    @property
    def volume(self) -> float:
        """Of one particle, in squared lengths."""
        return math.prod(self.tank.cell) / PER_CELL

    def kinetic(self) -> float:
        """Energy of motion: of particles and, by their affine part, of the flow around each. What goes to the faces has no more."""
        near = corners(self.places / np.array(self.tank.cell)[:, None], self.tank.shape)
        values = np.stack([near[axis].around(self.velocities[axis], self.affine[axis]) for axis in (0, 1)])
        return 0.5 * self.volume * float((np.stack([each.weight for each in near]) * values**2).sum())

    def potential(self) -> float:
        """Energy of height above the lower edge of the frame, for gravity as it is."""
        return self.gravity * self.volume * float((self.tank.height - self.places[1]).sum())

    def energy(self) -> float:
        """Of both kinds."""
        return self.kinetic() + self.potential()

    def advance(self, duration: float, swelling: float = 0.0) -> None:
        """Lets `duration` seconds pass. `swelling`: 1/s, by which all liquid grows, against the law."""
        end = self.time + duration
        left = duration
        while left > 1e-12 * duration:
            speed = max(float(np.abs(v).max()) / h for v, h in zip(self.velocities, self.tank.cell, strict=True))
            fastest = speed + abs(self.gravity) * left / self.tank.cell[1]
            step = left / math.ceil(left * fastest / CFL + 1e-9)
            self._step(step, swelling)
            self.time += step
            left = end - self.time
            if math.isnan(self.contact) and self.touches():
                self.contact = self.time
        self.time = end

    def _step(self, step: float, swelling: float) -> None:
        """One step: the flow that particles carry, made free of divergence, and gravity's own share of it, free of divergence too.

        Places move by the mean of the velocity before and after gravity, so that a fall is an exact parabola. The little
        energy that this gains all the same, by the second order in time of where particles go (without it whirls thin out) and by a density
        inside that is not quite 1, is taken from the motion.
        """
        energy = self.energy()
        cell = np.array(self.tank.cell)[:, None]
        at = self.places / cell
        near = corners(at, self.tank.shape)
        (flow_x, mass_x), (flow_y, mass_y) = (near[axis].scatter(self.velocities[axis], self.affine[axis]) for axis in (0, 1))
        flow = flow_x, flow_y
        fall = np.zeros_like(flow_x), np.full_like(flow_y, self.gravity * step)
        full, density = fill_holes(count(at, self.tank.shape) > 0), (mass_x / PER_CELL, mass_y / PER_CELL)
        solve = Projection(full, density, self.tank.cell, floor_below=self.gravity >= 0)
        solve.remove_divergence([flow, fall], [swelling, 0.0])
        self.divergence = max(self.divergence, float(np.abs(solve.divergence(flow) - swelling * solve.full).max()) * self.tank.cell[0])
        before = np.stack([near[axis].gather(flow[axis]) for axis in (0, 1)])
        gained = np.stack([near[axis].gather(fall[axis]) for axis in (0, 1)])
        self.velocities = before + gained
        self.affine = np.stack([near[axis].gradient(flow[axis] + fall[axis]) for axis in (0, 1)])
        moving = before + gained / 2
        turning = (self.affine * (moving / cell)).sum(1)  # how a particle's velocity changes where it goes: second order in time
        self.places = self.places + step * (moving + step / 2 * turning)
        self._keep_inside()
        if not swelling:  # which brings energy of its own
            self._lose(self.energy() - energy)
        self.num_steps += 1

    def _keep_inside(self) -> None:
        """Holds, at walls and lid, particles that a step carried through; they lose the velocity that did it."""
        for axis, size in enumerate((self.tank.width, self.tank.height)):
            edge = EDGE * self.tank.cell[axis]
            inside = self.places[axis].clip(edge, size - edge)
            self.velocities[axis] = np.where(inside == self.places[axis], self.velocities[axis], 0.0)
            self.places[axis] = inside

    def _lose(self, gained: float) -> None:
        """Slows the motion by an energy that is above 0."""
        if gained > 0:
            kept = math.sqrt(max(0.0, 1 - gained / self.kinetic()))
            self.velocities, self.affine = self.velocities * kept, self.affine * kept

    def touches(self) -> bool:
        """Whether some cell with dyed liquid is one with other liquid, or beside it."""
        at = self.places / np.array(self.tank.cell)[:, None]
        drop, pool = (count(at[:, which], self.tank.shape) > 0 for which in (self.dyed, ~self.dyed))
        wide = np.pad(drop, 1)
        return bool(((wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:] | drop) & pool).any())
