"""Before anything trains: every cell of a study is checked, and the stages that cells share are made."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.backbone import check_latents, load_backbone
from bench.data.latents.autoencoder import load_autoencoder
from bench.data.policy.fitting import fit, held_out_rules, training_rules
from bench.data.progress import Reporter
from bench.data.source import Clips, load_clips
from bench.meters.flops import count_flops, num_params
from bench.meters.process import pick_device
from bench.run.checks import check_all, check_policy, latent_spec
from bench.run.job import PrepareJob
from bench.run.stages import cache_folder, reference_set, training_set
from bench.shapes import LatentSpec, Refusal, num_voxels
from bench.study.cell import Cell
from bench.study.matrix import Study

CHECKPOINT_COPIES = 5  # weights, average, two moments of the optimiser; and the averaged weights apart


@dataclass(frozen=True, kw_only=True)
class CellSize:
    """What is known of a cell before it trains."""

    params: int
    flops: int  # forward, of one clip of the data's one shape
    cell_bytes: int  # on disk: checkpoint and samples
    latent_bytes: int


def prepare(job: PrepareJob, progress: Reporter) -> None:
    """Check all cells of a study, cheapest checks first, then make the stages they share.

    Refusal, with a line for every cell that something is wrong with, or OSError.
    """
    for named in job.study.cells:
        pick_device(named.cell)
    sizes = check_all(((named.name, named.cell) for named in job.study.cells), lambda cell: _size(cell, job, progress))
    if apart := _apart(job.study, sizes):
        raise Refusal(*apart)
    _check_disk(job, sizes)
    if job.only_check:
        return
    for named in job.study.cells:
        device = pick_device(named.cell)
        training = training_set(named.cell, job.results, device, progress)
        reference_set(named.cell, training, job.results, device, progress)


def _size(cell: Cell, job: PrepareJob, progress: Reporter) -> CellSize:
    """The size of a cell, once its data, its latent space and its backbone are known to go together."""
    clips = load_clips(cell.data, cache_folder(job.results), progress)
    if cell.sampler.guidance_scale != 1.0 and not clips.label_names:
        raise Refusal(f"sampler.guidance_scale {cell.sampler.guidance_scale} needs classes, and this data has none; use 1.0")
    spec = latent_space(cell, job.results, progress)
    with torch.device("meta"):
        backbone: Any = load_backbone(cell.backbone, spec)
    shape = spec.latent_shape((cell.data.num_frames, cell.data.height, cell.data.width))
    latent_bytes = _check_shapes(cell, clips, spec, backbone)
    params = num_params(backbone)
    clip_bytes = 3 * cell.data.num_frames * cell.data.height * cell.data.width
    # A checkpoint is written beside the old one before it takes its place; samples are those of the trained and the untrained model.
    cell_bytes = 4 * params * (2 * CHECKPOINT_COPIES - 1) + 2 * clip_bytes * cell.evaluation.num_samples
    flops = count_flops(cell.backbone, spec, shape)
    return CellSize(params=params, flops=flops, cell_bytes=cell_bytes, latent_bytes=latent_bytes)


def _check_shapes(cell: Cell, clips: Clips, spec: LatentSpec, backbone: Any) -> int:
    """Bytes of the latents that the cell trains and is judged on. Refusal for a shape or a policy that its backbone cannot do."""
    check_policy(cell, backbone)
    if cell.batching.token_dropping is not None and not hasattr(backbone, "kept_voxels"):
        raise Refusal(f"batching.token_dropping needs a backbone that predicts a part of its tokens, {cell.backbone!r} cannot; remove it")
    rules = {"train": training_rules(cell.data, cell.batching, spec), "val": held_out_rules(cell.data, cell.batching)}
    shapes = [spec.latent_shape(item.shape) for split, rule in rules.items() for item in fit(clips.splits[split].shapes, rule).items]
    for shape in dict.fromkeys(shapes):
        check_latents(backbone, shape)
    return 4 * spec.latent_channels * sum(map(num_voxels, shapes))


def latent_space(cell: Cell, results: Path, progress: Reporter) -> LatentSpec:
    """The latent space of a cell: known of an autoencoder yet to be trained, read off a pretrained one."""
    cache = cache_folder(results)
    clips = load_clips(cell.data, cache, progress)
    num_labels = len(clips.label_names)
    known = latent_spec(cell, num_labels)
    return known or load_autoencoder(cell.autoencoder, clips, cache, pick_device(cell), progress).spec(num_labels)


def _apart(study: Study, sizes: dict[str, CellSize]) -> list[str]:
    """A line for every pair of rivals that is further apart than the matrix allows."""
    match = study.matrix.match
    if match is None or match.to is not None:  # sizes that were found for a match were proved
        return []
    wrong = []
    for first, second in ((one.name, other.name) for one, other in study.rivals()):
        a, b = (getattr(sizes[name], match.by) for name in (first, second))
        mismatch = max(a, b) / min(a, b) - 1
        if mismatch > match.tolerance:
            wrong.append(
                f"{first} has {a:,} {match.by} and {second} {b:,}: {mismatch:.1%} apart, match.tolerance is "
                f"{match.tolerance:.1%}; choose sizes that are nearer or raise match.tolerance"
            )
    return wrong


def _check_disk(job: PrepareJob, sizes: dict[str, CellSize]) -> None:
    """OSError where the latents and the checkpoints and samples of the cells to run will not fit."""
    needed_bytes = sum(sizes[name].cell_bytes for name in job.waiting) + max(size.latent_bytes for size in sizes.values())
    free_bytes = shutil.disk_usage(job.results).free
    if needed_bytes > free_bytes:
        raise OSError(
            f"latents, checkpoints and samples of {len(job.waiting)} cells need about {needed_bytes:,} bytes in {job.results}, "
            f"{free_bytes:,} are free; free some or choose another folder with --results"
        )
