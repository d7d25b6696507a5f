"""How far apart two versions of the same frames are: what the autoencoder alone loses. Torch is imported by whoever measures."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.data.ragged import Frames
from bench.metrics.pixels.contract import PixelMeasure, PixelValue

LARGEST = 255.0  # of a pixel


def measure(first: Frames, second: Frames) -> dict[str, float]:
    """Of the same frames (N, T, H, W, 3) uint8 in two versions, a clip in memory at a time.

    Peak signal to noise ratio over all pixels, infinite where equal. Structural similarity (Wang et al. 2004) with a Gaussian window of 11
    pixels, mean over frames, 1 where equal.
    """
    import torch
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    alone: dict[str, Any] = {
        "data_range": LARGEST,
        "sync_on_compute": False,
    }  # whoever measures does so alone, whatever processes there are
    metrics = {"psnr_db": PeakSignalNoiseRatio(**alone), "ssim": StructuralSimilarityIndexMeasure(**alone)}
    for clips in zip(first, second, strict=True):
        images = [torch.from_numpy(np.array(clip)).permute(0, 3, 1, 2).float() for clip in clips]  # each (T, 3, H, W)
        for metric in metrics.values():
            metric.update(*images)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


FRAME_QUALITY = PixelMeasure(
    name="frame quality",
    version=1,
    values=(
        PixelValue(name="psnr_db", title="PSNR of the autoencoder", unit="dB", better="higher"),
        PixelValue(name="ssim", title="SSIM of the autoencoder", better="higher"),
    ),
    measure=measure,
    settings={"data_range": LARGEST},
    applies=lambda sets: "reconstruction" in sets.clips,
    versions_of="real",
)
