"""The scorecards, by the worlds that they score. No torch.

Another is a file with a `Scorecard` and an entry here, or one in any installed package that registers it under `ENTRY_POINT_GROUP`.
"""

import functools

from bench.data.registry import load_all
from bench.metrics.physics.contract import Scorecard
from bench.metrics.physics.liquid import LIQUID
from bench.metrics.physics.rigid import RIGID
from bench.shapes import Refusal

ENTRY_POINT_GROUP = "unet_vs_dit.physics_scorecards"
SCORECARDS: tuple[Scorecard, ...] = (RIGID, LIQUID)


@functools.cache
def scorecards() -> tuple[Scorecard, ...]:
    """Every scorecard: ours, then registered ones by name. Refusal where two share a name or a world."""
    return load_all("scorecard", ENTRY_POINT_GROUP, SCORECARDS, lambda one: (one.name, *one.worlds), Scorecard)


def scorecard_of(world: str) -> Scorecard:
    """The scorecard of a world. Refusal for a world that none scores."""
    for card in scorecards():
        if world in card.worlds:
            return card
    known = ", ".join(world for card in scorecards() for world in card.worlds)
    raise Refusal(f"world {world!r} has no physics scores; there are some of {known}")
