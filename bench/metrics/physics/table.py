"""The scorecards, by the worlds that they score. No torch."""

from bench.metrics.physics.contract import Scorecard
from bench.metrics.physics.liquid import LIQUID
from bench.shapes import Refusal

SCORECARDS: tuple[Scorecard, ...] = (LIQUID,)


def scorecard_of(world: str) -> Scorecard:
    """The scorecard of a world. Refusal for a world that none scores."""
    for card in SCORECARDS:
        if world in card.worlds:
            return card
    known = ", ".join(world for card in SCORECARDS for world in card.worlds)
    raise Refusal(f"world {world!r} has no physics scores; there are some of {known}")
