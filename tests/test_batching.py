"""Order of clips: permutations, resumable anywhere, different by epoch and seed."""

import pytest

from bench.batching import drawn_clips


def test_every_epoch_is_a_fresh_permutation() -> None:
    epochs = [drawn_clips(7, 10, 10 * epoch, 10) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert drawn_clips(8, 10, 0, 10) != epochs[0]


def test_resuming_in_the_middle_of_an_epoch_goes_on() -> None:
    whole = drawn_clips(0, 7, 0, 30)
    assert [*drawn_clips(0, 7, 0, 11), *drawn_clips(0, 7, 11, 19)] == whole


def test_no_clips_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 clips"):
        drawn_clips(0, 0, 0, 1)
