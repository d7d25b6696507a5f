"""Arrays in several files: they read as one array would, item by item, few files open, and what is not as it was written is named."""

import os
from pathlib import Path

import numpy as np
import pytest

from bench.data import shards
from bench.data.ragged import Ragged
from bench.data.shards import Sharded
from bench.shapes import Refusal

COUNTS = [4, 1, 7, 3]


def files(folder: Path, values: np.ndarray, counts: list[int]) -> list[Path]:
    paths, first = [], 0
    for index, count in enumerate(counts):
        paths.append(folder / f"{index}.npy")
        np.save(paths[-1], values[first : first + count])
        first += count
    return paths


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((sum(COUNTS), 2, 3)).astype(np.float32)


def test_items_and_slices_are_those_of_the_whole_array(tmp_path: Path, values: np.ndarray) -> None:
    made = Sharded(files(tmp_path, values, COUNTS), COUNTS, (2, 3), np.float32)
    assert (len(made), made.shape, made.ndim, made.dtype) == (15, (15, 2, 3), 3, np.float32)
    assert all(np.array_equal(made[index], values[index]) for index in range(-15, 15))
    for first in range(16):
        assert all(np.array_equal(made[first:stop], values[first:stop]) for stop in range(17))
    assert np.array_equal(np.stack(list(made)), values)
    for index in (15, -16):
        with pytest.raises(IndexError):
            made[index]
    with pytest.raises(Refusal, match="a slice of shards has step 1, got 2"):
        made[::2]


def test_an_item_is_in_memory_of_its_own(tmp_path: Path, values: np.ndarray) -> None:
    made = Sharded(files(tmp_path, values, COUNTS), COUNTS, (2, 3), np.float32)
    made[0][:] = 0
    assert np.array_equal(made[0], values[0])


def test_items_of_many_shapes_lie_across_files(tmp_path: Path) -> None:
    flat = np.arange(30, dtype=np.float32)
    shapes = [(4, 1, 2, 1), (1, 3, 2, 1), (2, 2, 2, 2)]
    made = Ragged(Sharded(files(tmp_path, flat, [5, 20, 5]), [5, 20, 5], (), np.float32), shapes)
    expected = Ragged(flat, shapes)
    assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))
    assert np.array_equal(made[1:3][0], expected[1]) and made[1:3].shapes == expected.shapes[1:]


def test_few_files_are_open_and_none_is_left(tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> set[str]:
        return {str(path.resolve()) for path in Path("/proc/self/fd").iterdir()}

    monkeypatch.setattr(shards, "MOST_OPEN", 2)
    paths = files(tmp_path, values, COUNTS)
    made = Sharded(paths, COUNTS, (2, 3), np.float32)
    assert not {str(path) for path in paths} & opened()
    for index in (0, 4, 0, 14):  # the second is the one that was not read for longest
        assert np.array_equal(made[index], values[index])
    assert {str(path) for path in paths} & opened() == {str(paths[0]), str(paths[3])}
    del made
    assert not {str(path) for path in paths} & opened()


def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path: Path, values: np.ndarray) -> None:
    paths = files(tmp_path, values, COUNTS)
    made = Sharded(paths, COUNTS, (2, 3), np.float32)
    os.truncate(paths[0], paths[0].stat().st_size - 1)
    paths[1].unlink()
    np.save(paths[2], values[:6])
    paths[3].write_bytes(b"\0" * 500)
    for index, message in (
        (3, "0.npy ends early"),
        (4, "1.npy is missing"),
        (5, r"2.npy holds float32 \(6, 2, 3\), expected float32 \(7, 2, 3\)"),
        (14, "3.npy is no array"),
    ):
        with pytest.raises(Refusal, match=f"{message}.*; remove its folder, and it is made again"):
            made[index]
    assert np.array_equal(made[2], values[2])
    np.save(paths[3], values[12:].astype(np.float64))
    with pytest.raises(Refusal, match=r"3.npy holds float64"):
        made[14]
