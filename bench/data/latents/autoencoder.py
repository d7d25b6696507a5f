"""Pixels <-> latents through a diffusers autoencoder, and the cache of latents. One autoencoder serves all contenders.

Raw latents are shifted and scaled to zero mean and unit variance per channel, measured on training clips.
"""

import hashlib
import inspect
import json
import math
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.data.clips import Clips, ClipSet
from bench.data.files import rust_errors
from bench.data.frozen import content_hash
from bench.data.latents.config import Autoencoder, PretrainedAutoencoder, TrainedAutoencoder, autoencoder_folder
from bench.data.progress import Progress
from bench.data.ragged import Frames, Ragged, stacked
from bench.data.sealed import kept_or_made
from bench.data.seeds import stream_seed
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

    shift: Tensor  # (C,) mean of the raw latents
    scale: Tensor  # (C,) one over their standard deviation
    key: str  # identity, of one that `load_autoencoder` gives: configuration, code version, weights and, where trained here, the clips
    facts: dict[str, Any]  # of the same, for the record: seconds, parameters, loss

    def __init__(self, network: nn.Module, *, unshuffle: int):
        super().__init__()
        self.network: Any = network
        self.unshuffle = unshuffle  # side of the block of pixels folded into channels before the network; 1 = none
        with torch.no_grad():  # what the network says of itself
            probed = self.encode_frames(torch.zeros(1, 3, 64, 64))
        self.latent_channels, self.spatial_stride = probed.shape[1], 64 // probed.shape[-1]
        self.register_buffer("shift", torch.zeros(self.latent_channels))
        self.register_buffer("scale", torch.ones(self.latent_channels))

    def spec(self, num_labels: int) -> LatentSpec:
        """The latent space as backbones see it."""
        return LatentSpec(
            latent_channels=self.latent_channels, spatial_stride=self.spatial_stride, temporal_stride=1, num_labels=num_labels
        )

    def encode(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) in [-1, 1] -> latents (B, C, T, H, W), zero mean and unit variance per channel."""
        latents = _unfold_frames(self.encode_frames(_fold_frames(clips)), len(clips))
        return (latents - self.shift.view(-1, 1, 1, 1)) * self.scale.view(-1, 1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T, H, W) -> clips (B, 3, T, H, W), about [-1, 1]."""
        raw = latents / self.scale.view(-1, 1, 1, 1) + self.shift.view(-1, 1, 1, 1)
        return _unfold_frames(self.decode_frames(_fold_frames(raw)), len(latents))

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
            # Without the rows and columns that the stride leaves over.
            clips = [clip[None, :, : clip.shape[1] // stride * stride, : clip.shape[2] // stride * stride] for clip in found]
        else:
            clips = _batches(train.frames[index])
        raw = [self.encode_frames(_fold_frames(to_model(clip, device))).double().cpu() for clip in clips]  # each (F, C, h, w)
        latents = torch.cat([part.transpose(0, 1).flatten(1) for part in raw], dim=1)  # (C, voxels)
        deviation = latents.std(dim=1)
        if not bool(torch.isfinite(deviation).all()) or float(deviation.min()) < 1e-6:
            raise Refusal(
                f"the autoencoder's latents have channel deviations {deviation.tolist()}; a dead or broken channel cannot be scaled"
            )
        self.shift.copy_(latents.mean(dim=1))
        self.scale.copy_(1 / deviation)


def load_autoencoder(config: Autoencoder, clips: Clips, cache: Path, device: torch.device, progress: Progress) -> FrameAutoencoder:
    """The autoencoder of a data set, from the cache or made now. Refusal or OSError with one line for the user."""
    folder = autoencoder_folder(config, clips.digest, cache)
    kept_or_made(folder, "weights of the autoencoder", lambda temp: _make(config, clips, temp, device, progress))
    facts = json.loads((folder / "facts.json").read_text())
    network = getattr(diffusers, facts["class_name"]).from_pretrained(folder / "network", use_safetensors=True, low_cpu_mem_usage=False)
    autoencoder = FrameAutoencoder(network.eval().requires_grad_(False), unshuffle=facts["unshuffle"])
    autoencoder.shift.copy_(torch.tensor(facts["shift"]))
    autoencoder.scale.copy_(torch.tensor(facts["scale"]))
    # The weights are part of the identity: trained again on another machine, they are other weights.
    autoencoder.key, autoencoder.facts = content_hash([folder.name, _weights_hash(autoencoder)])[:16], facts
    return autoencoder.to(device)


@torch.inference_mode()
def decode_clips(autoencoder: FrameAutoencoder, latents: list[Tensor]) -> Frames:
    """B latents (C, T, H, W) -> clips as stored: (B, T, H, W, 3) uint8 where all have one shape, else B of (T, H, W, 3)."""
    decoded = (from_model(autoencoder.decode(clip[None].float().to(autoencoder.shift.device)))[0] for clip in latents)
    return stacked(decoded, len(latents))


@torch.inference_mode()
def encode_clips(autoencoder: FrameAutoencoder, frames: np.ndarray) -> Tensor:
    """Clips as stored, (B, T, H, W, 3) uint8 -> latents (B, C, T, H, W) on the CPU, as many clips at once as memory allows."""
    parts = [autoencoder.encode(to_model(chunk, autoencoder.shift.device)).cpu() for chunk in _batches(frames)]
    return torch.cat(parts)


def _make(config: Autoencoder, clips: Clips, folder: Path, device: torch.device, progress: Progress) -> None:
    start_s = time.perf_counter()
    if isinstance(config, TrainedAutoencoder):
        autoencoder, loss = train_autoencoder(config, clips.splits["train"], device, progress)
        class_name, unshuffle = "AutoencoderTiny", 2
    else:
        autoencoder, loss = FrameAutoencoder(load_pretrained(config), unshuffle=1).to(device), None
        class_name, unshuffle = config.class_name, 1
    autoencoder.eval().measure_statistics(clips.splits["train"], device)
    with rust_errors():
        autoencoder.network.save_pretrained(folder / "network", safe_serialization=True)
    path = folder / "network" / "config.json"
    known = inspect.signature(type(autoencoder.network).__init__).parameters  # of other fields its reader would warn
    kept = {name: value for name, value in json.loads(path.read_text()).items() if name.startswith("_") or name in known}
    path.write_text(json.dumps(kept, indent=2))
    facts = {
        "class_name": class_name,
        "unshuffle": unshuffle,
        "shift": autoencoder.shift.tolist(),
        "scale": autoencoder.scale.tolist(),
        "num_params": sum(weight.numel() for weight in autoencoder.network.parameters()),
        "seconds": time.perf_counter() - start_s,
        "train_loss": loss,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def load_pretrained(config: PretrainedAutoencoder) -> nn.Module:
    network_class = getattr(diffusers, config.class_name, None)
    if network_class is None or not config.class_name.startswith(("Autoencoder", "Asymmetric", "VQModel")):
        raise Refusal(f"autoencoder.class_name {config.class_name!r} is not an autoencoder of diffusers; for example AutoencoderKL")
    try:
        network = network_class.from_pretrained(config.name, revision=config.revision, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise Refusal(
            f"autoencoder {config.name!r} cannot be loaded as {config.class_name}: {' '.join(str(error).split())[:300]}"
        ) from error
    if any(isinstance(module, nn.Conv3d) for module in network.encoder.modules()):
        raise Refusal(f"autoencoder {config.name!r} ({config.class_name}) compresses time; use one of images, such as AutoencoderKL")
    return network.float()


def train_autoencoder(
    config: TrainedAutoencoder, train: ClipSet, device: torch.device, progress: Progress
) -> tuple[FrameAutoencoder, float]:
    """Mean squared error on single frames, AdamW, one cycle of the learning rate. Returns the autoencoder and its last loss."""
    levels = int(math.log2(config.spatial_stride))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "autoencoder", 0))
        network = diffusers.AutoencoderTiny(
            in_channels=12,
            out_channels=12,
            latent_channels=config.latent_channels,
            encoder_block_out_channels=(config.width,) * levels,
            decoder_block_out_channels=(config.width,) * levels,
            num_encoder_blocks=(1,) * levels,
            num_decoder_blocks=(1,) * levels,
        )
    autoencoder = FrameAutoencoder(network, unshuffle=2).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    rising = 0.1 if config.num_steps != 10 else 0.11  # a tenth of 10 steps is one, and the schedule divides by one less
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.num_steps, pct_start=rising)
    for step in range(config.num_steps):
        generator = np.random.default_rng(stream_seed(config.seed, "autoencoder_frames", step))
        frames = _random_frames(train.frames, config.batch_size, config.spatial_stride, generator)
        batch = to_model(frames[:, None], device)[:, :, 0]  # (F, 3, H, W)
        loss = functional.mse_loss(autoencoder.decode_frames(autoencoder.encode_frames(batch)), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 19 or step + 1 == config.num_steps:
            if not math.isfinite(value := loss.item()):
                raise Refusal(f"the autoencoder diverged at step {step + 1}; lower autoencoder.learning_rate {config.learning_rate}")
            progress(step + 1, config.num_steps, f"autoencoder, {-10 * math.log10(value / 4):.1f} dB")
    return autoencoder, value


def _random_frames(frames: Frames, num: int, stride: int, generator: np.random.Generator) -> np.ndarray:
    """Frames (num, H, W, 3) uint8 of random clips; of clips of several shapes random windows, as large as the smallest height and width."""
    if not isinstance(frames, Ragged):
        num_clips, num_frames = frames.shape[:2]
        clip, frame = generator.integers(num_clips, size=num), generator.integers(num_frames, size=num)
        return frames[clip, frame]
    height, width = (min(shape[axis] for shape in frames.shapes) // stride * stride for axis in (1, 2))
    windows = []
    for index in generator.integers(len(frames), size=num):
        clip = frames[int(index)]
        spare = (clip.shape[0] - 1, clip.shape[1] - height, clip.shape[2] - width)
        place, top, left = (int(generator.integers(size + 1)) for size in spare)
        windows.append(clip[place, top : top + height, left : left + width])
    return np.stack(windows)


def _weights_hash(autoencoder: FrameAutoencoder) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fold_frames(clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)


def _unfold_frames(frames: Tensor, num_clips: int) -> Tensor:
    """(B T, C, H, W) -> (B, C, T, H, W)."""
    return frames.unflatten(0, (num_clips, -1)).transpose(1, 2)


def clips_at_once(shape: Shape) -> int:
    """How many clips (T, H, W) are encoded in one call."""
    return max(1, PIXELS_AT_ONCE // math.prod(shape))


def _batches(frames: np.ndarray) -> list[np.ndarray]:
    """Clips (N, T, H, W, 3), as many together as are encoded in one call."""
    size = clips_at_once(frames.shape[1:4])
    return [frames[start : start + size] for start in range(0, len(frames), size)]
