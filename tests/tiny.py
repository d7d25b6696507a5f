"""A cell small enough to train inside a test, and the pieces around it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.latents.latents import LatentSet
from bench.data.ragged import Ragged
from bench.shapes import LatentSpec, Shape, num_voxels
from bench.study.cell import Cell
from bench.training.trainer import Trainer

SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=3)


def cell_fields(**changes: Any) -> dict[str, Any]:
    """Fields of a tiny valid cell; `changes` replace whole top-level fields."""
    fields: dict[str, Any] = {
        "backbone": "dit:DiT-XS/2",
        "data": {"source": "worlds", "num_frames": 4, "height": 16, "width": 16, "num_train": 8, "num_val": 4, "num_test": 4, "seed": 0},
        "batching": {"batch_size": 2},
        "autoencoder": {"kind": "trained", "num_steps": 3, "width": 8},
        "budget": {"steps": 6},
        "optimizer": {"warmup_steps": 2, "ema_decay": 0.9},
        "sampler": {"num_steps": 2},
        "evaluation": {"extractors": ["random3d"], "num_samples": 4},
        "device": "cpu",
    }
    return {**fields, **changes}


def tiny_cell(**changes: Any) -> Cell:
    return Cell.model_validate(cell_fields(**changes))


class Linear(nn.Module):
    """The smallest backbone: one matrix over channels, modulated by time and label. Keeps the contract, trains in a millisecond."""

    ragged = True

    def __init__(self, spec: LatentSpec = SPEC):
        super().__init__()
        self.mix = nn.Linear(spec.latent_channels, spec.latent_channels)
        self.label = nn.Embedding(spec.num_labels + 1, spec.latent_channels)

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        outputs = []
        for index, clip in enumerate(latents):
            shift = timesteps[index] + (0 if labels is None else self.label(labels[index]))
            outputs.append((self.mix(clip.movedim(0, -1)) + shift).movedim(-1, 0))
        return outputs

    def num_tokens(self, shape: Shape) -> int:
        return num_voxels(shape)

    def check(self, shape: Shape) -> None:
        return None


def latent_set(num: int = 8, shape: tuple[int, ...] = (4, 3, 4, 2), seed: int = 0, labelled: bool = True) -> LatentSet:
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=num) if labelled else None
    return LatentSet(latents=generator.standard_normal((num, *shape)).astype(np.float32), labels=labels, null_label=3)


def mixed_set(shapes: list[tuple[int, ...]], seed: int = 0) -> LatentSet:
    """Latents of many shapes (C, T, H, W)."""
    generator = np.random.default_rng(seed)
    flat = generator.standard_normal(sum(math.prod(shape) for shape in shapes)).astype(np.float32)
    return LatentSet(latents=Ragged(flat, shapes), labels=generator.integers(3, size=len(shapes)), null_label=3)


def linear_trainer(cell: Cell, folder: Path, **options: Any) -> Trainer:
    torch.manual_seed(0)
    backbone = Linear()
    defaults: dict[str, Any] = {
        "train": latent_set(),
        "val": latent_set(4, seed=1),
        "inputs": "x",
        "folder": folder,
        "flops_of": lambda shape: 1000,
        "device": torch.device("cpu"),
    }
    return Trainer(cell, backbone, **{**defaults, **options})
