"""From raw course and samples to named measurements, each with unit, direction and, for quality, floor, interval and protocol."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import stages as stages_of
from bench.autoencoder import psnr_db
from bench.cell import Cell, content_hash
from bench.diffusion import VALIDATION_TIMESTEPS
from bench.metrics import permanence
from bench.metrics.features import cached_features
from bench.metrics.frechet import frechet_distance
from bench.metrics.interval import NUM_GROUPS, jackknife
from bench.metrics.kernel import kernel_distance
from bench.metrics.protocol import ProtocolBlock, metric_name
from bench.shapes import Shape, num_cells
from bench.stages import Stages
from bench.store import Measurement, Sampling, Training, sha256_texts

Progress = Callable[[int, int, str], None]

DISTANCES = {"frechet": frechet_distance, "kernel": kernel_distance}
INTERVAL = f"delete-group jackknife over clips, {NUM_GROUPS} groups, 95 %"


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
            name="val_loss", value=training.validation[-1]["loss"], unit="1", better="lower", **_protocol(_loss_protocol(cell, stages))
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


def quality(
    cell: Cell, stages: Stages, generated: np.ndarray, untrained: np.ndarray | None, device: torch.device, progress: Progress, results: Path
) -> list[Measurement]:
    """Distances with floor, ceiling and intervals; what the pixels show; the autoencoder's own error.

    All distances compare n clips with the same n real test clips. `real`: n validation clips, the floor. `reconstruction`:
    those validation clips through the autoencoder, the best a backbone can do. `trained`, `untrained`: generated clips.
    """
    folder = stages_of.feature_folder(results)
    num = cell.evaluation.num_samples
    features = {"real": stages.real_other, "reconstruction": stages.reconstruction}
    frames = {"real": stages.clips.splits["val"].frames[:num], "reconstruction": stages.reconstructed}
    for subject, clips in (("untrained", untrained), ("trained", generated)):
        if clips is not None:
            frames[subject] = clips
            features[subject] = cached_features(
                stages.extractor, clips, None, folder, partial(stages_of.labelled, progress, f"features of {subject}")
            )
    block = protocol_block(cell, stages, device)
    measurements = []
    for kind, distance in DISTANCES.items():
        name = metric_name(kind, cell.evaluation.extractor, num)
        for subject, values in features.items():
            interval = jackknife(distance, stages.real, values) if num >= NUM_GROUPS else None
            measurements.append(
                Measurement(
                    name=name,
                    subject=subject,
                    value=distance(stages.real, values),
                    low=interval.low if interval else None,
                    high=interval.high if interval else None,
                    interval=INTERVAL if interval else f"none: a jackknife of {NUM_GROUPS} groups needs as many clips",
                    unit="1",
                    better="lower",
                    protocol=block.model_dump(mode="json"),
                    protocol_fingerprint=block.fingerprint(),
                )
            )
        measurements += _excess_ratio(name, {m.subject: m.value for m in measurements if m.name == name})
    if getattr(cell.data, "num_objects", None) == 1:
        thresholds = dataclasses.asdict(permanence.THRESHOLDS)
        pixels = {"measure": "permanence", "version": permanence.VERSION, "num_clips": num, "clips": stages.clips.digest, **thresholds}
        for subject, clips in frames.items():
            seen = permanence.measure(np.asarray(clips))
            for name, rate in (("one_object_rate", seen.one_object_rate), ("steady_rate", seen.steady_rate)):
                measurements.append(
                    Measurement(name=name, subject=subject, value=rate, unit="share of clips", better="higher", **_protocol(pixels))
                )
    measurements.append(
        Measurement(
            name="psnr_db", subject="reconstruction", value=psnr_db(frames["real"], stages.reconstructed), unit="dB", better="higher"
        )
    )
    return measurements


def protocol_block(cell: Cell, stages: Stages, device: torch.device) -> ProtocolBlock:
    """Everything beside the generated clips that changes a distance."""
    num, data, extractor = cell.evaluation.num_samples, cell.data, stages.extractor
    test = stages.clips.splits["test"]
    return ProtocolBlock(
        extractor=extractor.name,
        weights_sha256=extractor.manifest.weights_sha256,
        dim=extractor.dim,
        n_real=num,
        n_fake=num,
        num_frames=data.num_frames,
        frame_stride=getattr(data, "frame_stride", 1),
        fps=stages.clips.fps,
        height=data.height,
        width=data.width,
        resize=extractor.manifest.resize,
        split="test",
        clip_list_sha256=sha256_texts([stages.clips.digest, *test.clip_ids[:num]]),
        covariance="n-1",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        dtype="float32",
        versions={"torch": torch.__version__},
    )


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


def _protocol(block: dict[str, Any]) -> dict[str, Any]:
    """A measurement's two protocol fields."""
    return {"protocol": block, "protocol_fingerprint": content_hash(block)[:16]}


def _excess_ratio(name: str, values: dict[str, float]) -> list[Measurement]:
    """How many times the distance above its real-against-real floor fell from initial weights to trained ones."""
    if "untrained" not in values:
        return []
    before, after = values["untrained"] - values["real"], values["trained"] - values["real"]
    stem, at, size = name.partition("@")
    ratio = before / after if after > 0 else math.inf
    return [Measurement(name=f"{stem}_excess_ratio{at}{size}", value=ratio, unit="1", better="higher")]


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
