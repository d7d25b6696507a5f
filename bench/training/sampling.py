"""Samplers: noise and labels in, latents out. Solvers are diffusers' schedulers; guidance wraps the backbone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from bench.backbone import Backbone
from bench.data.progress import Progress, silent
from bench.data.ragged import in_batches
from bench.meters.clock import synchronize
from bench.records.record import Sampling
from bench.shapes import LatentSpec, Shape
from bench.study.cell import Cell
from bench.training.acceleration import HALF, autocast
from bench.training.known import with_given, with_known
from bench.training.objective import DISCRETE_SCHEDULE, NUM_TRAIN_TIMESTEPS, draw_noise

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS: dict[tuple[str, str], Callable[[float], Any]] = {  # of the sampler's shift, which v_prediction has none of
    ("rectified_flow", "euler"): lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    ("rectified_flow", "dpmsolver++"): lambda shift: DPMSolverMultistepScheduler(**FLOW, flow_shift=shift),
    ("v_prediction", "ddim"): lambda shift: DDIMScheduler(**DISCRETE_SCHEDULE, clip_sample=False),
    ("v_prediction", "dpmsolver++"): lambda shift: DPMSolverMultistepScheduler(**DISCRETE_SCHEDULE),
}


def guided(
    backbone: Backbone, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, null_label: int, scale: float
) -> list[Tensor]:
    """Classifier-free guidance (Ho & Salimans 2022, 2207.12598): uncond + scale * (cond - uncond). Scale 1 is one call."""
    if scale == 1.0:
        return backbone(latents, timesteps, labels)
    assert labels is not None  # a cell without classes has no guidance
    both = torch.cat([labels, torch.full_like(labels, null_label)])
    predictions = backbone([*latents, *latents], timesteps.repeat(2), both)
    cond, uncond = predictions[: len(latents)], predictions[len(latents) :]
    return [u + scale * (c - u) for c, u in zip(cond, uncond, strict=True)]


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """What is to be generated: one clip for each of `shapes`, of class `labels[i]`, as `cell` says: sampler, objective, seed."""

    cell: Cell
    spec: LatentSpec
    shapes: Sequence[Shape]  # latent (T, H, W) of each clip
    labels: Sequence[int] | np.ndarray  # as many; of data without classes they are not looked at
    given: Sequence[Tensor] | None = None  # (C + 1, T, H, W) of each clip, of `known.given_of`; None: no frame is known
    first_clip: int = 0  # index of the first one: the noise of a clip is that of its index
    places: Sequence[int] | None = None  # of the clips that are made here; None: all


@torch.inference_mode()
def sample(backbone: Any, plan: SamplePlan, device: torch.device, progress: Progress = silent) -> tuple[list[Tensor], Sampling]:
    """Generate the clips of a plan: latents (C, T, H, W) of each, on the CPU, and how long each batch took.

    The noise of a clip is that of its index, whatever the batch size, the device or the backbone. A backbone that takes one shape a
    batch gets clips of one shape at a time.
    """
    sampler, spec = plan.cell.sampler, plan.spec
    found: dict[int, Tensor] = {}
    batch_time_s, batch_clips = [], []
    places = range(len(plan.shapes)) if plan.places is None else plan.places
    groups = [plan.shapes[0 if backbone.ragged else place] for place in places]  # of any shapes together, or of one
    for chosen in in_batches(groups, lambda shape: sampler.batch_size):
        batch = [places[index] for index in chosen]
        sizes = [(spec.latent_channels, *plan.shapes[index]) for index in batch]
        draws = zip(batch, sizes, strict=True)
        noise = [draw_noise(plan.cell.seed, "sample_noise", plan.first_clip + index, size).to(device) for index, size in draws]
        labels = torch.tensor([int(plan.labels[index]) for index in batch], device=device) if spec.num_labels else None
        given = None if plan.given is None else [plan.given[index].to(device) for index in batch]
        synchronize(device)
        start_s = time.perf_counter()
        latents = _denoise(backbone, noise, given, labels, spec.num_labels, plan.cell)
        synchronize(device)
        batch_time_s.append(time.perf_counter() - start_s)
        batch_clips.append(len(batch))
        found |= {index: clip.float().cpu() for index, clip in zip(batch, latents, strict=True)}
        progress(len(found), len(places), "sampling")
    num_evals = sampler.num_steps * (1 if sampler.guidance_scale == 1.0 else 2)
    course = Sampling(num_clips=len(found), num_evals=num_evals, batch_time_s=batch_time_s, batch_clips=batch_clips)
    return [found[index] for index in places], course


def _denoise(
    backbone: Backbone, noise: list[Tensor], given: list[Tensor] | None, labels: Tensor | None, null_label: int, cell: Cell
) -> list[Tensor]:
    """The one sampling loop: all clips are one flattened tensor to the scheduler, so it needs not know their shapes."""
    objective, sampler = cell.objective.name, cell.sampler
    scheduler = SCHEDULERS[objective, sampler.solver](sampler.shift)
    if sampler.solver == "euler":  # even steps from noise to data, the last one to 0
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / sampler.num_steps, sampler.num_steps))
    else:
        scheduler.set_timesteps(sampler.num_steps)
    sizes = [clip.numel() for clip in noise]
    flat = torch.cat([clip.flatten() for clip in noise])  # (sum of C T H W,)
    # Read on the host once: the same timesteps as in training, 1 = noise.
    times = (
        scheduler.sigmas.tolist()
        if objective == "rectified_flow"
        else [(t + 1) / NUM_TRAIN_TIMESTEPS for t in scheduler.timesteps.tolist()]
    )
    for step, timestep in enumerate(scheduler.timesteps):
        latents = [part.view(clip.shape) for part, clip in zip(flat.split(sizes), noise, strict=True)]
        timesteps = torch.full((len(noise),), times[step], device=flat.device)  # (B,)
        with autocast(flat.device, HALF[cell.precision]):
            predictions = guided(backbone, with_given(latents, given), timesteps, labels, null_label, sampler.guidance_scale)
        prediction = torch.cat([clip.float().flatten() for clip in predictions])
        flat = scheduler.step(prediction, timestep, flat, return_dict=False)[0]
    clips = [part.view(clip.shape) for part, clip in zip(flat.split(sizes), noise, strict=True)]
    return clips if given is None else with_known(clips, given, cell.objective.known_frames)
