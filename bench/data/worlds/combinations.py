"""Colour, shape and direction of a clip's first object: what is drawn where captions say it, and which of the combinations are held out.

Held out evenly: every shape loses as many, and every colour and direction stays with every shape in others that are trained on. So what a
model cannot do of them is to combine, not to know a word.
"""

import functools
from collections.abc import Sequence

import numpy as np

from bench.data.worlds.caption import COLOURS, DIRECTIONS
from bench.data.worlds.drawing import SHAPES

Combination = tuple[str, str, str]  # colour, shape, direction
MOST_UNSEEN = len(COLOURS) * len(SHAPES) * len(DIRECTIONS) // 2


@functools.cache
def held_out(seed: int, num: int) -> frozenset[Combination]:
    """The `num` combinations that only test clips have, as many of every shape, at most `MOST_UNSEEN` in all; the worlds' seed decides."""
    rng = np.random.default_rng([seed, len(SHAPES)])
    colours, shapes, directions = (rng.permutation(list(words)).tolist() for words in (COLOURS, SHAPES, DIRECTIONS))
    each = num // len(SHAPES)
    found = set()
    for place in range(each * len(SHAPES)):
        # Neighbours along this walk differ in colour and in direction; it meets no pair again within its next 12 places.
        direction = directions[(place + place // 12) % len(directions)]
        found.add((colours[place % len(colours)], shapes[place // each], direction))
    return frozenset(found)


def combinations(shape: str, unseen: frozenset[Combination], *, seen: bool) -> Sequence[Combination]:
    """Those of a shape that are trained on, or the others."""
    every = [(colour, shape, direction) for colour in COLOURS for direction in DIRECTIONS]
    return [each for each in every if (each not in unseen) == seen]


def is_unseen(split: str, index: int) -> bool:
    """Whether a clip's combination is to be one that is held out: of test clips four, one of each shape, of every eight."""
    return split == "test" and index // len(SHAPES) % 2 == 1
