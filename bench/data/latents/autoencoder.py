"""Pixels <-> latents through a diffusers autoencoder, and the cache of latents. One autoencoder serves all contenders.

Raw latents are shifted and scaled to zero mean and unit variance per channel, measured on training clips.
"""

import hashlib
import inspect
import json
import math
import time
from pathlib import Path

import diffusers
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.data.clips import Clips, ClipSet
from bench.data.files import rust_errors
from bench.data.frozen import content_hash
from bench.data.latents.config import Autoencoder, PretrainedAutoencoder, TrainedAutoencoder, autoencoder_folder
from bench.data.latents.networks import OF_CLIPS, FrameAutoencoder, batches_of, from_model, to_model, wrapped
from bench.data.progress import Progress
from bench.data.ragged import Frames, Ragged, stacked
from bench.data.sealed import kept_or_made
from bench.data.seeds import stream_seed
from bench.shapes import Refusal


def load_autoencoder(config: Autoencoder, clips: Clips, cache: Path, device: torch.device, progress: Progress) -> FrameAutoencoder:
    """The autoencoder of a data set, from the cache or made now. Refusal or OSError with one line for the user."""
    folder = autoencoder_folder(config, clips.digest, cache)
    kept_or_made(folder, "weights of the autoencoder", lambda temp: _make(config, clips, temp, device, progress))
    facts = json.loads((folder / "facts.json").read_text())
    network = getattr(diffusers, facts["class_name"]).from_pretrained(folder / "network", use_safetensors=True, low_cpu_mem_usage=False)
    autoencoder = wrapped(network.eval().requires_grad_(False), unshuffle=facts["unshuffle"])
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
    parts = [autoencoder.encode(to_model(chunk, autoencoder.shift.device)).cpu() for chunk in batches_of(frames)]
    return torch.cat(parts)


def _make(config: Autoencoder, clips: Clips, folder: Path, device: torch.device, progress: Progress) -> None:
    start_s = time.perf_counter()
    if isinstance(config, TrainedAutoencoder):
        autoencoder, loss = train_autoencoder(config, clips.splits["train"], device, progress)
        class_name, unshuffle = "AutoencoderTiny", 2
    else:
        autoencoder, loss = wrapped(load_pretrained(config)).to(device), None
        class_name, unshuffle = config.class_name, 1
    if isinstance(config, PretrainedAutoencoder) and config.statistics == "own":
        autoencoder.eval().take_own_statistics()
    else:
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
        network = network_class.from_pretrained(config.name, revision=config.revision, subfolder=config.subfolder, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise Refusal(
            f"autoencoder {config.name!r} cannot be loaded as {config.class_name}: {' '.join(str(error).split())[:300]}"
        ) from error
    if config.class_name not in OF_CLIPS and any(isinstance(module, nn.Conv3d) for module in network.encoder.modules()):
        known = ", ".join(OF_CLIPS)
        raise Refusal(f"autoencoder {config.name!r} ({config.class_name}) compresses time; use one of images, or one of {known}")
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
