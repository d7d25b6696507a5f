"""Paces: how long the parts of a cell take on this machine, a unit each; read off a finished record, or measured. Knows no torch."""

from typing import Any

from pydantic import Field

from bench.data.frozen import Frozen, content_hash
from bench.records.record import Record
from bench.study.budget import BUDGETS, CURVE_CLIPS, CURVE_FRACTIONS, Spent
from bench.study.cell import COOLDOWN, Cell

SOMETIMES = ("text", "initialise")  # further ones, where a cell has them
WORK = ("backbone", "data", "batching", "precision", "acceleration", "device")  # fields of a cell that the times of its steps depend on
GEOMETRY = ("kind", "latent_channels", "spatial_stride", "width", "name", "class_name", "revision", "subfolder")  # of its autoencoder
RAN_S = 0.05  # a phase that took less did nothing: canaries of an earlier cell are only copied


class Pace(Frozen):
    """Seconds that parts of a cell take; None where nothing tells."""

    budget_s: dict[str, float] = Field(default_factory=dict)  # axis of a budget -> of the training loop, for one of its units
    checks_s: float | None = None  # of training beside its loop (validation, checkpoints), for each validation clip that is looked at
    canaries_s: float | None = None  # all of them
    eval_s: float | None = None  # of one denoising evaluation of one clip, guidance apart
    clip_s: float | None = None  # of a sampled clip beside that: decoded, saved
    quality_s: float | None = None  # of a sampled clip: features by every extractor, distances
    point_s: float | None = None  # of a clip sampled on the way, beside its evaluations
    grid_s: float | None = None  # of an evaluation of a clip of the shape grid, all else that is done there included
    rest_s: float | None = None  # of all that is done once in a cell
    autoencoder_s: float | None = None  # of a training step of the autoencoder
    latents_s: float | None = None  # of encoding all clips


def work_of(cell: dict[str, Any]) -> str:
    """What cells share whose steps take equally long, of a cell as JSON has it; seeds, budgets and numbers of samples are others."""
    autoencoder = {name: value for name, value in cell["autoencoder"].items() if name in GEOMETRY}
    work = {name: cell.get(name) for name in WORK} | {name: cell[name] for name in SOMETIMES if cell.get(name)}
    return content_hash([work, autoencoder])


def checked_clips(cell: Cell) -> int:
    """Validation clips that a training run looks at: the points of its curve, and all at its end and at that of every branch."""
    return len(CURVE_FRACTIONS) * min(CURVE_CLIPS, cell.data.num_val) + (1 + len(cell.branches)) * cell.data.num_val


def branched(cell: Cell) -> float:
    """What its branches train, as a part of its budget."""
    return COOLDOWN * sum(cell.branches)


def evaluations(cell: Cell) -> int:
    """Calls of the backbone for one sampled clip."""
    return cell.sampler.num_steps * (1 if cell.sampler.guidance_scale == 1.0 else 2)


def by_axis(spent: Spent) -> dict[str, float]:
    """Axis of a budget -> seconds of one of its units, of a run that used this much."""
    used = {axis.name: axis.used(spent) for axis in map(BUDGETS.find, BUDGETS.names())}
    return {name: spent.seconds / amount for name, amount in used.items() if amount}


def of_record(record: Record, *, quality: bool) -> Pace:
    """The paces of a finished cell; `quality`: whether its clips are scored by the extractors that are asked about."""
    cell, split, training = record.cell, record.time_split_s, record.training
    found: dict[str, Any] = {}
    if training is not None and training.num_steps:
        spent = Spent(
            steps=training.num_steps,
            samples=training.num_samples,
            latent_voxels=sum(work[2] for work in training.step_work),
            forward_flops=sum(work[4] for work in training.step_work),
            seconds=training.wall_time_s,
        )
        beside_s = split.get("training", 0.0) - (1 + branched(cell)) * training.wall_time_s
        if beside_s > 0:  # a run that was resumed counts its loop from its first start
            found |= {"budget_s": by_axis(spent), "checks_s": beside_s / checked_clips(cell)}
    if split.get("canaries", 0.0) > RAN_S:
        found["canaries_s"] = split["canaries"]
    if record.autoencoder is not None and cell.autoencoder.kind == "trained":
        found["autoencoder_s"] = record.autoencoder.seconds / cell.autoencoder.num_steps
    if record.sampling is not None and record.sampling.num_clips:
        found |= _of_sampling(record, quality)
    return Pace(**found)


def _of_sampling(record: Record, quality: bool) -> dict[str, Any]:
    assert record.sampling is not None
    cell, split, num = record.cell, record.time_split_s, record.sampling.num_clips
    evals = evaluations(cell)  # and not the calls that it took: units one after another are so many more for each
    denoising_s = sum(record.sampling.batch_time_s)
    eval_s = denoising_s / (num * evals)
    found = {
        "eval_s": eval_s,
        "clip_s": max(split["sampling"] - denoising_s, 0.0) / num,
        "rest_s": sum(split.get(phase, 0.0) for phase in ("training set", "backbone", "reference set", "costs")),
    }
    rate = record.measurement("encode_frames_per_s", "reconstruction")
    if rate is not None and record.data is not None:
        clips = record.data.num_clips["train"] + record.data.num_clips["val"]
        found["latents_s"] = clips * cell.data.num_frames / rate.value
    if quality and "quality" in split:
        found["quality_s"] = split["quality"] / (num * (1 + ("untrained" in record.artefacts)))
    if quality and record.points:
        found["point_s"] = max(split["quality on the way"] / (len(record.points) * num) - evals * eval_s, 0.0)
    if quality and record.grid:
        found["grid_s"] = split["shape grid"] / (len(record.grid) * cell.evaluation.grid_samples * evals)
    return found


def merged(paces: list[Pace]) -> Pace:
    """Of every part what the first says that knows it."""
    found: dict[str, Any] = {}
    for pace in reversed(paces):
        found |= {name: value for name, value in pace if value is not None and value != {}}
    return Pace(**found)


def lacking(cell: Cell, pace: Pace, *, shared: bool) -> list[str]:
    """What of a pace would have to be known to tell how long a cell takes; `shared`: its autoencoder and latents have yet to be made."""
    asked = cell.evaluation
    needed = {
        "checks_s": True,
        "eval_s": asked.num_samples,
        "clip_s": asked.num_samples,
        "quality_s": asked.num_samples,
        "point_s": asked.num_samples and asked.points,
        "grid_s": asked.num_samples and asked.grid,
        "autoencoder_s": shared and cell.autoencoder.kind == "trained",
        "latents_s": shared,
    }
    missing = [name for name, is_needed in needed.items() if is_needed and getattr(pace, name) is None]
    return missing if cell.budget.axis in {*pace.budget_s, "seconds"} else ["budget_s", *missing]
