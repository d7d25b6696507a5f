"""Single frames, without time: Frechet distance over frame features, and how far two sets of the same frames are apart.

A clip's frames are not independent, so an interval leaves out whole clips: features keep their clip axis until the distance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torchmetrics import Metric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from bench.data.ragged import Frames, Ragged, by_shape, clip_shapes
from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.extractors.manifest import MOTION
from bench.metrics.extractors.motion import FRAME_DIM, load_motion
from bench.shapes import Refusal

FRAME = replace(MOTION, name="frame", dim=FRAME_DIM, min_frames=1)  # the same weights, a part of them
LARGEST = 255.0  # of a pixel


class FrameEncoder:
    """The frame encoder of the `motion` extractor alone: what it says of one frame, knowing no other."""

    def __init__(self, device: torch.device):
        self.device = device
        self.network = load_motion(device)

    def features(self, frames: Frames) -> np.ndarray:
        """Frames (N, T, H, W, 3) uint8 -> features (N, T, D) float32, a clip at a time; of clips of many shapes the middle frame, T = 1."""
        shown = [clip[len(clip) // 2 :][:1] for clip in frames] if isinstance(frames, Ragged) else frames
        clips = [self.network.frame_features(torch.from_numpy(np.array(clip[None])).to(self.device)).cpu().numpy() for clip in shown]
        return np.stack(clips)


def frame_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance over the single frames of two sets of clips, features (N, T, D) each; blind to the order of frames."""
    return frechet_distance(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))


def psnr_db(first: Frames, second: Frames) -> float:
    """Peak signal to noise ratio of the same frames (N, T, H, W, 3) uint8 in two versions, over all pixels; infinite where equal."""
    return _over_clips(PeakSignalNoiseRatio(data_range=LARGEST), first, second)


def ssim(first: Frames, second: Frames) -> float:
    """Structural similarity (Wang et al. 2004), mean over frames (N, T, H, W, 3) uint8; 1 where equal. Gaussian window of 11 pixels."""
    return _over_clips(StructuralSimilarityIndexMeasure(data_range=LARGEST), first, second)


def _over_clips(metric: Metric, first: Frames, second: Frames) -> float:
    """A torchmetrics metric of images over every frame, a clip in memory at a time."""
    if clip_shapes(first) != clip_shapes(second):
        sets = " and ".join(f"{len(frames)} clips of {', '.join(map(str, by_shape(clip_shapes(frames))))}" for frames in (first, second))
        raise Refusal(f"the two sets of frames have shapes that differ, {sets}; compare versions of the same frames")
    for one, other in zip(first, second, strict=True):
        metric.update(*(torch.from_numpy(np.array(clip)).permute(0, 3, 1, 2).float() for clip in (one, other)))
    return float(metric.compute())
