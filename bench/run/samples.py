"""Samples of a cell: those that are scored, at the shapes and of the classes of the test clips, and more of them, at any shape."""

import contextlib
import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.backbone import check_latents, load_backbone
from bench.data.frozen import content_hash
from bench.data.latents.autoencoder import decode_clips
from bench.data.progress import Progress, Reporter
from bench.data.sealed import warn_damaged
from bench.data.seeds import stream_seed
from bench.data.text.table import CaptionTable, unknown_words
from bench.meters.flops import generation_flops, num_params
from bench.meters.process import find_here
from bench.meters.storage import StorageMeter
from bench.records.artefacts import WEIGHTS, load_tensors, save_frames
from bench.records.record import Sampling, TextFacts, Work
from bench.records.store import latest
from bench.run.checks import weights_digest
from bench.run.job import SampleJob
from bench.run.measure.products import use_products
from bench.run.stages import TrainingSet, table_of, training_set
from bench.shapes import LatentSpec, Refusal, Shape, num_voxels, shape_text, visible
from bench.study.cell import Cell
from bench.training.acceleration import HALF, autocast
from bench.training.captioned import with_captions
from bench.training.objective import PATHS
from bench.training.ranks import ALONE, Ranks
from bench.training.sampling import SamplePlan, guided, sample
from bench.training.units import by_units

MOST_WORDS = 40  # of a vocabulary, that are shown
FURTHEST = 16  # pixels or frames of an axis, within which a shape that can be made is looked for


def sample_more(job: SampleJob, progress: Reporter) -> None:
    """More clips from a finished cell: `num_clips` of them, going on after those of its record, saved losslessly at `out`."""
    cell = job.cell
    device = find_here(cell.device)  # clips of what trained on a GPU can be made without one
    training, backbone = finished_backbone(cell, job.folder, job.matrix, job.results, device, progress)
    places = np.arange(job.num_clips) % len(training.labels)
    labels, shapes = training.labels[places], [training.shapes[place] for place in places]
    if job.shape is not None:
        if training.given is not None:
            raise Refusal(
                f"--shape {shape_text(job.shape)}: this cell goes on from known frames, which have the shape of its data; leave it out"
            )
        shapes = [latent_shape(job.shape, training.spec, backbone)] * job.num_clips
    given = None if training.given is None else [training.given[place] for place in places]
    table, captions, told = training.table, None if training.captions is None else training.captions[places], {}
    if table is not None and captions is not None and job.prompts:
        table = table_of(cell, training.clips, job.prompts, job.results, device, progress)
        warn_unknown(job.prompts, table)
        prompts = [job.prompts[index % len(job.prompts)] for index in range(job.num_clips)]
        captions, labels = table.places(prompts), np.full_like(labels, training.spec.num_labels)
        told = {"prompts": np.array(prompts)}
    plan = SamplePlan(
        cell=cell,
        spec=training.spec,
        shapes=shapes,
        labels=labels,
        given=given,
        captions=captions,
        empty_caption=0 if table is None else table.empty,
        first_clip=cell.evaluation.num_samples,
    )
    with contextlib.nullcontext() if table is None else backbone.reading(table):
        latents, _ = sample(backbone, plan, device, progress)
    frames = decode_clips(training.autoencoder, latents)
    save_frames(job.out, frames, labels=labels, fps=np.float64(training.clips.fps), **told)


def finished_backbone(
    cell: Cell, folder: Path, matrix: str, results: Path, device: torch.device, progress: Progress
) -> tuple[TrainingSet, Any]:
    """What a finished cell was given, and its backbone with the averaged weights in its folder, to sample from.

    Refusal where they are gone or damaged, or where data or autoencoder are others than they were trained on.
    """
    if not (folder / WEIGHTS).is_file():
        raise Refusal(f"{folder} has no {WEIGHTS}; finish the cell with `python -m bench run {matrix}` first")
    training = training_set(cell, results, device, progress)
    if trained_on(folder) != inputs_of(cell, training):
        raise Refusal(f"the data or the autoencoder of {folder} is no longer what it was trained on; run {matrix} again first")
    backbone = build_backbone(cell, training)
    use_products(matrix, results, device)
    _wake(backbone, folder / WEIGHTS, f"remove {folder} and run {matrix} again")
    return training, backbone.to(device).eval()


def warn_unknown(prompts: Sequence[str], table: CaptionTable) -> None:
    """Name the words of prompts that an encoder of words has never seen, which it leaves out."""
    if table.vocabulary and (words := unknown_words(prompts, table.vocabulary)):
        known = ", ".join(table.vocabulary[:MOST_WORDS]) + (", ..." if len(table.vocabulary) > MOST_WORDS else "")
        print(visible(f"no training caption has {', '.join(words)}, which is left out; known words: {known}"), file=sys.stderr)


def _wake(backbone: Any, path: Path, remedy: str) -> None:
    """Gives a backbone the weights of a file. Refusal, ending in `remedy`, for one that is damaged, or of another backbone."""
    try:
        weights = load_tensors(path)
    except Refusal as error:
        raise Refusal(f"{error}; {remedy}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if odd := [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]:
        shapes = f"{odd[0]} is {found.get(odd[0], 'missing')} there, {expected.get(odd[0], 'unknown')} here"
        raise Refusal(f"{path} holds the weights of another backbone: {len(odd)} tensors differ, {shapes}; {remedy}")
    backbone.load_state_dict(weights)


def latent_shape(shape: Shape, spec: LatentSpec, backbone: Any) -> Shape:
    """A clip (T, H, W) in pixels -> its latents. Refusal with the nearest shape that autoencoder and backbone both divide."""
    why, reach = "", range(-FURTHEST, FURTHEST + 1)
    for offsets in sorted(itertools.product(reach, repeat=3), key=lambda each: sum(map(abs, each))):  # the shape itself first
        near = (shape[0] + offsets[0], shape[1] + offsets[1], shape[2] + offsets[2])
        try:
            latents = spec.latent_shape(near)
            check_latents(backbone, latents)
        except Refusal as error:
            why = why or str(error).partition(";")[0]  # its remedy minds one of the two alone
            continue
        if near == shape:
            return latents
        raise Refusal(f"--shape {shape_text(shape)}: {why}; the nearest that this cell can make is {shape_text(near)}")
    raise Refusal(f"--shape {shape_text(shape)}: {why}")


def sample_scored(
    cell: Cell, backbone: Any, given: TrainingSet, device: torch.device, progress: Progress, ranks: Ranks = ALONE
) -> tuple[list[Tensor], Sampling]:
    """Latents of one clip for each test clip's class and shape, after a call that warms up.

    Of several processes each makes every n-th clip, and all have all of them; the times are those of the slowest.
    """
    count = min(cell.sampler.batch_size, len(given.labels))
    one_step = cell.model_copy(update={"sampler": cell.sampler.model_copy(update={"num_steps": 1})})
    few = None if given.given is None else given.given[:count]
    shared: dict[str, Any] = {"spec": given.spec, "shapes": given.shapes, "labels": given.labels}
    shared |= {"captions": given.captions, "empty_caption": given.empty_caption}
    warm_up = SamplePlan(cell=one_step, given=few, places=range(count), **shared)
    _, before = sample(backbone, warm_up, device)
    places = ranks.own(len(given.shapes))
    own = None if ranks.num == 1 else places
    plan = SamplePlan(cell=cell, given=given.given, places=own, **shared)
    ranks.wait()
    latents, course = sample(backbone, plan, device, progress)
    if ranks.num > 1:
        sizes = [(given.spec.latent_channels, *shape) for shape in given.shapes]
        latents = ranks.gathered(dict(zip(places, latents, strict=True)), sizes)
        slowest_s = max(ranks.lists(sum(course.batch_time_s)))
        course = course.model_copy(update={"num_clips": len(latents), "batch_time_s": [slowest_s], "batch_clips": [len(latents)]})
    return latents, course.model_copy(update={"warmup_time_s": sum(before.batch_time_s)})


@torch.no_grad()  # in inference mode autocast's casts are lost on a meter
def sampling_storage(cell: Cell, backbone: Any, given: TrainingSet, device: torch.device) -> int:
    """Peak bytes of tensor storage of one denoising evaluation at the sampler's batch size, weights included."""
    count, null_label = min(cell.sampler.batch_size, cell.evaluation.num_samples), given.spec.num_labels
    largest = max(given.shapes, key=math.prod)  # a full batch of the largest clips
    labels = torch.zeros(count, dtype=torch.long, device=device) if null_label else None
    captions = None if given.captions is None else torch.zeros(count, dtype=torch.long, device=device)
    latents = [torch.zeros((given.spec.input_channels, *largest), device=device) for _ in range(count)]
    times = torch.full((count,), 0.5, device=device)
    alive = (list(backbone.parameters()), list(backbone.buffers()), latents)
    if by_units(backbone):
        return _unit_storage(cell, backbone, latents, labels, alive)
    with StorageMeter(*alive) as meter, autocast(device, HALF[cell.precision]):
        guided(backbone, latents, times, labels, null_label, cell.sampler.guidance_scale, captions, given.empty_caption)
    return meter.peak_bytes


def _unit_storage(cell: Cell, backbone: Any, latents: list[Tensor], labels: Tensor | None, alive: tuple[Any, ...]) -> int:
    """The same of a backbone that generates units: all units are gone through, the last of them with the whole cache."""
    guides = cell.sampler.guidance_scale != 1.0
    clips = torch.stack(latents * 2 if guides else latents)
    shape = (clips.shape[2], clips.shape[3], clips.shape[4])
    with StorageMeter(*alive, clips) as meter, autocast(clips.device, HALF[cell.precision]):
        generation = backbone.generate(shape, torch.cat([labels, labels]) if guides and labels is not None else labels, len(clips))
        for box in backbone.units(shape):
            generation.predict(clips[:, :, *box], 0.5)
            generation.keep(clips[:, :, *box])
    return meter.peak_bytes


def sampling_flops(cell: Cell, latents: list[Tensor], backbone: Any, spec: LatentSpec) -> int | None:
    """FLOPs of all calls that made all samples, guidance included; None where it is so many times those of a pass."""
    if not by_units(backbone):
        return None
    sampler, shapes = cell.sampler, Counter((clip.shape[1], clip.shape[2], clip.shape[3]) for clip in latents)
    total = sum(num * generation_flops(cell.backbone, spec, shape, sampler.num_steps) for shape, num in shapes.items())
    return total * (1 if sampler.guidance_scale == 1.0 else 2)


def sampling_work(latents: list[Tensor], backbone: Any, flops_of: Callable[[Shape], int]) -> Work:
    """One pass over all samples in the fields of WORK."""
    shapes = [(clip.shape[1], clip.shape[2], clip.shape[3]) for clip in latents]
    times = Counter(shapes)
    cells, tokens = (sum(num * count(shape) for shape, num in times.items()) for count in (num_voxels, backbone.num_tokens))
    flops = sum(num * flops_of(shape) for shape, num in times.items())
    return len(shapes), sum(shape[0] for shape in shapes), cells, tokens, flops


def inputs_of(cell: Cell, training: TrainingSet) -> str:
    """Identity of a cell and of what it trains on: a checkpoint or weights of other inputs are of no use to it."""
    text = None if training.table is None else training.table.key
    return _identity(cell.fingerprint(), training.clips.digest, training.autoencoder.key, text, weights_digest(cell))


def trained_on(folder: Path) -> str | None:
    """The same of the cell that has finished in `folder`, by its record; None where it has none."""
    record = latest(folder)
    if record is None or record.data is None or record.autoencoder is None:
        return None
    text = None if record.text is None else record.text.key
    weights = None if record.backbone is None else record.backbone.weights
    return _identity(record.fingerprint, record.data.digest, record.autoencoder.key, text, weights)


def _identity(fingerprint: str, clips: str, autoencoder: str, text: str | None, weights: str | None) -> str:
    more = [[kind, key] for kind, key in (("text", text), ("weights", weights)) if key is not None]
    return content_hash([fingerprint, clips, autoencoder, *more])


INPUTS = "inputs.txt"  # in a cell's folder, from the first phase on: identity of what it trains on


def read_inputs(folder: Path) -> str | None:
    """What `inputs.txt` says; None where it says nothing. One that is damaged is named."""
    path = folder / INPUTS
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        text = ""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return text
    warn_damaged(f"{path} is damaged; what it was to vouch for is made again")
    return None


def build_backbone(cell: Cell, training: TrainingSet) -> Any:
    """The backbone with the weights that it begins with, of its seed or of a public checkpoint, and what reads captions around it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(cell.seed, "weights", 0))
        backbone: Any = load_backbone(cell.backbone, training.spec)
    if cell.initialise == "pretrained":
        backbone.load_pretrained(PATHS[cell.objective.name])
    if cell.text is None or training.table is None:
        return backbone
    return with_captions(backbone, cell.text, training.table, cell.seed)


def text_facts(backbone: Any, training: TrainingSet) -> TextFacts | None:
    """What reads the captions of a cell, whose backbone `build_backbone` made; None of one without text."""
    if (table := training.table) is None:
        return None
    own = 0 if backbone.words is None else num_params(backbone.words)
    return TextFacts(key=table.key, num_captions=len(table.texts), num_words=len(table.vocabulary), num_params=own)
