"""The engine of physics scores: clips by subject in, scores clip by clip and their means out. Knows neither cells nor folders. No torch.

Subjects, all of them going on from the known frames of the same true clips: `trained`; `real`, the true clips as the instrument reads them;
`reconstruction`, those through the autoencoder; and four floors that know no physics, or no more than the simulator's own chaos leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from bench.data.physics.regions import Region
from bench.metrics.physics.contract import PerClip, Scorecard, Stage
from bench.records.record import FLOORS, Measurement

INTERVAL = "Student's t over clips, 95 %"
TWINS = "twin_preference"  # the share of pairs whose valid clip is preferred; of one law with its name behind
POOLED = 4  # pixels of a side that are one where known frames are compared
assert FLOORS == ("twin", "nearest", "continued", "frozen")  # one for each below, and the world filmed again from a start that was moved


def score_clips(card: Scorecard, clips: Mapping[str, np.ndarray], stage: Stage) -> dict[str, PerClip]:
    """Every subject's clips (N, T, H, W, 3) -> its scores, clip by clip."""
    return {subject: dict(card.score(card.read(frames, stage), stage)) for subject, frames in clips.items()}


def frozen(frames: np.ndarray, known: int) -> np.ndarray:
    """Clips (N, T, H, W, 3) whose last known frame does not change any more."""
    held = np.minimum(np.arange(frames.shape[1]), known - 1)
    return frames[:, held]


def nearest(frames: np.ndarray, train: np.ndarray, known: int) -> np.ndarray:
    """Of each clip (N, T, H, W, 3) the training clip, of (M, T, H, W, 3), whose known frames are nearest: copying is not predicting."""
    own, others = (_pooled(clips[:, :known]) for clips in (frames, train))
    squares = (own**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * own @ others.T
    return np.asarray(train)[squares.argmin(axis=1)]


def _pooled(frames: np.ndarray) -> np.ndarray:
    """Frames (N, k, H, W, 3) -> (N, D) means over squares of pixels."""
    num, known, height, width, _ = frames.shape
    rows, columns = height // POOLED * POOLED, width // POOLED * POOLED
    squares = frames[:, :, :rows, :columns].reshape(num, known, rows // POOLED, POOLED, columns // POOLED, POOLED, 3)
    return squares.mean(axis=(3, 5), dtype=np.float32).reshape(num, -1)


def measurements(card: Scorecard, scores: Mapping[str, PerClip], stage: Stage, region: Region, source: str) -> list[Measurement]:
    """Mean of every score of every subject, with its interval over the clips that have one; `source`: identity of the true clips."""
    protocol = {"measure": card.name, "version": card.version, "clips": source, "known_frames": stage.known, **card.settings}
    found = []
    for known in card.values:
        for subject, own in scores.items():
            values = own[known.name][~np.isnan(own[known.name])]
            if len(values):
                low, high = mean_interval(values)
                found.append(
                    Measurement(
                        name=region_name(known.name, region),
                        subject=subject,
                        value=float(values.mean()),
                        unit=known.unit,
                        better=known.better,
                        low=low,
                        high=high,
                        interval=INTERVAL if low is not None else "none: a single clip has the score",
                        protocol=protocol | {"num_clips": len(own[known.name])},
                    )
                )
    return found


def region_name(name: str, region: Region) -> str:
    """The name of a score in a region: plain inside what was trained on.

    >>> region_name("path_error", "in"), region_name("path_error", "out")
    ('path_error', 'path_error_out')
    """
    return name if region == "in" else f"{name}_{region}"


def mean_interval(values: np.ndarray | Sequence[float]) -> tuple[float | None, float | None]:
    """The ends of the interval of a mean of (n,) values; None of one value."""
    num = len(values)
    if num < 2:
        return None, None
    mean, reach = float(np.mean(values)), float(stdtrit(num - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(num)
    return mean - reach, mean + reach
