"""Still images beside clips, cut from the training clips: a part of the steps shows single frames, and as many voxels as a step of clips.

So the share of them is one of steps, of latent voxels and of frames shown alike, and exact: after any number of steps those of stills are
the share of them, rounded down. Clips are drawn as without stills, the k-th with the same noise and timestep: a run with stills sees
fewer clips, and no others. Which steps show stills depends on the share alone, so that all rivals and seeds do the same.
"""

import math

from bench.data.policy.order import drawn_clips
from bench.data.seeds import stream_seed

FIRST_STILL_DRAW = 2**40  # draw index of the first still: those of clips stay what they are, and never come so far
DIGITS = 9  # of a product of share and steps: 0.29 of 100 is 29, in floating point a little less


def still_steps(share: float, num_steps: int) -> int:
    """How many of the first steps show stills.

    >>> [still_steps(0.3, steps) for steps in (0, 3, 4, 10, 100)], still_steps(0.29, 100)
    ([0, 0, 1, 3, 30], 29)
    """
    return math.floor(round(share * num_steps, DIGITS))


def shows_stills(share: float, step: int) -> bool:
    """Whether a step does."""
    return still_steps(share, step + 1) > still_steps(share, step)


def first_of_clips(share: float, step: int) -> int:
    """The first step from `step` on that shows clips."""
    while shows_stills(share, step):
        step += 1
    return step


def drawn_stills(
    seed: int, num_clips: int, num_frames: int, first_still: int, num_stills: int, window: int | None = None
) -> tuple[list[int], list[int]]:
    """Clips and frames of stills first_still ..., from 0: one of every clip before a second of any, its frame by chance each time.

    >>> clips, frames = drawn_stills(0, 5, 3, 5, 5)
    >>> sorted(clips), all(frame in range(3) for frame in frames)
    ([0, 1, 2, 3, 4], True)
    """
    clips = drawn_clips(stream_seed(seed, "stills", 0), num_clips, first_still, num_stills, window)
    return clips, [stream_seed(seed, "still_frame", still) % num_frames for still in range(first_still, first_still + num_stills)]
