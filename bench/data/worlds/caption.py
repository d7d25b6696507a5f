"""What a caption of a world says, as text and back: "a red disc moves left and bounces", "two objects: a blue ring moves up".

Number, then colour, shape, direction at the start and whether it bounces, of the first object. Every word is decided by the clip's exact
state, and can be read from its pixels again.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.data.worlds.drawing import SHAPES, STATE
from bench.shapes import Refusal

COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # the k-th is around a hue of k / 6 turns
HUE_SLACK = 12 / 360  # turns that a hue lies off its colour's at most; half-way to the next colour are 30 degrees
DIRECTIONS: Mapping[str, float] = {"right": 0.0, "down": math.pi / 2, "left": math.pi, "up": -math.pi / 2}  # word -> angle; y is down
ANGLE_SLACK = math.pi / 6  # that a motion lies off its word's at most; half-way to the next word are 45 degrees
NUMBERS = ("one", "two", "three", "four", "five", "six")
TURN = 0.02  # that a step's unit vector lies off the first velocity's, from which on an object has bounced; rounding is far below

_FORM = re.compile(
    rf"(?:(?P<number>{'|'.join(NUMBERS[1:])}) objects: )?a (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})"
    rf"(?: moves (?P<direction>{'|'.join(DIRECTIONS)})(?P<bounces> and bounces)?)?"
)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a caption says."""

    number: int  # of objects
    colour: str  # of the first one, as are all that follow
    shape: str
    direction: str | None  # at the start; None of a single frame, where nothing moves
    bounces: bool


def text_of(told: Told) -> str:
    """The caption that says it.

    >>> text_of(Told(number=1, colour="red", shape="disc", direction="left", bounces=True))
    'a red disc moves left and bounces'
    >>> text_of(Told(number=2, colour="blue", shape="ring", direction=None, bounces=False))
    'two objects: a blue ring'
    """
    many = f"{NUMBERS[told.number - 1]} objects: " if told.number > 1 else ""
    moves = "" if told.direction is None else f" moves {told.direction}{' and bounces' * told.bounces}"
    return f"{many}a {told.colour} {told.shape}{moves}"


def told_by(text: str) -> Told:
    """What a caption of a world says. Refusal for any other text.

    >>> told_by("two objects: a cyan square moves up")
    Told(number=2, colour='cyan', shape='square', direction='up', bounces=False)
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise Refusal(f"{text!r} is no caption of worlds; one is 'two objects: a red disc moves left and bounces'")
    number = NUMBERS.index(found["number"] or NUMBERS[0]) + 1
    return Told(
        number=number, colour=found["colour"], shape=found["shape"], direction=found["direction"], bounces=found["bounces"] is not None
    )


def told_of_state(state: np.ndarray) -> Told:
    """State (T, objects, 10) of a clip, NaN of objects that are not there -> what its caption says."""
    first = {name: state[:, 0, place] for place, name in enumerate(STATE)}
    angle = math.atan2(first["vy"][0], first["vx"][0])
    direction = min(DIRECTIONS, key=lambda word: abs(math.remainder(angle - DIRECTIONS[word], math.tau)))
    return Told(
        number=int((~np.isnan(state[0, :, 0])).sum()),
        colour=COLOURS[round(float(first["hue"][0]) * len(COLOURS)) % len(COLOURS)],
        shape=SHAPES[int(first["shape"][0])],
        direction=direction if len(state) > 1 else None,
        bounces=turns(state, len(state)),
    )


def steady(num_frames: int) -> int:
    """First steps between frames in which the first object keeps the direction that it is told by: half of a clip's, at least two.

    >>> steady(10), steady(3)
    (5, 2)
    """
    return max(2, num_frames // 2)


def turns(state: np.ndarray, num_frames: int) -> bool:
    """Does the first object of a state (T, objects, 10) leave its first way within so many frames, so far as the places show it?"""
    places = state[:num_frames, 0, [STATE.index("x"), STATE.index("y")]]
    velocity = state[0, 0, [STATE.index("vx"), STATE.index("vy")]]
    steps = np.diff(places, axis=0)  # (T - 1, 2)
    ways = steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-12)
    return bool((np.linalg.norm(ways - velocity / np.linalg.norm(velocity), axis=1) > TURN).any())


def captions_of(states: Sequence[np.ndarray]) -> tuple[str, ...]:
    """States of clips -> their captions."""
    return tuple(text_of(told_of_state(state)) for state in states)
