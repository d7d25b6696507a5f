"""From the raw course of training and sampling to named measurements: rates, memory, cost, validation loss."""

from typing import Any

import numpy as np
import torch

from bench.cell import Cell, content_hash
from bench.diffusion import VALIDATION_TIMESTEPS
from bench.shapes import Shape, num_cells
from bench.stages import Stages
from bench.store import Measurement, Sampling, Training


def training_measurements(
    training: Training, cell: Cell, stages: Stages, shape: Shape, flops: int, peaks: dict[str, int], storage_bytes: int, num_params: int
) -> list[Measurement]:
    """Rates, memory and cost of training. Rates are two totals over one window, the warm-up steps left out."""
    warmup = training.num_warmup_steps
    window_s = training.wall_time_s - (training.step_end_s[warmup - 1] if warmup else 0.0)
    clips = (training.num_steps - warmup) * cell.batching.batch_size
    return [
        *_rates("train", clips, window_s, cell, shape, 3 * flops),
        Measurement(name="step_time_s", value=float(np.median(training.step_time_s[warmup:])), unit="s", better="lower"),
        *(
            [Measurement(name="peak_storage_bytes", value=storage_bytes, unit="B", better="lower")] if storage_bytes else []
        ),  # a second step
        *(Measurement(name=name, value=value, unit="B", better="lower") for name, value in peaks.items()),
        Measurement(name="num_params", value=num_params, unit="1", better="none"),
        Measurement(name="flops_per_clip", value=flops, unit="FLOP", better="lower"),
        Measurement(name="train_flops", value=3 * flops * training.num_samples, unit="FLOP", better="none"),
        Measurement(name="train_steps", value=training.num_steps, unit="1", better="none"),
        Measurement(name="train_samples", value=training.num_samples, unit="clip", better="none"),
        Measurement(name="train_wall_time_s", value=training.wall_time_s, unit="s", better="none"),
        Measurement(
            name="val_loss",
            value=training.validation[-1]["loss"],
            unit="1",
            better="lower",
            **protocol_fields(_loss_protocol(cell, stages)),
        ),
    ]


def sampling_measurements(
    sampling: Sampling, cell: Cell, shape: Shape, flops: int, peaks: dict[str, int], storage_bytes: int
) -> list[Measurement]:
    """Rates and memory of sampling; the warm-up call is not in the window."""
    total_s = sum(sampling.batch_time_s)
    return [
        *_rates("sample", sampling.num_clips, total_s, cell, shape, sampling.num_evals * flops),
        Measurement(name="sample_peak_storage_bytes", value=storage_bytes, unit="B", better="lower"),
        *(Measurement(name=f"sample_{name}", value=value, unit="B", better="lower") for name, value in peaks.items()),
    ]


def _loss_protocol(cell: Cell, stages: Stages) -> dict[str, Any]:
    """Everything beside the backbone's weights that changes a validation loss."""
    return {
        "measure": "validation loss of the averaged weights",
        "objective": cell.objective.name,
        "timesteps": list(VALIDATION_TIMESTEPS),
        "num_clips": len(stages.val.latents),
        "clips": stages.clips.digest,
        "autoencoder": stages.autoencoder.key,
        "precision": cell.precision,
        "versions": {"torch": torch.__version__},
    }


def protocol_fields(block: dict[str, Any]) -> dict[str, Any]:
    """A measurement's two protocol fields."""
    return {"protocol": block, "protocol_fingerprint": content_hash(block)[:16]}


def _rates(prefix: str, num_clips: int, time_s: float, cell: Cell, shape: Shape, flops_per_clip: int) -> list[Measurement]:
    totals = {
        "clips_per_s": (num_clips, "clip/s"),
        "frames_per_s": (num_clips * cell.data.num_frames, "frame/s"),
        "cells_per_s": (num_clips * num_cells(shape), "latent cell/s"),
        "tflop_per_s": (num_clips * flops_per_clip / 1e12, "TFLOP/s"),
    }
    return [
        Measurement(name=f"{prefix}_{name}", value=total / time_s, unit=unit, better="higher") for name, (total, unit) in totals.items()
    ]
