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

from bench.backbone import Generation
from bench.data.progress import Progress, silent
from bench.data.ragged import in_batches
from bench.meters.clock import synchronize
from bench.records.record import Sampling
from bench.shapes import LatentSpec, Shape
from bench.study.cell import Cell
from bench.training.acceleration import HALF, autocast
from bench.training.known import with_given, with_known
from bench.training.objective import DISCRETE_SCHEDULE, NUM_TRAIN_TIMESTEPS, draw_noise, told_labels
from bench.training.units import by_units

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS: dict[tuple[str, str], Callable[[float], Any]] = {  # of the sampler's shift, which v_prediction has none of
    ("rectified_flow", "euler"): lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    ("rectified_flow", "dpmsolver++"): lambda shift: DPMSolverMultistepScheduler(**FLOW, flow_shift=shift),
    ("v_prediction", "ddim"): lambda shift: DDIMScheduler(**DISCRETE_SCHEDULE, clip_sample=False),
    ("v_prediction", "dpmsolver++"): lambda shift: DPMSolverMultistepScheduler(**DISCRETE_SCHEDULE),
}


def guided(
    backbone: Any,
    latents: list[Tensor],
    timesteps: Tensor,
    labels: Tensor | None,
    null_label: int,
    scale: float,
    captions: Tensor | None = None,
    empty_caption: int = 0,
) -> list[Tensor]:
    """Classifier-free guidance (Ho & Salimans 2022, 2207.12598): uncond + scale * (cond - uncond). Scale 1 is one call.

    Uncond has neither label nor caption.
    """
    if scale == 1.0:
        return backbone(latents, timesteps, labels, **({} if captions is None else {"captions": captions}))
    assert labels is not None or captions is not None  # a cell without classes and captions has no guidance
    both = None if labels is None else torch.cat([labels, torch.full_like(labels, null_label)])
    told = {} if captions is None else {"captions": torch.cat([captions, torch.full_like(captions, empty_caption)])}
    predictions = backbone([*latents, *latents], timesteps.repeat(2), both, **told)
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
    captions: Sequence[int] | np.ndarray | None = None  # as many, places in the backbone's table; None: it is given none
    empty_caption: int = 0  # the place of the empty one
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
        labels = None
        if spec.num_labels:
            own = [int(plan.labels[index]) for index in batch]
            labels = told_labels(own, spec.num_labels, plan.cell.objective.label_dropout).to(device)
        captions = None
        if plan.captions is not None:
            captions = torch.tensor([int(plan.captions[index]) for index in batch], device=device)
        given = None if plan.given is None else [plan.given[index].to(device) for index in batch]
        synchronize(device)
        start_s = time.perf_counter()
        if by_units(backbone):
            latents, _ = generated_by_unit(backbone, noise, labels, spec.num_labels, plan.cell)
        else:
            latents = _denoise(backbone, noise, given, labels, captions, plan)
        synchronize(device)
        batch_time_s.append(time.perf_counter() - start_s)
        batch_clips.append(len(batch))
        found |= {index: clip.float().cpu() for index, clip in zip(batch, latents, strict=True)}
        progress(len(found), len(places), "sampling")
    num_evals = calls(backbone, plan) * (1 if sampler.guidance_scale == 1.0 else 2)
    course = Sampling(num_clips=len(found), num_evals=num_evals, batch_time_s=batch_time_s, batch_clips=batch_clips)
    return [found[index] for index in places], course


def schedule(cell: Cell) -> tuple[Any, list[float]]:
    """A scheduler of the cell's sampler, at its start, and the time of each step, on the host: the same as in training, 1 = noise."""
    objective, sampler = cell.objective.name, cell.sampler
    scheduler = SCHEDULERS[objective, sampler.solver](sampler.shift)
    if sampler.solver == "euler":  # even steps from noise to data, the last one to 0
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / sampler.num_steps, sampler.num_steps))
    else:
        scheduler.set_timesteps(sampler.num_steps)
    if objective == "rectified_flow":
        return scheduler, scheduler.sigmas.tolist()
    return scheduler, [(t + 1) / NUM_TRAIN_TIMESTEPS for t in scheduler.timesteps.tolist()]


def _denoise(
    backbone: Any, noise: list[Tensor], given: list[Tensor] | None, labels: Tensor | None, captions: Tensor | None, plan: SamplePlan
) -> list[Tensor]:
    """The one sampling loop: all clips are one flattened tensor to the scheduler, so it needs not know their shapes."""
    cell, null_label = plan.cell, plan.spec.num_labels
    sampler, told = cell.sampler, (captions, plan.empty_caption)
    scheduler, times = schedule(cell)
    sizes = [clip.numel() for clip in noise]
    flat = torch.cat([clip.flatten() for clip in noise])  # (sum of C T H W,)
    for step, timestep in enumerate(scheduler.timesteps):
        latents = [part.view(clip.shape) for part, clip in zip(flat.split(sizes), noise, strict=True)]
        timesteps = torch.full((len(noise),), times[step], device=flat.device)  # (B,)
        with autocast(flat.device, HALF[cell.precision]):
            predictions = guided(backbone, with_given(latents, given), timesteps, labels, null_label, sampler.guidance_scale, *told)
        prediction = torch.cat([clip.float().flatten() for clip in predictions])
        flat = scheduler.step(prediction, timestep, flat, return_dict=False)[0]
    clips = [part.view(clip.shape) for part, clip in zip(flat.split(sizes), noise, strict=True)]
    return clips if given is None else with_known(clips, given, cell.objective.known_frames)


def generated_by_unit(
    backbone: Any, noise: list[Tensor], labels: Tensor | None, null_label: int, cell: Cell, first: int | None = None
) -> tuple[list[Tensor], Generation]:
    """The same loop unit after unit, each given the clean ones before it; clips of one shape. A unit's noise is its part of the clip's.

    `first`: of how many units at the beginning; the others stay noise. Guidance has two pasts, with the label and without.
    """
    sampler, clips = cell.sampler, torch.stack(noise)  # (B, C, T, H, W)
    shape, pasts = (clips.shape[2], clips.shape[3], clips.shape[4]), 1
    if sampler.guidance_scale != 1.0:
        assert labels is not None  # a cell without classes has no guidance
        labels, pasts = torch.cat([labels, torch.full_like(labels, null_label)]), 2
    generation: Generation = backbone.generate(shape, labels, pasts * len(noise))
    for box in backbone.units(shape)[:first]:
        scheduler, times = schedule(cell)
        unit = clips[:, :, *box].contiguous()  # (B, C, t, h, w)
        for step, timestep in enumerate(scheduler.timesteps):
            with autocast(clips.device, HALF[cell.precision]):
                prediction = generation.predict(unit.repeat(pasts, 1, 1, 1, 1), times[step]).float()
            if pasts == 2:
                cond, uncond = prediction.chunk(2)
                prediction = uncond + sampler.guidance_scale * (cond - uncond)
            unit = scheduler.step(prediction, timestep, unit, return_dict=False)[0]
        with autocast(clips.device, HALF[cell.precision]):
            generation.keep(unit.repeat(pasts, 1, 1, 1, 1))
        clips[:, :, *box] = unit
    return list(clips.unbind()), generation


def calls(backbone: Any, plan: SamplePlan) -> int:
    """Evaluations of a clip, without guidance: the steps, or those of all units and one more of each but the last. Of clips of several
    shapes the rounded mean."""
    steps = plan.cell.sampler.num_steps
    if not by_units(backbone):
        return steps
    every = [len(backbone.units(shape)) * (steps + 1) - 1 for shape in plan.shapes]
    return round(sum(every) / len(every))
