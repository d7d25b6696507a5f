"""Arrays of many shapes in one."""

import numpy as np
import pytest

from bench.data.ragged import Ragged, by_shape, clip_shapes

SHAPES = [(2, 4, 6, 3), (1, 8, 8, 3), (2, 4, 6, 3)]


@pytest.fixture
def ragged() -> Ragged:
    flat = np.arange(2 * 144 + 192, dtype=np.int64)
    return Ragged(flat, SHAPES)


def test_items_lie_one_behind_the_other(ragged: Ragged) -> None:
    assert len(ragged) == 3 and ragged.dtype == np.int64
    assert [item.shape for item in ragged] == SHAPES
    assert ragged[1][0, 0, 0].tolist() == [144, 145, 146]
    assert ragged[-1][0, 0, 0, 0] == 144 + 192
    assert np.concatenate([item.ravel() for item in ragged]).tolist() == ragged.flat.tolist()


def test_a_slice_holds_the_same_items(ragged: Ragged) -> None:
    part = ragged[1:]
    assert isinstance(part, Ragged) and len(part) == 2
    assert np.array_equal(part[0], ragged[1]) and np.array_equal(part[1], ragged[2])
    assert len(ragged[:99]) == 3 and len(ragged[2:1]) == 0
    with pytest.raises(ValueError, match="step 1, got 2"):
        ragged[::2]
    with pytest.raises(IndexError):
        ragged[3]


def test_items_are_views(ragged: Ragged) -> None:
    ragged[0][...] = 7
    assert (ragged.flat[:144] == 7).all() and ragged.flat[144] == 144


def test_every_value_belongs_to_an_item() -> None:
    with pytest.raises(ValueError, match=r"1 items hold 144 values, got an array of shape \(145,\)"):
        Ragged(np.zeros(145), [SHAPES[0]])


def test_shapes_of_clips_of_either_kind(ragged: Ragged) -> None:
    assert clip_shapes(ragged) == ((2, 4, 6), (1, 8, 8), (2, 4, 6))
    assert clip_shapes(np.zeros((2, 5, 4, 6, 3), np.uint8)) == ((5, 4, 6), (5, 4, 6))
    assert by_shape(clip_shapes(ragged)) == {(2, 4, 6): [0, 2], (1, 8, 8): [1]}
