"""Are samples copies? How near clips lie to the training clips, held against how near held-out real clips lie. In pixels, no network.

A clip's nearness is its distance to the nearest training clip over its mean distance to the next ones (after Carlini et al. 2023,
2301.13188): a blurred clip is far from nothing, and yet no copy. Clips of any shape are pooled to one grid, whose cost is a look at every
training clip: a quarter of a second for 2,000 of 10x24x24.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from bench.data.ragged import Frames
from bench.metrics.pixels.contract import SHARE
from bench.records.record import Measurement

VERSION = 1  # bump with any change of a value
GRID = (4, 8, 8)  # places of a clip in time, height, width: coarse enough that an autoencoder's blur is no distance
NUM_NEXT = 50  # training clips behind the nearest, whose mean distance it is held against
NEAR = 0.5  # of the median real clip's nearness; a clip nearer than this looks like a copy
MOST_TRAIN = 4096  # training clips looked at, evenly spaced among all
ROUNDING = 1e-9  # of two squares, below which their difference is none
BATCH = 64  # clips compared at once; bounds memory
RATE, RATIO = "copy_rate", "train_nearness_ratio"


def copy_measurements(clips: Mapping[str, Frames], test: Frames, train: Frames, source: str) -> list[Measurement]:
    """Of every subject's clips: the share that looks like copies, and its median nearness over that of the real `test` clips.

    `source`: identity of the real clips. Nothing where there are too few training clips to tell near from far.
    """
    places = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_TRAIN)).astype(int))
    if len(places) <= NUM_NEXT:
        return []
    known = pooled([train[place] for place in places])
    usual = float(np.median(nearness(pooled(test), known)))
    protocol = {"measure": "nearest training clip", "version": VERSION, "clips": source, "num_clips": len(test), "num_train": len(places)}
    protocol |= {"grid": list(GRID), "num_next": NUM_NEXT, "near": NEAR}
    found = []
    for subject, frames in clips.items():
        near = nearness(pooled(frames), known)
        rate, ratio = float(np.mean(near < NEAR * usual)), float(np.median(near)) / usual if usual else 1.0
        for name, value, unit in ((RATE, rate, SHARE), (RATIO, ratio, "1")):
            found.append(Measurement(name=name, subject=subject, value=value, unit=unit, better="none", protocol=protocol))
    return found


def pooled(frames: Frames | list[np.ndarray]) -> np.ndarray:
    """Clips (T, H, W, 3) uint8, of any shapes -> (N, D) float64 means over the places of the grid."""
    parts = [F.adaptive_avg_pool3d(torch.from_numpy(np.array(clip)).permute(3, 0, 1, 2).float(), GRID).flatten() for clip in frames]
    return torch.stack(parts).double().numpy()


def nearness(clips: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Clips (N, D), training clips (M, D), M above `NUM_NEXT` -> (N,): 0 for a copy, towards 1 where no training clip is nearer."""
    found = np.empty(len(clips))
    squares = (train**2).sum(axis=1)
    for start in range(0, len(clips), BATCH):
        rows = clips[start : start + BATCH]
        sums = (rows**2).sum(axis=1)[:, None] + squares  # (rows, M)
        distances = sums - 2 * rows @ train.T
        distances = np.sqrt(np.where(distances > ROUNDING * sums, distances, 0))
        nearest = np.sort(np.partition(distances, NUM_NEXT, axis=1)[:, : NUM_NEXT + 1], axis=1)
        rest = nearest[:, 1:].mean(axis=1)
        of_its_own = np.divide(nearest[:, 0], rest, out=np.zeros(len(rows)), where=rest > 0)  # 0 too of what training has often
        found[start : start + BATCH] = of_its_own
    return found
