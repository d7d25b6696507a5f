"""Twin preference: which of two clips that differ in one law does a model find likelier, by its own denoising loss?

After LikePhys (2510.11512): the loss at ten fixed timesteps, with the same noise for both clips. It needs neither tracker nor decoder, and
asks the same of every backbone. Here both clips share their known frames, which the model is given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.study.cell import Cell
from bench.training.acceleration import HALF, autocast
from bench.training.known import given_of, unknown, with_given
from bench.training.objective import PATHS, clip_losses, draw_noise, noised

TIMESTEPS = tuple((index + 0.5) / 10 for index in range(10))


@torch.no_grad()
def preferred(backbone: Any, valid: Sequence[Tensor], invalid: Sequence[Tensor], cell: Cell, device: torch.device) -> np.ndarray:
    """Latents (C, T, H, W) of n pairs -> (n,): 1 where the valid clip has the lower loss, 0 where its twin has, else 1/2."""
    differences = [
        _loss(backbone, valid[start : start + size], start, cell, device)
        - _loss(backbone, invalid[start : start + size], start, cell, device)
        for size in [cell.sampler.batch_size]
        for start in range(0, len(valid), size)
    ]
    return (1 - np.sign(np.concatenate(differences))) / 2


def _loss(backbone: Any, clips: Sequence[Tensor], first: int, cell: Cell, device: torch.device) -> np.ndarray:
    """Mean loss of each clip over the timesteps, (n,); the noise of a clip is that of its pair, the first of which is pair `first`."""
    path, known = PATHS[cell.objective.name], cell.objective.known_frames
    here = [clip.to(device) for clip in clips]
    total = torch.zeros(len(clips), dtype=torch.float64, device=device)
    for place, timestep in enumerate(TIMESTEPS):
        noise = [draw_noise(0, f"twin_noise_{place}", first + pair, tuple(clip.shape)).to(device) for pair, clip in enumerate(clips)]
        timesteps = path.snap(torch.full((len(clips),), timestep))
        mixed, targets = noised(path, here, noise, timesteps)
        mixed = with_given(mixed, given_of(here, known) if known else None)
        with autocast(device, HALF[cell.precision]):
            predictions = backbone(mixed, timesteps.to(device), None)
        total += clip_losses(unknown(predictions, known), unknown(targets, known)).double()
    return (total / len(TIMESTEPS)).cpu().numpy()
