"""Before anything trains: every cell of a study is checked, and the stages that cells share are made."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.backbone import check_latents, find_factory, load_backbone
from bench.data.frozen import content_hash
from bench.data.latents.autoencoder import load_autoencoder
from bench.data.policy.fitting import fit, held_out_rules, training_rules
from bench.data.progress import Reporter
from bench.data.source import Clips, load_clips
from bench.meters.flops import count_flops, num_params
from bench.meters.process import pick_device
from bench.metrics.following.clip_score import load_clip_network
from bench.run.checks import check_all, check_policy, check_units, given_to, latent_spec, tell_broken
from bench.run.job import PrepareJob
from bench.run.measure.peak import study_peak
from bench.run.measure.physics import physics_sets
from bench.run.measure.products import use_products
from bench.run.stages import cache_folder, reference_set, training_set
from bench.run.watch import Watch
from bench.shapes import LatentSpec, Refusal, lines_of, num_voxels, visible
from bench.study.cell import Cell
from bench.study.matrix import Study
from bench.training.acceleration import HALF
from bench.training.ranks import check_sharded

CHECKPOINT_COPIES = 5  # weights, average, two moments of the optimiser; and the averaged weights apart


@dataclass(frozen=True, kw_only=True)
class CellSize:
    """What is known of a cell before it trains."""

    params: int
    flops: int  # forward, of one clip of the data's one shape
    cell_bytes: int  # on disk: checkpoint and samples
    latent_bytes: int


def prepare(job: PrepareJob, progress: Reporter, watch: Watch, broken: dict[str, BaseException]) -> None:
    """Check all cells of a study, cheapest checks first, then make the stages they share; of those that are `broken` already, nothing.

    Refusal, with a line for every cell that something is wrong with, or OSError. What is broken has a line too, and in `run` a record of
    its own process.
    """
    cells = job.study.cells
    for named in cells:
        pick_device(named.cell)

    def clips(cell: Cell) -> None:
        with _told():
            for config in (cell.data, *physics_sets(cell)):
                load_clips(config, cache_folder(job.results), progress)

    def filmed(cell: Cell) -> str:
        return content_hash([cell.data.model_dump(mode="json"), *(config.model_dump(mode="json") for config in physics_sets(cell))])

    check_all(cells, clips, broken, watch, what="the source of the clips", alike=filmed)
    sizes = check_all(cells, lambda cell: _size(cell, job, progress), broken, watch, what="a check of the backbone at these shapes")
    faults = tell_broken(broken)
    if job.until != "made" and faults:
        raise Refusal(*faults)
    for fault in faults:
        print(visible(f"{job.label}: {fault}; the other cells run"), file=sys.stderr)
    if apart := _apart(job.study, sizes):
        raise Refusal(*apart)
    _check_disk(job, sizes)
    if job.until == "made":
        most_s = max(named.cell.timeout_s for named in cells)
        for named in cells:
            if named.name not in broken:
                with watch.over([named.name], "what cells share (clips, autoencoder, latents, features)", most_s):
                    device = pick_device(named.cell)
                    if named.name in job.waiting:
                        use_products(job.matrix, job.results, device)
                        study_peak(job.matrix, HALF[named.cell.precision] or torch.float32, device, job.results)
                    training = training_set(named.cell, job.results, device, progress)
                    if named.cell.evaluation.num_samples:
                        reference_set(named.cell, training, job.results, device, progress)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Inside, a file or a disk that fails is said of the cells that need it."""
    try:
        yield
    except OSError as error:
        raise Refusal(*lines_of(error)) from error


def _size(cell: Cell, job: PrepareJob, progress: Reporter) -> CellSize:
    """The size of a cell, once its data, its latent space and its backbone are known to go together."""
    clips = load_clips(cell.data, cache_folder(job.results), progress)
    if cell.sampler.guidance_scale != 1.0 and not clips.label_names and cell.text is None:
        raise Refusal(f"sampler.guidance_scale {cell.sampler.guidance_scale} needs classes or captions, and this cell has none; use 1.0")
    if cell.text is not None and any(split.captions is None for split in clips.splits.values()):
        raise Refusal(
            f"text.encoder {cell.text.encoder} needs clips with captions, and source {cell.data.source!r} gives none; leave out text"
        )
    check_scorable(cell, clips)
    with _told():
        spec = latent_space(cell, job.results, progress)
    if cell.initialise == "pretrained":
        factory: Any = find_factory(cell.backbone)
        factory.check_pretrained(spec, trained=cell.budget.amount > 0)
        _check_own_scale(cell)
    if spec.temporal_stride > 1 and cell.batching.stills:
        raise Refusal(
            f"batching.stills {cell.batching.stills}: this autoencoder has {spec.temporal_stride} frames in a latent frame, and none is a "
            "still; use 0"
        )
    if spec.frame_step and cell.objective.known_frames > 1:
        raise Refusal(
            f"objective.known_frames {cell.objective.known_frames}: this autoencoder has {spec.temporal_stride} frames in a latent frame "
            "behind the first; use 0 or 1"
        )
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


def _check_own_scale(cell: Cell) -> None:
    """Refusal for latents of another scale than weights that are not trained any more know."""
    if not cell.budget.amount and getattr(cell.autoencoder, "statistics", None) != "own":
        raise Refusal("weights that are sampled as they are know latents at their own scale; give autoencoder.statistics: own")


def check_scorable(cell: Cell, clips: Clips) -> None:
    """Refusal where a CLIP score is asked for of clips that say nothing, or by a network that cannot be loaded."""
    if (asked := cell.evaluation.clip_score) is None:
        return
    if not any(clips.splits["test"].captions or ()):
        raise Refusal(f"evaluation.clip_score {asked!r} needs captions, and the test clips of this data have none; use null")
    load_clip_network(asked, pick_device(cell))


def _check_shapes(cell: Cell, clips: Clips, spec: LatentSpec, backbone: Any) -> int:
    """Bytes of the latents that the cell trains and is judged on. Refusal for a shape or a policy that its backbone cannot do."""
    check_policy(cell, backbone)
    check_units(cell, backbone)
    if cell.parallel.kind == "fsdp":
        check_sharded(backbone)
    if cell.batching.token_dropping is not None and not hasattr(backbone, "kept_voxels"):
        raise Refusal(f"batching.token_dropping needs a backbone that predicts a part of its tokens, {cell.backbone!r} cannot; remove it")
    rules = {"train": training_rules(cell.data, cell.batching, spec), "val": held_out_rules(cell.data, cell.batching)}
    num_latent_voxels = 0
    for split, rule in rules.items():
        for shape, num in fit(clips.splits[split].shapes, rule).num_of().items():
            latent_shape = spec.latent_shape(shape)
            check_latents(backbone, latent_shape)
            if cell.batching.stills:
                check_latents(backbone, (1, *latent_shape[1:]))
            num_latent_voxels += num * num_voxels(latent_shape)
    return 4 * spec.latent_channels * num_latent_voxels


def latent_space(cell: Cell, results: Path, progress: Reporter) -> LatentSpec:
    """The latent space of a cell: known of an autoencoder yet to be trained, read off a pretrained one."""
    cache = cache_folder(results)
    clips = load_clips(cell.data, cache, progress)
    num_labels = len(clips.label_names)
    if (known := latent_spec(cell, num_labels)) is not None:
        return known
    return given_to(cell, load_autoencoder(cell.autoencoder, clips, cache, pick_device(cell), progress).spec(num_labels))


def _apart(study: Study, sizes: dict[str, CellSize]) -> list[str]:
    """A line for every pair of rivals that is further apart than the matrix allows."""
    match = study.matrix.match
    if match is None or match.to is not None:  # sizes that were found for a match were proved
        return []
    wrong = []
    for first, second in ((one.name, other.name) for one, other in study.rivals() if not (one.further or other.further)):
        if not {first, second} <= sizes.keys():  # one is broken
            continue
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
    waiting = [sizes[name] for name in job.waiting if name in sizes]
    needed_bytes = sum(size.cell_bytes for size in waiting) + max((size.latent_bytes for size in sizes.values()), default=0)
    free_bytes = shutil.disk_usage(job.results).free
    if needed_bytes > free_bytes:
        raise OSError(
            f"latents, checkpoints and samples of {len(waiting)} cells need about {needed_bytes:,} bytes in {job.results}, "
            f"{free_bytes:,} are free; free some or choose another folder with --results"
        )
