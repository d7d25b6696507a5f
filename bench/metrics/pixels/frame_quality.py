"""How far apart two versions of the same frames are: what the autoencoder alone loses. Torch is imported by whoever measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.data.ragged import Frames, by_shape, clip_shapes
from bench.metrics.pixels.contract import PixelMeasure, PixelValue
from bench.shapes import Refusal

if TYPE_CHECKING:
    from torchmetrics import Metric

LARGEST = 255.0  # of a pixel


def psnr_db(first: Frames, second: Frames) -> float:
    """Peak signal to noise ratio of the same frames (N, T, H, W, 3) uint8 in two versions, over all pixels; infinite where equal."""
    from torchmetrics.image import PeakSignalNoiseRatio

    return _over_clips(PeakSignalNoiseRatio(data_range=LARGEST), first, second)


def ssim(first: Frames, second: Frames) -> float:
    """Structural similarity (Wang et al. 2004), mean over frames (N, T, H, W, 3) uint8; 1 where equal. Gaussian window of 11 pixels."""
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    return _over_clips(StructuralSimilarityIndexMeasure(data_range=LARGEST), first, second)


def _over_clips(metric: Metric, first: Frames, second: Frames) -> float:
    """A torchmetrics metric of images over every frame, a clip in memory at a time."""
    import torch

    if clip_shapes(first) != clip_shapes(second):
        sets = " and ".join(f"{len(frames)} clips of {', '.join(map(str, by_shape(clip_shapes(frames))))}" for frames in (first, second))
        raise Refusal(f"the two sets of frames have shapes that differ, {sets}; compare versions of the same frames")
    for one, other in zip(first, second, strict=True):
        metric.update(*(torch.from_numpy(np.array(clip)).permute(0, 3, 1, 2).float() for clip in (one, other)))
    return float(metric.compute())


FRAME_QUALITY = PixelMeasure(
    name="frame quality",
    version=1,
    values=(
        PixelValue(name="psnr_db", title="PSNR of the autoencoder", unit="dB", better="higher"),
        PixelValue(name="ssim", title="SSIM of the autoencoder", better="higher"),
    ),
    measure=lambda real, reconstructed: {"psnr_db": psnr_db(real, reconstructed), "ssim": ssim(real, reconstructed)},
    settings={"data_range": LARGEST},
    applies=lambda sets: "reconstruction" in sets.clips,
    versions_of="real",
)
