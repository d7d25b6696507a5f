"""The order of draws: every clip once an epoch, known of any draw without those before it, and with a window read in runs."""

import itertools

import numpy as np
import pytest

from bench.data.policy import order
from bench.data.policy.order import RUNS, drawn_clips, num_windows, window_clips

SIZES = [(10, None), (10, 3), (1000, 64), (1003, 64), (997, 100), (5, 64), (64, 64)]  # clips, window


@pytest.mark.parametrize(("num", "window"), SIZES)
def test_every_epoch_is_a_fresh_permutation(num: int, window: int | None) -> None:
    epochs = [drawn_clips(7, num, num * epoch, num, window) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(num)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert drawn_clips(8, num, 0, num, window) != epochs[0]


@pytest.mark.parametrize("window", [None, 2, 3, 16])
def test_resuming_anywhere_goes_on(window: int | None) -> None:
    whole = drawn_clips(0, 7, 0, 30, window)
    for stop in range(30):
        window_clips.cache_clear()  # another process remembers nothing
        order._runs.cache_clear()
        assert drawn_clips(0, 7, stop, 30 - stop, window) == whole[stop:]


def test_a_permutation_is_the_one_that_records_were_made_with() -> None:
    assert drawn_clips(3, 8, 5, 8) == [0, 7, 2, 1, 0, 6, 4, 2]


@pytest.mark.parametrize(("num", "window"), [(1000, 64), (1003, 64), (997, 100)])
def test_a_window_reads_a_few_runs_of_the_set(num: int, window: int) -> None:
    for epoch, index in itertools.product(range(2), range(num_windows(num, window))):
        clips = np.sort(window_clips(7, num, epoch, index, window))
        places = 1 + int((np.diff(clips) > 1).sum())
        assert places <= RUNS + 2  # a window that the runs do not divide begins and ends inside one
        assert len(clips) == min(window, num - index * window)


def test_a_window_mixes_its_runs_and_an_epoch_the_windows() -> None:
    drawn = np.array(drawn_clips(0, 10_000, 0, 10_000, 800))
    first, later = drawn[:800], drawn_clips(0, 10_000, 10_000, 800, 800)
    assert len(set(first // 100)) == RUNS and len({*first[:40] // 100}) == RUNS  # a batch of 40 shows all places
    assert set(first // 100) != {clip // 100 for clip in later}
    assert abs(np.corrcoef(np.arange(800), first)[0, 1]) < 0.15  # nothing of the set's order is left in a window


def test_a_window_of_a_huge_set_takes_no_more_than_its_runs() -> None:
    clips = window_clips(0, 10**9, 3, 70_000, 8192)
    assert len(set((clips // 1024).tolist())) <= RUNS + 1 and clips.max() < 10**9
    assert order._runs(0, -(-(10**9) // 1024), 3)[0].nbytes < 8 * 10**6
