"""Before anything trains: every cell of a study is checked, and the stages that cells share are made."""

import shutil
from typing import Any

import torch

from bench import autoencoder as autoencoders
from bench import stages as stages_of
from bench.backbone import load_backbone
from bench.cell import Cell
from bench.launch import Job
from bench.matrix import Match
from bench.meters import count_flops
from bench.progress import Reporter
from bench.run_cell import num_params, pick_device

CHECKPOINT_COPIES = 5  # weights, average, two moments of the optimiser; and the averaged weights apart


def prepare(job: Job, progress: Reporter) -> None:
    """Check all cells of a study, cheapest checks first, then make the stages they share. ValueError or OSError says what is wrong."""
    cells = {named.name: Cell.model_validate(named.cell) for named in job.cells}
    for cell in cells.values():
        pick_device(cell)
    sizes = {name: _check_cell(name, cell, job, progress) for name, cell in cells.items()}
    if job.match is not None:
        _check_match(job, sizes)
    _check_disk(job, cells, sizes)
    for cell in cells.values():
        stages_of.prepare(cell, job.results, pick_device(cell), progress)


def _check_cell(name: str, cell: Cell, job: Job, progress: Reporter) -> dict[str, int]:
    """Parameters and FLOPs of a cell's backbone, once its data, its autoencoder and its shape are known to go together."""
    cache = stages_of.cache_folder(job.results)
    clips = stages_of.load_clips(cell.data, cache, progress)
    if cell.sampler.guidance_scale != 1.0 and not clips.label_names:
        raise ValueError(
            f"cell {name}: sampler.guidance_scale {cell.sampler.guidance_scale} needs classes, and this data has none; use 1.0"
        )
    spec = autoencoders.prepare(cell.autoencoder, clips, cache, pick_device(cell), progress).autoencoder.spec(len(clips.label_names))
    try:
        shape = spec.latent_shape((cell.data.num_frames, cell.data.height, cell.data.width))
        with torch.device("meta"):
            backbone: Any = load_backbone(cell.backbone, spec)
        backbone.check(shape)
    except ValueError as error:
        raise ValueError(f"cell {name}: {error}") from error
    return {"params": num_params(backbone), "flops": count_flops(cell.backbone, spec, shape)}


def _check_match(job: Job, sizes: dict[str, dict[str, int]]) -> None:
    """ValueError where rivals are further apart than the matrix allows."""
    match = Match.model_validate(job.match)
    for first, second in job.rivals:
        a, b = sizes[first][match.by], sizes[second][match.by]
        if abs(a - b) > match.tolerance * max(a, b):
            raise ValueError(
                f"{first} has {a:,} {match.by} and {second} {b:,}: {abs(a - b) / max(a, b):.1%} apart, match.tolerance is "
                f"{match.tolerance:.1%}; choose sizes that are nearer or raise match.tolerance"
            )


def _check_disk(job: Job, cells: dict[str, Cell], sizes: dict[str, dict[str, int]]) -> None:
    """OSError where checkpoints and samples of all cells will not fit."""
    needed_bytes = 0
    for name, cell in cells.items():
        data = cell.data
        clip_bytes = 3 * data.num_frames * data.height * data.width
        # A checkpoint is written beside the old one before it takes its place.
        needed_bytes += 4 * sizes[name]["params"] * (2 * CHECKPOINT_COPIES - 1) + 2 * clip_bytes * cell.evaluation.num_samples
    free_bytes = shutil.disk_usage(job.results).free
    if needed_bytes > free_bytes:
        raise OSError(
            f"checkpoints and samples of {len(cells)} cells need about {needed_bytes:,} bytes in {job.results}, {free_bytes:,} are free; "
            "free some or choose another folder with --results"
        )
