"""Paces measured: a few steps of what a cell does, on made-up clips of its one shape. Runs in a process of its own.

What depends on the clips themselves, or is little, is a share of what was measured: the shares are those of the committed records.
"""

import functools
import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.backbone import load_backbone
from bench.data.clips import ClipSet
from bench.data.latents.autoencoder import FrameAutoencoder, decode_clips, encode_clips, load_pretrained, train_autoencoder, wrapped
from bench.data.latents.config import Autoencoder, TrainedAutoencoder
from bench.data.policy.batches import clips_per_batch
from bench.data.progress import Reporter, silent
from bench.data.sealed import write_sealed
from bench.data.source import source_labels
from bench.meters.clock import synchronize
from bench.meters.flops import count_flops
from bench.meters.process import pick_device
from bench.metrics.extractors.features import extract
from bench.metrics.extractors.table import load_extractor
from bench.run.checks import given_to
from bench.run.expected.pace import Pace, by_axis
from bench.run.job import PaceJob
from bench.run.measure.products import use_products
from bench.shapes import num_voxels
from bench.study.budget import Spent
from bench.study.cell import Cell
from bench.training.acceleration import accelerate
from bench.training.step import Stepper, StepPoint, make_batch

ENOUGH_S, MOST_TIMES = 3.0, 5  # of one part, after one time that is not counted
CLIPS = 4  # that are encoded, decoded and judged
VALIDATION = 2.0  # a training batch forward and all else that a validation clip needs, over the evaluation alone
TIMESTEPS = 8  # at which a validation clip is evaluated
SAVED_S = 0.015  # of a sampled clip beside its decoding: compressed and written
QUALITY = 1.2  # features and distances, over the features
GRID = 2.0  # an evaluation and its share of clips, features and distances, over the evaluation
REST_S = 3.0  # of what is done once in a cell


def measure_paces(job: PaceJob, progress: Reporter) -> None:
    """The pace of each cell into its file; one of which nothing can be told, as its own run will say, has none."""
    for done, (cell, out) in enumerate(job.cells):
        progress(done, len(job.cells), f"how fast {cell.backbone} is")
        try:
            use_products(job.matrix, job.results, pick_device(cell))
            write_sealed(out, out.stem, measured(cell))
        except Exception:  # noqa: BLE001  another person's code; whatever it raises, the cell's own process says
            continue
        finally:
            gc.collect()


def measured(cell: Cell) -> Pace:
    """The pace of a cell, by taking its steps. Refusal where its backbone or its device is not there."""
    device = pick_device(cell)
    clip = (cell.data.num_frames, cell.data.height, cell.data.width)
    frames = np.random.default_rng(0).integers(256, size=(CLIPS, *clip, 3), dtype=np.uint8)
    autoencoder, found = _autoencoder(cell.autoencoder, frames, device)
    found |= _of_pixels(cell, autoencoder, frames)
    spec = given_to(cell, autoencoder.spec(len(source_labels(cell.data))))
    shape, asked = spec.latent_shape(clip), cell.evaluation
    backbone: Any = load_backbone(cell.backbone, spec)
    accelerate(backbone, cell.acceleration)
    stepper = Stepper(backbone.to(device).train(), device, cell.precision, trains=True)
    batch_size = max(1, clips_per_batch(shape, cell.batching))
    batch = make_batch(spec, StepPoint(batch_size=batch_size, shape=shape), "training", device)
    step_s = timed(lambda: stepper.step("training", batch), device)
    flops = count_flops(cell.backbone, spec, shape)
    spent = Spent(
        steps=1, samples=batch_size, latent_voxels=batch_size * num_voxels(shape), forward_flops=batch_size * flops, seconds=step_s
    )
    backbone.eval()
    evaluated_s = timed(lambda: stepper.sample(batch), device) / batch_size
    found |= {"checks_s": VALIDATION * TIMESTEPS * evaluated_s, "rest_s": REST_S}
    if asked.num_samples:
        num = min(asked.num_samples, cell.sampler.batch_size) * (1 if cell.sampler.guidance_scale == 1.0 else 2)
        several = make_batch(spec, StepPoint(batch_size=num, shape=shape), "sampling", device)
        found["eval_s"] = timed(lambda: stepper.sample(several), device) / num
        found["grid_s"] = GRID * found["eval_s"]
    return Pace(budget_s=by_axis(spent), **found)


def _of_pixels(cell: Cell, autoencoder: FrameAutoencoder, frames: np.ndarray) -> dict[str, float]:
    """What is done with clips (N, T, H, W, 3): by the autoencoder, and by the extractors."""
    device = autoencoder.shift.device
    latents = list(encode_clips(autoencoder, frames))
    encode_s = timed(lambda: encode_clips(autoencoder, frames), device) / len(frames)
    found = {"latents_s": encode_s * (getattr(cell.data, "num_train", 0) + cell.data.num_val)}  # a folder's clips are only known when made
    if not cell.evaluation.num_samples:
        return found
    decode_s = timed(lambda: decode_clips(autoencoder, latents), device) / len(frames)
    extractors = [load_extractor(name, device) for name in cell.evaluation.extractors]
    features_s = [timed(functools.partial(extract, extractor, frames), device) / len(frames) for extractor in extractors]
    found |= {"clip_s": decode_s + SAVED_S, "quality_s": QUALITY * sum(features_s)}
    return found | {"point_s": decode_s + max(features_s)}


def _autoencoder(config: Autoencoder, frames: np.ndarray, device: torch.device) -> tuple[FrameAutoencoder, dict[str, float]]:
    """An autoencoder as fast as the cell's, and the time of its training step, without what is done once."""
    if not isinstance(config, TrainedAutoencoder):
        return wrapped(load_pretrained(config)).to(device).eval(), {}
    train = ClipSet(frames, np.zeros(len(frames), np.int64), tuple(map(str, range(len(frames)))))
    times_s = []
    for num_steps in (2, 2, 6):
        few = config.model_copy(update={"num_steps": num_steps})
        start_s = time.perf_counter()
        autoencoder, _ = train_autoencoder(few, train, device, silent)
        synchronize(device)
        times_s.append(time.perf_counter() - start_s)
    return autoencoder.eval(), {"autoencoder_s": max((times_s[2] - times_s[1]) / 4, 1e-6)}


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds: the median of a few times, after one that is not counted unless it is long."""
    times = [timed_once(work, device)]
    if times[0] > ENOUGH_S:
        return times[0]
    times.clear()
    while len(times) < MOST_TIMES and sum(times) < ENOUGH_S:
        times.append(timed_once(work, device))
    return float(np.median(times))


def timed_once(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the device waited for at both ends."""
    synchronize(device)
    start_s = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start_s
