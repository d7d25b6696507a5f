"""Error by frame: how far the k-th frames of generated clips are, as a set, from the k-th frames of real ones. Knows no torch.

A frame is told by a few numbers of its colours, so that a covariance of some dozen clips means something: the mean colour of each quarter
and the deviation of each channel. It sees brightness, hue, contrast and where a subject is, not its shape. What it is for is the course
over the frames: errors that grow from frame to frame, as those of a model that goes on from its own frames may.
"""

import numpy as np

from bench.metrics.distances.frechet import frechet_distance

STATISTICS = "mean colour of each quarter of a frame and deviation of each channel, values in [0, 1]; Frechet distance frame by frame"
VERSION = 1


def frame_statistics(clips: np.ndarray) -> np.ndarray:
    """Clips (N, T, H, W, 3) uint8, each side at least 2 -> (N, T, 15): of each quarter the mean of each channel, then the deviations."""
    num, frames, height, width, channels = clips.shape
    found = np.empty((num, frames, 5 * channels))
    halves = [(slice(0, height // 2), slice(height // 2, height)), (slice(0, width // 2), slice(width // 2, width))]
    for place, clip in enumerate(clips):  # one at a time, as floats are eight times as large
        values = clip.astype(np.float64) / 255
        quarters = [values[:, rows, columns].mean(axis=(1, 2)) for rows in halves[0] for columns in halves[1]]
        found[place] = np.concatenate([*quarters, values.std(axis=(1, 2))], axis=-1)
    return found


def frame_distances(clips: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Two sets of clips (N, T, H, W, 3) uint8 of as many frames -> (T,): the distance of their k-th frames."""
    a, b = frame_statistics(clips), frame_statistics(real)
    return np.array([max(frechet_distance(a[:, frame], b[:, frame]), 0.0) for frame in range(a.shape[1])])


def growth(distances: np.ndarray) -> float:
    """Distances (T,) -> their mean over the last half of the frames less that over the first, the middle one in neither; 0 of one frame."""
    half = len(distances) // 2
    return float(distances[len(distances) - half :].mean() - distances[:half].mean()) if half else 0.0
