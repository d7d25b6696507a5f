"""The order in which clips are drawn: which clip the k-th draw is. Knows integers, not shapes.

It is a function of seed and draw alone, so all backbones draw the same clips, and a resumed run goes on where it stopped.

Without a window each epoch is a permutation of the whole set: an array of all clips, read at random. With one, the set is cut into runs
of consecutive clips, `RUNS` to a window, and the runs are put in a new order each epoch; of the clips in that order, each window's are
shuffled among themselves. So a window mixes clips of `RUNS` places of the set and reads these places from end to end; what it takes to know
it is the order of the runs and one window. How the set is cut into files has no part in it.
"""

from functools import lru_cache

import numpy as np

from bench.data.seeds import stream_seed

RUNS = 8  # of consecutive clips, in a window
KEPT_WINDOWS = 4  # in memory: a batch may span two


def drawn_clips(seed: int, num_clips: int, first_draw: int, num_draws: int, window: int | None = None) -> list[int]:
    """Clip indices of draws first_draw ... first_draw + num_draws - 1; each epoch holds every clip once.

    >>> sorted(drawn_clips(0, 5, 5, 5)), sorted(drawn_clips(0, 5, 5, 5, window=2))
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """
    found = []
    for draw in range(first_draw, first_draw + num_draws):
        epoch, place = divmod(draw, num_clips)
        index, within = divmod(place, window or num_clips)
        found.append(int(window_clips(seed, num_clips, epoch, index, window)[within]))
    return found


def num_windows(num_clips: int, window: int | None) -> int:
    """Windows of an epoch; one where the whole set is permuted."""
    return 1 if window is None else -(-num_clips // window)


@lru_cache(maxsize=KEPT_WINDOWS)
def window_clips(seed: int, num_clips: int, epoch: int, index: int, window: int | None) -> np.ndarray:
    """The clips of the `index`-th window of an epoch, in the order in which they are drawn; without a window, of the epoch."""
    if window is None:
        return np.random.default_rng(stream_seed(seed, "order", epoch)).permutation(num_clips)
    run = max(1, window // RUNS)
    runs, last = _runs(seed, -(-num_clips // run), epoch)
    places = np.arange(index * window, min((index + 1) * window, num_clips))
    missing = -num_clips % run  # from the set's last run
    places[places >= (last + 1) * run - missing] += missing
    clips = runs[places // run] * run + places % run
    generator = np.random.default_rng(stream_seed(seed, "order_in_window", epoch * num_windows(num_clips, window) + index))
    return generator.permutation(clips)


@lru_cache(maxsize=2)
def _runs(seed: int, num_runs: int, epoch: int) -> tuple[np.ndarray, int]:
    """The runs in the order of an epoch, and the place of the set's last one, which may be short."""
    order = np.random.default_rng(stream_seed(seed, "order_of_runs", epoch)).permutation(num_runs)
    return order, int(np.flatnonzero(order == num_runs - 1)[0])
