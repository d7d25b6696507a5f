"""Where starts are drawn: inside what is trained on, beyond it, or in combinations that training never had. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from bench.data.physics.world import Range, World

Region = Literal["in", "out", "combinatorial"]
REGIONS: tuple[Region, ...] = get_args(Region)
MOST_DRAWS = 10_000  # of a start, before a region is held to be empty


class Regions:
    """The regions of a world whose parameters have these ranges."""

    def __init__(self, world: World, trained: Mapping[str, Range], beyond: Mapping[str, tuple[Range, ...]]):
        """`trained`, `beyond`: of every parameter, in the place of the world's own."""
        self.world, self.trained, self.beyond = world, trained, beyond
        self.shifted = [name for name in trained if beyond[name]]

    def draw(self, region: Region, rng: np.random.Generator) -> dict[str, float]:
        """A start. `in`: each parameter inside, without the withheld corner. `combinatorial`: in that corner. `out`: one or more beyond,
        the others anywhere inside.
        """
        for _ in range(MOST_DRAWS):
            start = {name: float(rng.uniform(*own)) for name, own in self.trained.items()}
            if region == "out":
                chosen = [name for name in self.shifted if rng.uniform() < 0.5] or [str(rng.choice(self.shifted))]
                start |= {name: self._beyond(name, rng) for name in chosen}
                return start
            if self.is_withheld(start) == (region == "combinatorial"):
                return start
        raise AssertionError(f"a quarter of all starts is withheld, and {MOST_DRAWS} draws found none")

    def _beyond(self, name: str, rng: np.random.Generator) -> float:
        """From all of a parameter's ranges beyond, each as often as it is wide."""
        widths = np.array([high - low for low, high in self.beyond[name]])
        chosen = self.beyond[name][int(rng.choice(len(widths), p=widths / widths.sum()))]
        return float(rng.uniform(*chosen))

    def is_withheld(self, start: Mapping[str, float]) -> bool:
        """Whether both withheld parameters are in the upper halves of their ranges."""
        return all(self._fraction(name, start[name]) > 0.5 for name in self.world.withheld)

    def distance(self, start: Mapping[str, float]) -> float:
        """How far a start is from all that is trained on, in widths of the trained ranges, along the parameter where it is furthest."""
        fractions = {name: self._fraction(name, value) for name, value in start.items()}
        outside = max(max(-fraction, fraction - 1, 0.0) for fraction in fractions.values())
        corner = min(fractions[name] - 0.5 for name in self.world.withheld) if self.is_withheld(start) else 0.0
        return max(outside, corner)

    def _fraction(self, name: str, value: float) -> float:
        low, high = self.trained[name]
        return (value - low) / (high - low)
