"""What is audited: clips, ways to make batches of them, and backbones, of a matrix or of a folder of videos. Knows no torch."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.backbone import canonical_name, check_latents, find_factory
from bench.data.frozen import flatten
from bench.data.latents.config import Autoencoder
from bench.data.policy.config import Batching
from bench.data.policy.table import POLICIES
from bench.data.source import Progress, SourceConfig, Survey, load_config, source_labels, survey_clips
from bench.run.checks import latent_spec
from bench.shapes import LatentSpec, Refusal, Shape, did_you_mean, nearest_multiples, num_voxels, parse_shape
from bench.study.cell import Cell
from bench.study.matrix import Study, shipped

STRIDE, CHANNELS = 8, 4  # of the usual autoencoder of images
PATCHES = (2, 4, 8, 16)  # latent voxels of a side that backbones may need multiples of
# What a matrix calls them, and the command that has no matrix: in what is said of losses.
OPTIONS = {"batching.voxel_budget": "--voxel-budget", "data.num_frames": "the frames of --shape", "batching.side_multiple": "--multiple"}
# Fields of FolderOptions that the command names otherwise.
FLAGS = {"voxel_budget": "voxel-budget", "backbones": "backbone", "policies": "policy"}


@dataclass(frozen=True, kw_only=True)
class Audited:
    """Everything an audit reads."""

    title: str
    audited: str  # which clips, for the reader
    data: SourceConfig
    survey: Survey
    shapes: Sequence[Shape]  # (T, H, W) in pixels of the audited clips
    clip_ids: tuple[str, ...]
    boxes: np.ndarray | None  # (N, T, 4) of the one subject of each clip, where the source knows it
    variants: dict[str, Batching]
    backbones: tuple[str, ...]
    spec: LatentSpec
    seed: int
    precision: str
    device: str  # auto, cpu, cuda
    notes: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)  # field of a cell -> what the user calls it

    def said(self, text: str) -> str:
        """`text` in the user's words."""
        for name, word in self.words.items():
            text = text.replace(name, word)
        return text


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """What a folder does not say and a matrix would. None: not given."""

    shape: str | None
    voxel_budget: int | None
    backbones: Sequence[str]
    policies: Sequence[str]
    stride: int | None  # pixels of a side per latent voxel
    multiple: int | None  # pixels


def is_folder(name: str) -> bool:
    """Whether `name` is a folder and not a matrix. Refusal where it is neither."""
    if name in shipped() or name.endswith((".yaml", ".yml")):
        return False
    if Path(name).is_dir():
        return True
    if "/" in name:
        raise Refusal(f"{name!r} is no folder; name one that holds videos")
    known = ", ".join(shipped())
    raise Refusal(f"{name!r} is neither a folder nor a matrix{did_you_mean(name, shipped())}; there are {known}, or give a .yaml file")


def of_folder(path: Path, options: FolderOptions, cache: Path, progress: Progress) -> Audited:
    """All clips of a user's folder. Refusal for what cannot be."""
    if options.shape is None or options.voxel_budget is None:
        missing = "--shape, as 16x64x64" if options.shape is None else "--voxel-budget, as 8192"
        raise Refusal(f"the audit of a folder needs {missing}; only a matrix says it itself")
    shape = parse_shape(options.shape, "--shape")
    policies = list(dict.fromkeys(options.policies or POLICIES.names()))
    backbones = tuple(dict.fromkeys(canonical_name(name) for name in options.backbones))
    stride = options.stride or STRIDE
    multiple = options.multiple or stride * _patch([find_factory(name) for name in backbones], shape[0])
    if multiple % stride:
        raise Refusal(f"--multiple {multiple} is not a multiple of --stride {stride}; {nearest_multiples(multiple, stride)}")
    if any(POLICIES.find(name).one_shape for name in policies):
        _check_crop(shape, options.voxel_budget, stride, multiple)
    # The fewest clips held out that the source allows, and no gaps between splits: together they are all that the files hold.
    size = dict(zip(("num_frames", "height", "width"), shape, strict=True))
    fewest = {"num_val": 1, "num_test": 1, "split_by": "time", "gap_s": 0.0}
    data = load_config({"source": "folder", "path": path, "native": True, **size, **fewest})
    num_labels = len(source_labels(data))
    try:
        survey = survey_clips(data, cache, progress)
    except Refusal as error:
        if "num_val" not in str(error):  # else in words that this command's user never used
            raise
        raise Refusal(
            f"{path} has fewer than three clips of {shape[0]} frames, and a study needs one to train on, one to validate and one to test; "
            "ask for fewer frames by --shape or add videos"
        ) from error
    shapes = tuple(each for split in survey.shapes.values() for each in split)
    own = f"each file at its own aspect, scaled down to at most {data.height * data.width:,} pixels a frame, none enlarged"
    notes = (own, *(note for note in survey.notes if " split by " not in note))
    return Audited(
        title=f"folder {path}",
        audited=f"all {len(shapes):,} clips of the folder; a study holds some of them out",
        data=data,
        survey=dataclasses.replace(survey, notes=notes),
        shapes=shapes,
        clip_ids=tuple(name for split in survey.clip_ids.values() for name in split),
        boxes=None,
        variants={name: Batching(policy=name, voxel_budget=options.voxel_budget, side_multiple=multiple) for name in policies},
        backbones=backbones,
        spec=LatentSpec(latent_channels=CHANNELS, spatial_stride=stride, temporal_stride=1, num_labels=num_labels),
        seed=0,
        precision="fp32",
        device="auto",
        words=OPTIONS,
    )


def _patch(factories: Sequence[Any], num_frames: int) -> int:
    """The least of PATCHES that all backbones take as a side, as far as they say; where none will do, the first, and the audit says why."""
    for side in PATCHES:
        with contextlib.suppress(Refusal):
            for factory in factories:
                check_latents(factory, (num_frames, side, side))
            return side
    return PATCHES[0]


def _check_crop(shape: Shape, voxel_budget: int, stride: int, multiple: int) -> None:
    """Refusal where the one shape cannot be cropped to, or fills more than a batch."""
    for axis, size in zip(("height", "width"), shape[1:], strict=True):
        if size % multiple:
            raise Refusal(f"--shape: {axis} {size} is not a multiple of --multiple {multiple}; {nearest_multiples(size, multiple)}")
    voxels = num_voxels((shape[0], shape[1] // stride, shape[2] // stride))
    if voxels > voxel_budget:
        raise Refusal(f"--voxel-budget {voxel_budget} holds no clip of --shape, which has {voxels:,} latent voxels; use {voxels} or more")


def of_matrix(study: Study, options: FolderOptions, cache: Path, progress: Progress) -> Audited:
    """The training clips of a matrix under each of its ways of batching, of its first seed. Refusal for what cannot be."""
    if given := [name for name, value in vars(options).items() if value]:
        option = FLAGS.get(given[0], given[0])
        raise Refusal(f"--{option} is for a folder of videos; matrix {study.name} says it itself, change it by KEY=VALUE")
    cells = [named.cell for named in study.cells]
    for name in ("data", "autoencoder", "precision", "device"):
        if len({repr(getattr(cell, name)) for cell in cells}) > 1:
            raise Refusal(f"matrix {study.name} has several values of {name!r}, an audit is of one; give it by {name}=...")
    first = cells[0]
    num_labels = len(source_labels(first.data))
    spec = latent_spec(first, num_labels) or pretrained_spec(first.autoencoder, num_labels)
    survey = survey_clips(first.data, cache, progress)
    boxes = survey.boxes["train"] if survey.boxes else None  # (N, T, objects, 4)
    variants, backbones = _variants(cells), tuple(dict.fromkeys(cell.backbone for cell in cells))
    notes = []
    if len({(cell.backbone, repr(cell.batching)) for cell in cells}) < len(variants) * len(backbones):
        notes.append("every backbone is counted under every policy, those too that the matrix does not pair")
    if study.matrix.match is not None and study.matrix.match.to is not None:
        notes.append(f"backbones have the sizes that the matrix names, not those that match {study.matrix.match.to}")
    if any(cell.batching.token_dropping for cell in cells):
        notes.append("token dropping is left out of account: with it a batch holds more clips")
    return Audited(
        title=f"matrix {study.name}",
        audited=f"the {len(survey.shapes['train']):,} clips of the training split",
        data=first.data,
        survey=survey,
        shapes=survey.shapes["train"],
        clip_ids=survey.clip_ids["train"],
        boxes=boxes[:, :, 0] if boxes is not None and boxes.shape[2] == 1 else None,
        variants=variants,
        backbones=backbones,
        spec=spec,
        seed=first.seed,
        precision=first.precision,
        device=first.device,
        notes=tuple(notes),
    )


def _variants(cells: Sequence[Cell]) -> dict[str, Batching]:
    """Name -> each distinct batching of the cells; the name says what tells it from others of its policy."""
    found = list({repr(cell.batching): cell.batching for cell in cells}.values())
    fields: list[dict[str, Any]] = [flatten(batching.model_dump(mode="json")) for batching in found]
    named = {}
    for batching, own in zip(found, fields, strict=True):
        rivals = [other for other in fields if other["policy"] == batching.policy]
        differing = [key for key in own if any(other.get(key) != own[key] for other in rivals)]
        named[", ".join([batching.policy, *(f"{key}={own[key]}" for key in differing)])] = batching
    return named


def pretrained_spec(config: Autoencoder, num_labels: int) -> LatentSpec:
    """The latent space of a pretrained autoencoder, by its configuration: its weights are not loaded. Refusal where it has none."""
    import diffusers
    import torch

    from bench.data.latents.networks import wrapped

    assert config.kind == "pretrained"
    try:
        network_class = getattr(diffusers, config.class_name)
        with torch.device("meta"), torch.no_grad():
            found = network_class.load_config(config.name, revision=config.revision, subfolder=config.subfolder)
            network = network_class.from_config(found)
            return wrapped(network).spec(num_labels)
    except (AttributeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise Refusal(f"autoencoder {config.name!r}: its latent space cannot be read as that of {config.class_name}: {reason}") from error
