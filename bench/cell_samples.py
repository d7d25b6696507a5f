"""Samples of a cell: those that are scored, at the shapes and of the classes of the test clips, and more of them, at any shape."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from bench import autoencoder as autoencoders
from bench import stages as stages_of
from bench.artefacts import WEIGHTS, save_frames
from bench.cell import Cell
from bench.contender import INPUTS, build_backbone, inputs_of, pick_device
from bench.data.ragged import clip_shapes
from bench.launch import Job
from bench.progress import Reporter
from bench.sampling import Samples, sample
from bench.shapes import Shape, num_cells
from bench.stages import Stages


def sample_more(job: Job, progress: Reporter) -> None:
    """More clips from a finished cell: `num_clips` of them, going on after those of its record, saved losslessly at `out`."""
    named = job.cells[0]
    cell = Cell.model_validate(named.cell)
    folder = job.results / named.folder
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}; finish the cell with `python -m bench run {job.matrix}` first")
    device = pick_device(cell)
    stages = stages_of.prepare(cell, job.results, device, progress)
    if (folder / INPUTS).read_text() != inputs_of(cell, stages):
        raise ValueError(f"the data or the autoencoder of {folder} is no longer what it was trained on; run {job.matrix} again first")
    backbone = build_backbone(cell, stages)
    backbone.load_state_dict(load_file(folder / WEIGHTS))
    if job.num_clips is None or job.out is None:
        raise ValueError("a sample job needs num_clips and out")
    places = np.arange(job.num_clips) % len(stages.labels)
    labels, known = stages.labels[places], held_out_shapes(stages)
    shapes = [known[place] for place in places]
    if job.shape is not None:
        shapes = [stages.spec.latent_shape(job.shape)] * job.num_clips
        backbone.check(shapes[0])
    first = cell.evaluation.num_samples
    samples = sample_clips(cell, backbone.to(device).eval(), stages, labels, shapes, first, device, progress=progress)
    frames = autoencoders.decode_clips(stages.autoencoder.autoencoder, samples.latents)
    save_frames(job.out, frames, labels=labels, fps=np.float64(stages.clips.fps))


def sample_clips(
    cell: Cell,
    backbone: nn.Module,
    stages: Stages,
    labels: np.ndarray,
    shapes: Sequence[Shape],
    first_clip: int,
    device: torch.device,
    sampler: Any = None,
    progress: Any = None,
) -> Samples:
    """Samples of a cell for `labels`, at latent `shapes`, clip indices from `first_clip`."""
    return sample(
        backbone,  # type: ignore[arg-type]
        shapes=[(stages.spec.latent_channels, *shape) for shape in shapes],
        labels=[int(label) for label in labels] if stages.spec.num_labels else None,
        null_label=stages.spec.num_labels,
        objective=cell.objective,
        sampler=sampler or cell.sampler,
        seed=cell.seed,
        first_clip=first_clip,
        device=device,
        autocast=torch.bfloat16 if cell.precision == "bf16" else None,
        progress=progress or (lambda done, total, what: None),
    )


def held_out_shapes(stages: Stages) -> list[Shape]:
    """Latent (T, H, W) of the clips to generate: those of the test clips they are compared with."""
    return [stages.spec.latent_shape(shape) for shape in clip_shapes(stages.held_out["test"])]


def sampling_work(samples: Samples, backbone: Any, flops_of: Callable[[Shape], int]) -> tuple[int, int, int, int, int]:
    """One pass over all samples in the fields of WORK."""
    shapes = [(clip.shape[1], clip.shape[2], clip.shape[3]) for clip in samples.latents]
    times = Counter(shapes)
    cells, tokens = (sum(num * count(shape) for shape, num in times.items()) for count in (num_cells, backbone.num_tokens))
    flops = sum(num * flops_of(shape) for shape, num in times.items())
    return len(shapes), sum(shape[0] for shape in shapes), cells, tokens, flops
