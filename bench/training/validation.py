"""The validation loss: held-out clips at fixed timesteps, with noise that neither the seed nor the batching changes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bench.data.latents.latents import LatentSet
from bench.data.policy.batches import clips_per_batch
from bench.data.policy.config import Batching
from bench.data.ragged import by_shape
from bench.study.cell import Cell
from bench.training.draws import clips_to_device, to_device
from bench.training.objective import PATHS, VALIDATION_TIMESTEPS, clip_losses, draw_noise, noised
from bench.training.precision import HALF, autocast


@torch.no_grad()
def validation_losses(backbone: Any, val: LatentSet, num_clips: int, cell: Cell, device: torch.device) -> dict[float, float]:
    """Timestep -> mean loss of the first `num_clips` validation clips, each at its own shape, in the precision of the cell."""
    path = PATHS[cell.objective.name]
    batches = list(_batches(val, num_clips, cell.batching))
    losses = {}
    for place, timestep in enumerate(VALIDATION_TIMESTEPS):
        total = torch.zeros((), dtype=torch.float64, device=device)
        for clips in batches:
            latents = [torch.from_numpy(np.array(val.latents[clip])) for clip in clips]
            noise = [draw_noise(0, f"validation_noise_{place}", clip, tuple(own.shape)) for clip, own in zip(clips, latents, strict=True)]
            timesteps = path.snap(torch.full((len(clips),), timestep))
            labels = None if val.labels is None else to_device(torch.tensor(val.labels[clips]), device)
            mixed, targets = noised(path, clips_to_device(latents, device), clips_to_device(noise, device), timesteps)
            with autocast(device, HALF[cell.precision]):
                predictions = backbone(mixed, to_device(timesteps, device), labels)
            total += clip_losses(predictions, targets).double().sum()
        losses[timestep] = float(total) / num_clips
    return losses


def mean_loss(losses: dict[float, float]) -> float:
    """Over all timesteps."""
    return sum(losses.values()) / len(losses)


def _batches(val: LatentSet, num_clips: int, batching: Batching) -> Iterator[list[int]]:
    """Clips of one shape, as many at once as a training step has."""
    for shape, clips in by_shape(val.shapes[:num_clips]).items():
        size = max(1, clips_per_batch(shape, batching))
        yield from (clips[start : start + size] for start in range(0, len(clips), size))
