"""Particles that carry a liquid, and their velocities to and from the faces of cells, without loss of linear or angular momentum.

APIC (Jiang et al. 2015, The Affine Particle-In-Cell Method) with bilinear weights on a staggered grid: the x velocity lives on the
R x (K + 1) faces between columns of an R x K tank, the y velocity on its (R + 1) x K faces between rows. Positions are in cells here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Faces = tuple[np.ndarray, np.ndarray]  # x velocities (R, K + 1) and y velocities (R + 1, K)


@dataclass(frozen=True, kw_only=True)
class Corners:
    """The four faces around each of N particles, of one component."""

    index: np.ndarray  # (4, N) into the flattened faces: near the particle, one to the right, one below, both
    right: np.ndarray  # (N,) share of the way to the right ones
    below: np.ndarray  # (N,) share of the way to the lower ones
    offset: np.ndarray  # (2, 4, N) x and y of each face minus the particle's
    weight: np.ndarray  # (4, N) bilinear
    shape: tuple[int, int]  # of the faces

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> Corners:
        """`x`, `y`: (N,) places in units of faces. Beyond the last face is a mirror, so liquid slides along walls."""
        rows, columns = shape
        left, above = np.floor(x), np.floor(y)
        right, below = x - left, y - above
        column = np.stack([left, left + 1]).clip(0, columns - 1)  # (2, N)
        row = np.stack([above, above + 1]).clip(0, rows - 1)
        to_x, to_y = column - x, row - y
        index = (row[:, None] * columns + column[None]).reshape(4, -1).astype(np.intp)
        offset = np.stack([to_x[[0, 1, 0, 1]], to_y[[0, 0, 1, 1]]])
        shares = np.stack([1 - below, below])[:, None] * np.stack([1 - right, right])[None]
        return cls(index=index, right=right, below=below, offset=offset, weight=shares.reshape(4, -1), shape=shape)

    def around(self, velocity: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """What particles of `velocity` (N,) and of its gradient `affine` (2, N), per face, say of the faces around them: (4, N)."""
        return velocity + affine[0] * self.offset[0] + affine[1] * self.offset[1]

    def scatter(self, velocity: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Likewise -> the faces' mean of them, and their weight; 0 where none is near."""
        values = self.around(velocity, affine)
        size = self.shape[0] * self.shape[1]
        weight = np.bincount(self.index.ravel(), self.weight.ravel(), size)
        momentum = np.bincount(self.index.ravel(), (self.weight * values).ravel(), size)
        mean = np.divide(momentum, weight, out=np.zeros(size), where=weight > 0)
        return mean.reshape(self.shape), weight.reshape(self.shape)

    def gather(self, faces: np.ndarray) -> np.ndarray:
        """The faces' velocity at each particle, (N,)."""
        return (self.weight * faces.ravel()[self.index]).sum(0)

    def gradient(self, faces: np.ndarray) -> np.ndarray:
        """Of that velocity, per face in x and y: (2, N)."""
        near, right, below, both = faces.ravel()[self.index]
        along_x = (1 - self.below) * (right - near) + self.below * (both - below)
        along_y = (1 - self.right) * (below - near) + self.right * (both - right)
        return np.stack([along_x, along_y])


def corners(places: np.ndarray, shape: tuple[int, int]) -> tuple[Corners, Corners]:
    """Of particles at `places` (2, N), in cells, in a tank of (R, K) cells: for the x and for the y velocity."""
    rows, columns = shape
    x, y = places
    return Corners.of(x, y - 0.5, (rows, columns + 1)), Corners.of(x - 0.5, y, (rows + 1, columns))


def count(places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Particles in each cell, (R, K)."""
    rows, columns = shape
    column, row = places.astype(np.intp)
    return np.bincount(row * columns + column, minlength=rows * columns).reshape(shape)
