"""The validation loss: held-out clips at fixed timesteps, with noise that neither the seed nor the batching changes."""

from typing import Any

import numpy as np
import torch

from bench.data.latents.latents import LatentSet
from bench.data.policy.batches import clips_per_batch
from bench.data.ragged import in_batches
from bench.study.cell import Cell
from bench.training.acceleration import HALF, autocast
from bench.training.draws import clips_to_device, to_device
from bench.training.known import given_of, unknown, with_given
from bench.training.objective import PATHS, VALIDATION_TIMESTEPS, clip_losses, draw_noise, noised, told_labels
from bench.training.ranks import ALONE, Ranks
from bench.training.units import by_units

PER_TRAINED = 4  # clips at once for each of a training step, which holds the activations of all layers and these of one


@torch.no_grad()
def validation_losses(
    backbone: Any, val: LatentSet, num_clips: int, cell: Cell, device: torch.device, ranks: Ranks = ALONE
) -> dict[float, float]:
    """Timestep -> mean loss of the first `num_clips` validation clips, each at its own shape, in the precision of the cell.

    Known frames are left out. A backbone that generates units has all of a clip's at the same time, each given those before it, clean.
    Of several processes each has a part of the batches; all go through the network equally often, the last of them for nothing maybe.
    """
    path, given_past = PATHS[cell.objective.name], by_units(backbone)
    batches = list(in_batches(val.shapes[:num_clips], lambda shape: PER_TRAINED * clips_per_batch(shape, cell.batching)))
    losses = {}
    for place, timestep in enumerate(VALIDATION_TIMESTEPS):
        total = torch.zeros((), dtype=torch.float64, device=device)
        for turn in range(-(-len(batches) // ranks.num)):
            index = turn * ranks.num + ranks.rank
            clips = batches[index % len(batches)]
            latents = [torch.from_numpy(np.array(val.latents[clip])) for clip in clips]
            noise = [draw_noise(0, f"validation_noise_{place}", clip, tuple(own.shape)) for clip, own in zip(clips, latents, strict=True)]
            timesteps = path.snap(torch.full((len(clips),), timestep))
            labels = None
            if val.labels is not None:
                labels = to_device(told_labels(val.labels[clips], val.null_label, cell.objective.label_dropout), device)
            told = {} if val.captions is None else {"captions": to_device(torch.tensor(val.captions[clips]), device)}
            here, known = clips_to_device(latents, device), cell.objective.known_frames
            mixed, targets = noised(path, here, clips_to_device(noise, device), timesteps)
            if known:
                mixed = with_given(mixed, given_of(here, known))
            with autocast(device, HALF[cell.precision]):
                predictions = backbone(mixed, to_device(timesteps, device), labels, **told, **({"clean": here} if given_past else {}))
            total += clip_losses(unknown(predictions, known), unknown(targets, known)).double().sum() * (index < len(batches))
        losses[timestep] = float(ranks.total(total)) / num_clips
    return losses


def mean_loss(losses: dict[float, float]) -> float:
    """Over all timesteps."""
    return sum(losses.values()) / len(losses)
