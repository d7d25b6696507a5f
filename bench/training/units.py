"""What training a backbone that generates unit after unit needs beside what any needs: a time for each unit of a draw, and noise by it."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.backbone import UnitBox
from bench.data.seeds import stream_seed
from bench.shapes import Shape
from bench.training.objective import Path


def by_units(backbone: Any) -> bool:
    """Whether a backbone, or its factory, generates a clip unit after unit; also of one that is spread over processes."""
    return bool(getattr(getattr(backbone, "module", backbone), "generates_units", False))


def draw_times(seed: int, draw: int, num_units: int) -> Tensor:
    """Uniform numbers (U,) in [0, 1) of the units of a draw; the first is what a backbone without units gets as the draw's one time."""
    return torch.rand(num_units, generator=torch.Generator().manual_seed(stream_seed(seed, "timestep", draw)))


def noised_by_unit(
    path: Path, latents: list[Tensor], noise: list[Tensor], times: Tensor, units: list[UnitBox]
) -> tuple[list[Tensor], list[Tensor]]:
    """`objective.noised` with a time for each unit: latents and noise, B of (C, T, H, W), times (B, U) on the host."""
    clips, noises = torch.stack(latents), torch.stack(noise)  # (B, C, T, H, W)
    number = unit_numbers(tuple(units), (clips.shape[2], clips.shape[3], clips.shape[4]))
    of_voxels = times[:, number].unsqueeze(1)  # (B, 1, T, H, W)
    if clips.device.type != "cpu":
        of_voxels = of_voxels.pin_memory().to(clips.device, non_blocking=True)
    alphas, sigmas = path.coefficients(of_voxels)
    targets = path.target(latents, noise, [], [])  # of a straight line it knows no time
    return list((alphas * clips + sigmas * noises).unbind()), list(targets)


def unit_numbers(units: tuple[UnitBox, ...], shape: Shape) -> Tensor:
    """Of each latent voxel of a clip (T, H, W) the number of its unit, int64 on the host."""
    return _numbers(tuple((part.start, part.stop) for box in units for part in box), shape)


@lru_cache(64)
def _numbers(ends: tuple[tuple[int, int], ...], shape: Shape) -> Tensor:
    number = torch.full(shape, -1)
    for unit in range(len(ends) // 3):
        number[tuple(slice(*pair) for pair in ends[3 * unit : 3 * unit + 3])] = unit
    return number
