"""The pressure of an incompressible liquid with a free surface: what makes the flow of its cells free of divergence, solved exactly.

Cells are full or empty; in empty ones the pressure is 0, and faces between two of them fall freely. A face at the surface is as light as
there is little liquid around it, so the work that pressure does is the work that particles receive. Side walls and the floor are closed.
The lid lets go: no liquid leaves through it, but none hangs from it either, as it would from a closed wall that holds what is beneath.
"""

from __future__ import annotations

import numpy as np
import scipy  # its parts are imported when they are used: whoever only names worlds and scores needs none

from bench.data.physics.fluid.particles import Faces

LEAST_DENSITY = 0.05  # of a face: beside a cell that holds almost nothing


def fill_holes(full: np.ndarray) -> np.ndarray:
    """Cells (R, K) that are full, or have full ones or walls on all four sides: particles are a sample, not the liquid."""
    around = np.pad(full, 1, constant_values=True)
    return full | (around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:])


class Projection:
    """The pressure solve of these full cells, ready for any number of velocities."""

    def __init__(self, full: np.ndarray, density: Faces, cell: tuple[float, float], *, floor_below: bool):
        """`full`: (R, K). `density`: of faces, that counts at the surface; inside it is 1. `floor_below`: the last row's side is
        closed; else the first row's.
        """
        self.full, self.cell, self.floor_below = full, cell, floor_below
        beside, under = full[:, :-1] & full[:, 1:], full[:-1] & full[1:]
        x, y = (np.maximum(faces, LEAST_DENSITY) for faces in density)
        x[:, 1:-1][beside] = y[1:-1][under] = 1.0
        # How fast a face gives way to a difference in pressure, for its divergence; closed ones never.
        self.ease = (1 / (cell[0] * x), 1 / (cell[1] * y))
        self.close(self.ease)
        ease_x, ease_y = self.ease[0] / cell[0], self.ease[1] / cell[1]
        diagonal = ease_x[:, 1:] + ease_x[:, :-1] + ease_y[1:] + ease_y[:-1]
        # Column by column, so that a cell's neighbours are as near in the order as its column is full.
        order = np.zeros(full.T.shape, np.intp)
        order[full.T] = np.arange(full.sum())
        order = order.T
        here, apart = order[:, :-1][beside], (order[:, 1:] - order[:, :-1])[beside]
        banded = np.zeros((int(apart.max(initial=1)) + 1, int(full.sum())))  # row d, column j: entry (j + d, j)
        banded[0, order[full]] = diagonal[full]
        banded[1, order[:-1][under]] = -ease_y[1:-1][under]
        banded[apart, here] -= ease_x[:, 1:-1][beside]
        self.factor = scipy.linalg.cholesky_banded(banded, lower=True, overwrite_ab=True, check_finite=False)

    def divergence(self, faces: Faces) -> np.ndarray:
        """Of each cell (R, K), 1/s; 0 where it is empty."""
        x, y = faces
        return np.where(self.full, (x[:, 1:] - x[:, :-1]) / self.cell[0] + (y[1:] - y[:-1]) / self.cell[1], 0.0)

    def close(self, faces: Faces) -> None:
        """Stops, in place, what flows through closed walls."""
        x, y = faces
        x[:, 0] = x[:, -1] = 0.0
        y[-1 if self.floor_below else 0] = 0.0

    def remove_divergence(self, fields: list[Faces], targets: list[float]) -> None:
        """Subtracts, in place, each field's pressure gradient, so that every full cell has its target divergence, 1/s."""
        for faces in fields:
            self.close(faces)
        wanted = [target * self.full - self.divergence(faces) for faces, target in zip(fields, targets, strict=True)]
        right = np.stack([each.T[self.full.T] for each in wanted], axis=1)
        solved = scipy.linalg.cho_solve_banded((self.factor, True), right, overwrite_b=True, check_finite=False)
        for faces, values in zip(fields, solved.T, strict=True):
            pressure = np.zeros((self.full.shape[0] + 2, self.full.shape[1] + 2))
            pressure[1:-1, 1:-1].T[self.full.T] = values
            faces[0][:] -= self.ease[0] * np.diff(pressure[1:-1], axis=1)
            faces[1][:] -= self.ease[1] * np.diff(pressure[:, 1:-1], axis=0)
