"""Features of single frames, without time. A clip's frames are not independent, so features keep their clip axis until the distance."""

from __future__ import annotations

import numpy as np
import torch

from bench.data.ragged import Frames, Ragged
from bench.metrics.extractors.motion import load_motion


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
