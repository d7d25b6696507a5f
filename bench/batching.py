"""Which clips make up which batch. Knows integers, not tensors.

The k-th drawn clip is a function of seed and k alone, so all backbones draw the same clips in the same order, and a
resumed run goes on where it stopped, in the middle of an epoch too.
"""

from functools import lru_cache

import numpy as np

from bench.streams import stream_seed


@lru_cache(maxsize=4)
def _epoch_order(seed: int, num_clips: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(stream_seed(seed, "order", epoch)).permutation(num_clips)


def drawn_clips(seed: int, num_clips: int, first_draw: int, num_draws: int) -> list[int]:
    """Clip indices of draws first_draw ... first_draw + num_draws - 1; each epoch is a fresh permutation of all clips.

    >>> sorted(drawn_clips(0, 5, 5, 5))
    [0, 1, 2, 3, 4]
    """
    if num_clips < 1:
        raise ValueError(f"cannot draw from {num_clips} clips; the training split needs at least 1")
    draws = range(first_draw, first_draw + num_draws)
    return [int(_epoch_order(seed, num_clips, draw // num_clips)[draw % num_clips]) for draw in draws]
