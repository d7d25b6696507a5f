"""The extractor `motion`: what a small network trained on this suite's own worlds sees in a clip's frames and in their sequence.

A frame encoder gives each frame Z numbers from which a small clean picture can be drawn; a head of convolutions in time reads them with
their first and second differences. Plain statistics of those numbers and of the pixels go beside. Trained by
motion_training.py, which writes the weights and motion.json beside this file. Knows nothing of distances, damage or training.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.ragged import Frames, Ragged
from bench.metrics.extractors.i3d import exact_float32
from bench.metrics.extractors.manifest import FRAME, MOTION
from bench.shapes import Refusal

WEIGHTS = Path(__file__).with_name("motion.safetensors")
SIZE = 32  # height and width the network sees
FRAME_DIM = FRAME.dim  # Z, numbers a frame
HIDDEN = 64  # channels of the temporal head
LEARNED = 32  # features that the training tasks shape
GROUPS = 8  # of a frame's numbers, each with a mean step, a mean turn and a balance of its halves
SCALES = 3  # of detail: pixels of 32x32, 16x16 and 8x8
DIM = LEARNED + 3 * GROUPS + SCALES
CHANNELS = (16, 32, 48)  # of the frame encoder, each at half the resolution of the one before
FAINTEST = 0.03  # detail, of a range of 2: keeps the logarithm of a plain background finite
LEAST = 0.05  # of a step, in standard deviations of a frame's numbers: keeps the logarithm of a frozen clip finite


def resize(frames: Tensor) -> Tensor:
    """Frames (B, T, H, W, 3) uint8 -> images (B*T, 3, 32, 32) in [-1, 1]: bilinear, half-pixel centres, antialiased, aspect not kept."""
    images = frames.flatten(0, 1).permute(0, 3, 1, 2).float()  # (B*T, 3, H, W)
    if images.shape[2:] != (SIZE, SIZE):
        images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    return images / 127.5 - 1


class Motion(nn.Module):
    """Frames (B, T, H, W, 3) uint8 -> features (B, 59). No batch statistics. 32 are learned, the others are measured.

    For each of 8 groups of a frame's numbers: the logarithm of steps from frame to frame, that of turns (steps between steps), and how far
    the second half of the clip moves more than the first, from -1 to 1; where energy is lost things slow down, so backwards they speed up.
    At each of 3 scales: how much detail the frames have.
    """

    frame_centre: Tensor  # (Z,), as the three below: statistics of undamaged training worlds
    frame_scale: Tensor  # (Z,)
    centre: Tensor  # (59,)
    scale: Tensor  # (59,)

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *CHANNELS)
        self.frame = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.squeeze = nn.Linear(CHANNELS[-1] * (SIZE // 2 ** len(CHANNELS)) ** 2, FRAME_DIM)
        self.window = nn.Conv1d(3 * FRAME_DIM, HIDDEN, 3, padding=1, padding_mode="replicate")
        self.context = nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1, padding_mode="replicate")
        self.summary = nn.Linear(3 * HIDDEN, LEARNED)
        for name, dim in (("frame", FRAME_DIM), ("", DIM)):
            self.register_buffer(f"{name}_centre".lstrip("_"), torch.zeros(dim))
            self.register_buffer(f"{name}_scale".lstrip("_"), torch.ones(dim))

    def encode(self, images: Tensor) -> Tensor:
        """Images (M, 3, 32, 32) -> (M, Z)."""
        images = images.contiguous(memory_format=torch.channels_last)
        for layer in self.frame:
            images = F.relu(layer(images))
        return self.squeeze(images.flatten(1))

    def read(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, T, Z) -> a state at each time (B, T, HIDDEN), and the learned features (B, LEARNED)."""
        first = codes.diff(dim=1)  # (B, T-1, Z)
        second = first.diff(dim=1)  # (B, T-2, Z)
        x = torch.cat([codes, F.pad(first, (0, 0, 1, 0)), F.pad(second, (0, 0, 1, 1))], dim=2)  # (B, T, 3 Z)
        x = F.silu(self.window(x.transpose(1, 2)))
        x = F.silu(self.context(x))  # (B, HIDDEN, T)
        half = x.shape[2] // 2
        moments = torch.cat([x.mean(2), x.std(2, correction=0), x[:, :, -half:].mean(2) - x[:, :, :half].mean(2)], dim=1)
        return x.transpose(1, 2), self.summary(moments)

    def describe(self, images: Tensor, num_frames: int) -> Tensor:
        """Images (B*T, 3, 32, 32) of clips of T frames -> all features (B, 59) before they are centred and scaled."""
        codes = self.encode(images).unflatten(0, (-1, num_frames))  # (B, T, Z)
        first = codes.diff(dim=1)  # (B, T-1, Z)
        steps, turns = self.energies(first), self.energies(first.diff(dim=1))  # (B, T-1, GROUPS), (B, T-2, GROUPS)
        middle = steps.shape[1] // 2
        early, late = steps[:, :middle].mean(1), steps[:, -middle:].mean(1)
        measured = [steps.log().mean(1), turns.log().mean(1), (late - early) / (late + early)]  # each (B, GROUPS)
        detail = details(images).unflatten(0, (-1, num_frames)).mean(1)  # (B, SCALES)
        return torch.cat([self.read(codes)[1], *measured, detail], dim=1)

    def energies(self, changes: Tensor) -> Tensor:
        """Changes of frames' numbers (B, T, Z) -> their mean square in each group, (B, T, GROUPS)."""
        return (changes / self.frame_scale).square().unflatten(2, (GROUPS, -1)).mean(3) + LEAST**2

    @exact_float32()
    def frame_features(self, frames: Tensor) -> Tensor:
        """Frames (B, T, H, W, 3) uint8 -> (B*T, Z), centred and scaled; a frame's numbers do not depend on other frames."""
        return (self.encode(resize(frames)) - self.frame_centre) / self.frame_scale

    def features_by_frame(self, frames: Frames) -> np.ndarray:
        """Frames (N, T, H, W, 3) uint8 -> features (N, T, Z) float32, a clip at a time; of clips of many shapes the middle frame, T = 1.

        A clip's frames are not independent, so features keep their clip axis until the distance.
        """
        shown = [clip[len(clip) // 2 :][:1] for clip in frames] if isinstance(frames, Ragged) else frames
        device = self.frame_centre.device
        return np.stack([self.frame_features(torch.from_numpy(np.array(clip[None])).to(device)).cpu().numpy() for clip in shown])

    @exact_float32()
    def forward(self, frames: Tensor) -> Tensor:
        return (self.describe(resize(frames), frames.shape[1]) - self.centre) / self.scale


def details(images: Tensor) -> Tensor:
    """Images (M, 3, 32, 32) -> (M, SCALES): logarithm of what 2x2 means lose, over all pixels; then of those means, and of theirs."""
    found = []
    for _ in range(SCALES):
        coarse = F.avg_pool2d(images, 2)
        lost = (images - F.interpolate(coarse, scale_factor=2, mode="nearest")).square().mean(1)  # (M, H, W)
        found.append((lost + FAINTEST**2).log().mean((1, 2)))
        images = coarse
    return torch.stack(found, dim=1)


def load_motion(device: torch.device, path: Path = WEIGHTS, sha256: str = MOTION.weights_sha256) -> Motion:
    """The network with the weights of `path`. Refusal unless the file is, byte for byte, the one with this hash."""
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise Refusal(f"{path} is damaged or another version: SHA-256 {digest[:12]}, expected {sha256[:12]}; restore it with git checkout")
    network = Motion()
    network.load_state_dict({name: tensor.float() for name, tensor in safetensors.torch.load(content).items()})
    return network.to(device).eval().requires_grad_(False)
