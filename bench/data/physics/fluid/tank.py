"""The box that a liquid is in, and its cells. Lengths in the frame's shorter side, x to the right, y down, from the top left corner."""

from __future__ import annotations

from dataclasses import dataclass

CELLS = 64  # along the shorter side, whatever the pixels: a start moves the same at any resolution


@dataclass(frozen=True, kw_only=True)
class Tank:
    """Cells of a frame of some aspect: near squares, since a whole number of them fits each side."""

    width: float  # lengths
    height: float

    @classmethod
    def of_frame(cls, height: int, width: int) -> Tank:
        """The tank that a frame of that many pixels shows whole."""
        shorter = min(height, width)
        return cls(width=width / shorter, height=height / shorter)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of cells."""
        return (round(self.height * CELLS), round(self.width * CELLS))

    @property
    def cell(self) -> tuple[float, float]:
        """(width, height) of one."""
        rows, columns = self.shape
        return (self.width / columns, self.height / rows)
