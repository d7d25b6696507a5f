"""Captions of worlds: true of the clip, one form, nothing else changed by them; and the combinations that no training has."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.data.source import clips_digest, load_clips, load_config
from bench.data.sources.worlds import Config, simulate
from bench.data.worlds.caption import COLOURS, DIRECTIONS, NUMBERS, Told, captions_of, steady, text_of, told_by, told_of_state
from bench.data.worlds.combinations import MOST_UNSEEN, held_out
from bench.data.worlds.drawing import SHAPES, STATE
from bench.shapes import Refusal
from tests.tiny import tiny_cell

SIZES = {"num_frames": 10, "height": 16, "width": 16, "num_train": 8, "num_val": 4, "num_test": 16}


def config(**changes: Any) -> Config:
    return Config.model_validate({**SIZES, "radius": (0.28, 0.34), "speed": (0.2, 0.5), "captions": "generated", **changes})


def states(made: Config, num: int, split: str = "train") -> list[np.ndarray]:
    return [simulate(made, split, index) for index in range(num)]


def column(state: np.ndarray, name: str) -> np.ndarray:
    return np.asarray(state[:, 0, STATE.index(name)])


def test_every_caption_is_read_back() -> None:
    for number, colour, shape, way, bounces in itertools.product(range(1, 7), COLOURS, SHAPES, (*DIRECTIONS, None), (False, True)):
        told = Told(number=number, colour=colour, shape=shape, direction=way, bounces=bounces and way is not None)
        assert told_by(text_of(told)) == told
    for text in (
        "",
        "a red disc moves",
        "one objects: a red disc",
        "a red disc moves left and bounces.",
        "a pink disc",
        "a red disc and bounces",
    ):
        with pytest.raises(Refusal, match="is no caption of worlds"):
            told_by(text)


def test_a_caption_is_true_of_its_clip() -> None:
    """Against the exact state, by other means than those it is written by."""
    bounced = []
    for state in states(config(num_frames=5), 60):
        told = told_of_state(state)
        x, y, hue = column(state, "x"), column(state, "y"), column(state, "hue")
        dx, dy = x[steady(5)] - x[0], y[steady(5)] - y[0]
        ways = {"right": dx > abs(dy), "left": -dx > abs(dy), "down": dy > abs(dx), "up": -dy > abs(dx)}
        assert [way for way, there in ways.items() if there] == [told.direction]
        assert abs(math.degrees(math.atan2(min(abs(dx), abs(dy)), max(abs(dx), abs(dy))))) < 30.1
        off = math.remainder(hue[0] * 360 - 60 * COLOURS.index(told.colour), 360)
        assert abs(off) <= 12.001
        straight = np.ptp(np.diff(x)) + np.ptp(np.diff(y)) < 1e-6
        assert told.bounces != straight
        bounced.append(told.bounces)
    assert 0.1 < np.mean(bounced) < 0.9  # both are drawn


def test_the_number_is_drawn_and_no_two_objects_share_a_colour() -> None:
    made = config(num_objects=3, radius=(0.12, 0.16))
    drawn, numbers = states(made, 90), []
    for state in drawn:
        there = ~np.isnan(state[0, :, 0])
        assert np.isnan(state[:, ~there]).all() and there[0] and list(there) == sorted(there, reverse=True)
        numbers.append(int(there.sum()))
        hues = np.rint(state[0, there, STATE.index("hue")] * 6) % 6
        assert len(set(hues)) == numbers[-1] == told_of_state(state).number
    assert all(15 < numbers.count(number) < 50 for number in (1, 2, 3))
    assert all((f"{NUMBERS[number - 1]} objects" in text) == (number > 1) for number, text in zip(numbers, captions_of(drawn), strict=True))


def test_captions_are_stored_in_the_order_of_the_clips(tmp_path: Path) -> None:
    made = config(num_objects=2, radius=(0.15, 0.2), unseen=8)
    clips = load_clips(made, tmp_path)
    for split, own in clips.splits.items():
        assert own.captions == captions_of(states(made, len(own), split))
        assert [told_by(text).shape for text in own.captions or ()] == [SHAPES[label] for label in own.labels]
    truth = clips.splits["train"].truth or {}
    absent = np.isnan(truth["x"])
    assert absent.any() and (truth["shape"][absent] == -1).all() and (truth["shape"][~absent] >= 0).all()


def test_a_single_frame_is_told_without_motion(tmp_path: Path) -> None:
    captions = load_clips(config(num_frames=1), tmp_path).splits["train"].captions
    assert captions and all("moves" not in text for text in captions) and told_by(captions[0]).direction is None


def test_who_asks_for_none_keeps_clips_and_fingerprint() -> None:
    """Digest and fingerprint are those from before there were captions."""
    plain = {"source": "worlds", **SIZES}
    asked = load_config({**plain, "captions": None, "unseen": 0})
    assert clips_digest(asked) == clips_digest(load_config(plain))
    assert not {"captions", "unseen"} & asked.model_dump().keys()
    assert tiny_cell(data={**plain, "captions": None}).fingerprint() == tiny_cell(data=plain).fingerprint()
    assert tiny_cell().fingerprint() == FINGERPRINT
    told = config()
    assert clips_digest(told) != clips_digest(told.changed(captions=None))
    assert clips_digest(told) != clips_digest(told.changed(unseen=4))
    assert told.changed(unseen=4).changed(num_train=9).unseen == 4


FINGERPRINT = "d089709d42408b8a0700ca4e09c1008589f3728e1ab19155e4ec4a9bb1651196"


@pytest.mark.parametrize("num", [4, 16, MOST_UNSEEN])
def test_held_out_combinations_leave_every_word_in_training(num: int) -> None:
    for seed in range(5):
        unseen = held_out(seed, num)
        assert len(unseen) == num and unseen == held_out(seed, num)
        trained = set(itertools.product(COLOURS, SHAPES, DIRECTIONS)) - unseen
        assert {(colour, way) for colour, _, way in trained} == set(itertools.product(COLOURS, DIRECTIONS))
        for shape in SHAPES:
            assert sum(each[1] == shape for each in unseen) == num // 4
            assert {each[0] for each in trained if each[1] == shape} == set(COLOURS)
            assert {each[2] for each in trained if each[1] == shape} == set(DIRECTIONS)
    assert held_out(0, num) != held_out(1, num)


def test_unseen_combinations_are_in_half_of_the_test_clips_and_nowhere_else() -> None:
    made, unseen = config(unseen=24, num_frames=4), held_out(0, 24)

    def new(split: str, num: int) -> list[bool]:
        told = map(told_of_state, states(made, num, split))
        return [(each.colour, each.shape, each.direction) in unseen for each in told]

    assert not any(new("train", 200)) and not any(new("val", 40))
    assert new("test", 24) == 3 * ([False] * 4 + [True] * 4)  # four of each shape, so that any first n are about half


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gravity": 1.0}, r"gravity = 1\.0 turns objects"),
        ({"num_objects": 7, "radius": (0.05, 0.06)}, "num_objects = 7 with captions, which know 6 colours"),
        ({"speed": (0, 0.3)}, "lets objects rest"),
        ({"captions": None, "unseen": 4}, "unseen = 4 is of what captions say, and there are none"),
        ({"unseen": 6}, "unseen: Input should be a multiple of 4"),
        ({"unseen": 52}, "unseen: Input should be less than or equal to 48"),
    ],
)
def test_what_no_caption_can_be_true_of_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        load_config({"source": "worlds", **SIZES, "captions": "generated", **changes})


def test_a_start_without_a_way_is_refused() -> None:
    with pytest.raises(Refusal, match=r"speed = \(3\.0, 3\.2\) at fps = 8\.0"):
        simulate(config(speed=(3.0, 3.2)), "train", 0)
