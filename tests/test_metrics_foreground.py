"""Contrast and pieces of frames small enough to check by eye."""

import numpy as np

from bench.metrics.pixels.foreground import components, contrast


def test_contrast_is_the_strongest_channel_against_the_usual_colour() -> None:
    clip = np.full((2, 3, 4, 3), (10, 20, 30), dtype=np.uint8)
    clip[1, 2, 3] = (0, 70, 40)
    expected = np.zeros((2, 3, 4))
    expected[1, 2, 3] = 50
    np.testing.assert_array_equal(contrast(clip), expected)


def test_pieces_are_of_one_frame_and_join_at_corners() -> None:
    foreground = np.zeros((3, 3, 4), dtype=bool)
    foreground[0, 0, 0] = foreground[0, 1, 1] = True  # touch at a corner
    foreground[0, 0, 3] = True
    foreground[2, 0, 0] = foreground[2, 0, 1] = True  # where a piece of another frame is
    pieces = components(foreground)
    assert pieces.areas.tolist() == [2, 1, 2] and pieces.frames.tolist() == [0, 0, 2]
    assert (pieces.labels > 0).tolist() == foreground.tolist()
    foreground[1, 0, 0] = True  # one in every frame: still apart
    assert components(foreground).frames.tolist() == [0, 0, 1, 2]


def test_none_and_all() -> None:
    assert components(np.zeros((2, 3, 4), dtype=bool)).areas.tolist() == []
    everything = components(np.ones((2, 3, 4), dtype=bool))
    assert everything.areas.tolist() == [12, 12] and everything.frames.tolist() == [0, 1]
