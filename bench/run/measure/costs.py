"""From the raw course of training and sampling to named measurements: rates, memory, cost, validation loss."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.backbone import find_factory
from bench.data.latents.autoencoder import FrameAutoencoder, decode_clips, encode_clips
from bench.data.ragged import Frames, Ragged
from bench.meters.clock import synchronize
from bench.records.record import GIVEN_PAST, WORK, BackboneFacts, Measurement, Sampling, Training
from bench.run.measure.memory import memory_measurements
from bench.run.stages import TrainingSet
from bench.study.cell import Cell
from bench.training.objective import VALIDATION_TIMESTEPS
from bench.training.units import by_units

TIMED_CLIPS = 16  # test clips that the autoencoder is timed on
OF_CLIPS = ("train_clips_per_s", "train_energy_per_clip_j", "train_samples")  # a still is no clip: these say nothing where there are some


def training_measurements(
    training: Training, cell: Cell, given: TrainingSet, backbone: BackboneFacts, peaks: dict[str, int], storage_bytes: int
) -> list[Measurement]:
    """Rates, memory and cost of training. Rates are two totals over one window, the warm-up steps left out.

    Of a run that took no step there are none, but for what it is and its loss.
    The window runs from when the device was through with the last warm-up step to when it was through with the last of all.
    """
    if not training.num_steps:
        return _untrained_measurements(training, cell, given, backbone)
    warmup = training.num_warmup_steps
    window_s = training.wall_time_s - (training.step_end_s[warmup - 1] if warmup else 0.0)
    work = _total(training.step_work[warmup:])
    whole = _total(training.step_work)
    steady_s = float(np.median(training.step_time_s[warmup:]))
    others = training.other_processes
    invalid = f"{others} other processes were on the device while it was measured" if others else None
    storage, energy = [], []
    if storage_bytes:  # there was a second step
        storage = [Measurement(name="peak_storage_bytes", value=storage_bytes, unit="B", better="lower")]
    if training.energy_j is not None:
        per_clip = training.energy_j / training.num_samples
        energy = [Measurement(name="train_energy_per_clip_j", value=per_clip, unit="J/clip", better="lower", invalid=invalid)]
    found = [
        *_rates("train", work, window_s, 3 * work["flops"], backbone, invalid),
        Measurement(name="step_time_s", value=steady_s, unit="s", better="lower", invalid=invalid),
        Measurement(name="first_step_extra_s", value=training.step_time_s[0] - steady_s, unit="s", better="lower", invalid=invalid),
        Measurement(name="other_cpu_share", value=training.other_cpu_share, unit="1", better="none"),
        *energy,
        *storage,
        *(
            Measurement(name=f"peak_storage_{kind}_bytes", value=num_bytes, unit="B", better="none")
            for kind, num_bytes in training.storage_by_kind.items()
        ),
        *memory_measurements(peaks),
        *_size(backbone),
        Measurement(name="train_flops", value=3 * whole["flops"], unit="FLOP", better="none"),
        Measurement(name="train_steps", value=training.num_steps, unit="1", better="none"),
        Measurement(name="train_samples", value=training.num_samples, unit="clip", better="none"),
        Measurement(name="train_latent_voxels", value=whole["latent_voxels"], unit="latent voxel", better="none"),
        Measurement(name="train_wall_time_s", value=training.wall_time_s, unit="s", better="none"),
        _val_loss(training, cell, given),
    ]
    return [measured for measured in found if not (cell.batching.stills and measured.name in OF_CLIPS)]


def _untrained_measurements(training: Training, cell: Cell, given: TrainingSet, backbone: BackboneFacts) -> list[Measurement]:
    """Of weights that are sampled as they are."""
    steps = Measurement(name="train_steps", value=0, unit="1", better="none")
    return [*_size(backbone), steps, _val_loss(training, cell, given)]


def _size(backbone: BackboneFacts) -> list[Measurement]:
    return [
        Measurement(name="num_params", value=backbone.num_params, unit="1", better="none"),
        Measurement(name="flops_per_clip", value=backbone.flops_per_clip, unit="FLOP", better="lower"),
    ]


def _val_loss(training: Training, cell: Cell, given: TrainingSet) -> Measurement:
    return Measurement(
        name="val_loss",
        value=training.validation[-1].loss,
        unit="1",
        better="lower",
        protocol=loss_protocol(cell, given.clips.digest, len(given.val), given.autoencoder.key),
    )


def sampling_measurements(sampling: Sampling, backbone: BackboneFacts, peaks: dict[str, int], storage_bytes: int) -> list[Measurement]:
    """Rates and memory of sampling; the warm-up call is not in the window."""
    assert sampling.work is not None
    work = _total([sampling.work])
    flops = sampling.num_evals * work["flops"] if sampling.flops is None else sampling.flops
    return [
        *_rates("sample", work, sum(sampling.batch_time_s), flops, backbone),
        Measurement(name="sample_peak_storage_bytes", value=storage_bytes, unit="B", better="lower"),
        *memory_measurements(peaks, "sample_"),
    ]


def autoencoder_measurements(network: FrameAutoencoder, test: Frames, device: torch.device) -> list[Measurement]:
    """How fast the autoencoder that all contenders share encodes and decodes, apart from training and sampling; a first call warms up."""
    frames = [np.array(clip)[None] for clip in test[:TIMED_CLIPS]]
    if not isinstance(test, Ragged):
        frames = [np.concatenate(frames)]
    latents = [clip for part in frames for clip in encode_clips(network, part)]
    work: dict[str, Callable[[], object]] = {
        "encode": lambda: [encode_clips(network, part) for part in frames],
        "decode": lambda: decode_clips(network, latents),
    }
    found = []
    for name, call in work.items():
        call()
        synchronize(device)
        start_s = time.perf_counter()
        call()
        synchronize(device)
        rate = sum(part.shape[0] * part.shape[1] for part in frames) / (time.perf_counter() - start_s)
        found.append(Measurement(name=f"{name}_frames_per_s", subject="reconstruction", value=rate, unit="frame/s", better="none"))
    return found


def loss_protocol(cell: Cell, clips: str, num_clips: int, autoencoder: str) -> dict[str, Any]:
    """Everything beside the backbone's weights that changes a validation loss."""
    factory: Any = find_factory(cell.backbone)
    return {
        "measure": "validation loss of the averaged weights",
        "objective": cell.objective.name,
        **({"loss": f"{GIVEN_PAST}, {factory.unit}"} if by_units(factory) else {}),
        **({"known_frames": cell.objective.known_frames} if cell.objective.known_frames else {}),
        **({"text": cell.text.model_dump(mode="json", exclude={"dropout"})} if cell.text is not None else {}),
        "timesteps": list(VALIDATION_TIMESTEPS),
        "num_clips": num_clips,
        "clips": clips,
        "autoencoder": autoencoder,
        "precision": cell.precision,
        "versions": {"torch": torch.__version__},
    }


def _total(steps: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """Sums of the fields of WORK."""
    return {name: sum(step[place] for step in steps) for place, name in enumerate(WORK)}


def _rates(
    prefix: str, work: dict[str, int], time_s: float, flops: int, backbone: BackboneFacts, invalid: str | None = None
) -> list[Measurement]:
    rates = {
        "clips_per_s": (work["clips"] / time_s, "clip/s"),
        "frames_per_s": (work["frames"] / time_s, "frame/s"),
        "voxels_per_s": (work["latent_voxels"] / time_s, "latent voxel/s"),
        "tokens_per_s": (work["tokens"] / time_s, "token/s"),
        "tflop_per_s": (flops / time_s / 1e12, "TFLOP/s"),
        "mfu": (flops / time_s / backbone.peak_flop_per_s, "1"),
    }
    return [
        Measurement(name=f"{prefix}_{name}", value=value, unit=unit, better="higher", invalid=invalid)
        for name, (value, unit) in rates.items()
    ]
