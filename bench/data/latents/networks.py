"""An autoencoder of diffusers as the suite calls it: by frame or by clip, pixels to latents of a known scale and back."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.data.clips import ClipSet
from bench.data.ragged import Ragged
from bench.shapes import LatentSpec, Refusal, Shape

STATISTICS_CLIPS = 256  # training clips that the latents' mean and variance are measured on
PIXELS_AT_ONCE = 2**19  # encoded in one call


def to_model(frames: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Clips as stored, (B, T, H, W, 3) uint8 -> (B, 3, T, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(frames)).to(device).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)


def from_model(clips: Tensor) -> np.ndarray:
    """Clips (B, 3, T, H, W) in [-1, 1] -> as stored, (B, T, H, W, 3) uint8, rounded to the nearest level."""
    return clips.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).cpu().numpy()


class FrameAutoencoder(nn.Module):
    """A diffusers autoencoder of images, applied frame by frame, with unit-variance latents."""

    probed_frames = 1  # of a clip by which a network tells its strides
    frame_step = 0  # as `LatentSpec` has it
    shift: Tensor  # (C,) mean of the raw latents
    scale: Tensor  # (C,) one over their standard deviation
    key: str  # identity, of one that `load_autoencoder` gives: configuration, code version, weights and, where trained here, the clips
    facts: dict[str, Any]  # of the same, for the record: seconds, parameters, loss

    def __init__(self, network: nn.Module, *, unshuffle: int):
        super().__init__()
        self.network: Any = network
        self.unshuffle = unshuffle  # side of the block of pixels folded into channels before the network; 1 = none
        with torch.no_grad():  # what the network says of itself
            probed = self.raw_of(torch.zeros(1, 3, self.probed_frames, 64, 64))
        self.latent_channels, self.spatial_stride = probed.shape[1], 64 // probed.shape[-1]
        self.temporal_stride = (self.probed_frames - 1) // max(probed.shape[2] - 1, 1) or 1
        self.register_buffer("shift", torch.zeros(self.latent_channels))
        self.register_buffer("scale", torch.ones(self.latent_channels))

    def spec(self, num_labels: int) -> LatentSpec:
        """The latent space as backbones see it."""
        return LatentSpec(
            latent_channels=self.latent_channels,
            spatial_stride=self.spatial_stride,
            temporal_stride=self.temporal_stride,
            num_labels=num_labels,
            frame_step=self.frame_step,
        )

    def encode(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) in [-1, 1] -> latents (B, C, T, H, W), zero mean and unit variance per channel."""
        return (self.raw_of(clips) - self.shift.view(-1, 1, 1, 1)) * self.scale.view(-1, 1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T, H, W) -> clips (B, 3, T, H, W), about [-1, 1]."""
        raw = latents / self.scale.view(-1, 1, 1, 1) + self.shift.view(-1, 1, 1, 1)
        return self.clips_of(raw)

    def raw_of(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) in [-1, 1] -> raw latents (B, C, T, h, w), as the network gives them."""
        return unfold_frames(self.encode_frames(fold_frames(clips)), len(clips))

    def clips_of(self, raw: Tensor) -> Tensor:
        """Raw latents (B, C, T, h, w) -> clips (B, 3, T, H, W)."""
        return unfold_frames(self.decode_frames(fold_frames(raw)), len(raw))

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H, W) -> raw latents (F, C, h, w); the mode, where the network gives a distribution."""
        output = self.network.encode(functional.pixel_unshuffle(frames, self.unshuffle))
        return output.latent_dist.mode() if hasattr(output, "latent_dist") else output[0]

    def decode_frames(self, latents: Tensor) -> Tensor:
        """Raw latents (F, C, h, w) -> frames (F, 3, H, W)."""
        return functional.pixel_shuffle(self.network.decode(latents)[0], self.unshuffle)

    @torch.no_grad()
    def measure_statistics(self, train: ClipSet, device: torch.device) -> None:
        """Set shift and scale from evenly spaced training clips."""
        index = np.unique(np.linspace(0, len(train.frames) - 1, STATISTICS_CLIPS).astype(int))
        if isinstance(train.frames, Ragged):
            stride, found = self.spatial_stride, [train.frames[i] for i in index]
            # Without the frames, rows and columns that the strides leave over.
            step = self.frame_step or 1
            clips = [
                clip[None, : (len(clip) - 1) // step * step + 1, : clip.shape[1] // stride * stride, : clip.shape[2] // stride * stride]
                for clip in found
            ]
        else:
            clips = batches_of(train.frames[index])
        raw = [self.raw_of(to_model(clip, device)).double().cpu() for clip in clips]  # each (B, C, T, h, w)
        latents = torch.cat([part.transpose(0, 1).flatten(1) for part in raw], dim=1)  # (C, voxels)
        deviation = latents.std(dim=1)
        if not bool(torch.isfinite(deviation).all()) or float(deviation.min()) < 1e-6:
            raise Refusal(
                f"the autoencoder's latents have channel deviations {deviation.tolist()}; a dead or broken channel cannot be scaled"
            )
        self.shift.copy_(latents.mean(dim=1))
        self.scale.copy_(1 / deviation)

    def take_own_statistics(self) -> None:
        """Set shift and scale to those of the network's configuration, which are what its own pipelines scale by. Refusal without."""
        config = self.network.config
        scaling = config.get("scaling_factor")
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and deviation is not None:  # of each channel
            own = len(mean) == len(deviation) == self.latent_channels and all(value > 0 for value in deviation)
            if not own:
                raise Refusal(f"the autoencoder's latents_mean and latents_std are not of {self.latent_channels} channels; use measured")
            self.shift.copy_(torch.tensor(mean))
            self.scale.copy_((scaling or 1.0) / torch.tensor(deviation))
        elif scaling:
            self.shift.fill_(config.get("shift_factor") or 0.0)
            self.scale.fill_(scaling)
        else:
            raise Refusal("autoencoder.statistics own: its configuration has no scaling_factor; use measured")


class ClipAutoencoder(FrameAutoencoder):
    """One that compresses time too: the first frame alone, and each further latent frame of `temporal_stride` frames."""

    probed_frames = 5
    frame_step = 4

    def raw_of(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) in [-1, 1] -> raw latents (B, C, t, h, w)."""
        raw: Tensor = self.network.encode(clips).latent_dist.mode()
        return raw

    def clips_of(self, raw: Tensor) -> Tensor:
        """Raw latents (B, C, t, h, w) -> clips (B, 3, T, H, W)."""
        clips: Tensor = self.network.decode(raw).sample
        return clips


class EightFramesAutoencoder(ClipAutoencoder):
    """CogVideoX's: it decodes latent frames by twos, and a first one alone only where their number is odd."""

    frame_step = 8


class TemporalDecoderAutoencoder(FrameAutoencoder):
    """Stable Video Diffusion's: frames are encoded one by one, and decoded with sight of each other."""

    def clips_of(self, raw: Tensor) -> Tensor:
        """Raw latents (B, C, T, h, w) -> clips (B, 3, T, H, W)."""
        return unfold_frames(self.network.decode(fold_frames(raw), num_frames=raw.shape[2]).sample, len(raw))


OF_CLIPS: dict[str, type[FrameAutoencoder]] = {  # classes of diffusers that are not called frame by frame
    "AutoencoderKLCogVideoX": EightFramesAutoencoder,
    "AutoencoderKLTemporalDecoder": TemporalDecoderAutoencoder,
    "AutoencoderKLWan": ClipAutoencoder,
}


def wrapped(network: nn.Module, *, unshuffle: int = 1) -> FrameAutoencoder:
    """A network of diffusers as the suite calls it."""
    return OF_CLIPS.get(type(network).__name__, FrameAutoencoder)(network, unshuffle=unshuffle)


def fold_frames(clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)


def unfold_frames(frames: Tensor, num_clips: int) -> Tensor:
    """(B T, C, H, W) -> (B, C, T, H, W)."""
    return frames.unflatten(0, (num_clips, -1)).transpose(1, 2)


def clips_at_once(shape: Shape) -> int:
    """How many clips (T, H, W) are encoded in one call."""
    return max(1, PIXELS_AT_ONCE // math.prod(shape))


def batches_of(frames: np.ndarray) -> list[np.ndarray]:
    """Clips (N, T, H, W, 3), as many together as are encoded in one call."""
    size = clips_at_once(frames.shape[1:4])
    return [frames[start : start + size] for start in range(0, len(frames), size)]
