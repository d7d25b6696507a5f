"""What rivals share: the set they train on (clips, autoencoder, latents), and the one their samples are judged against (features).

Each stage is cached under the hash of exactly what determines it, so the first cell pays and all others read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.data.clips import Clips
from bench.data.latents.autoencoder import FrameAutoencoder, decode_clips, encode_clips, load_autoencoder
from bench.data.latents.latents import LatentSet, cached_latents, fitted_clips
from bench.data.policy.fitting import Fitted, fit, held_out_rules, training_rules
from bench.data.policy.ledger import Ledger, ledger, starved
from bench.data.progress import Progress
from bench.data.ragged import Frames
from bench.data.source import load_clips
from bench.metrics.extractors.features import cached_features, usable
from bench.metrics.extractors.table import Extractor, load_extractor
from bench.shapes import LatentSpec, Refusal, Shape
from bench.study.cell import Cell
from bench.training.known import given_of


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """What a cell is trained on."""

    clips: Clips
    autoencoder: FrameAutoencoder
    spec: LatentSpec
    ledger: Ledger  # what of the training clips the policy uses
    train: LatentSet  # the policy's items
    trained_shapes: tuple[Shape, ...]  # in pixels, most frequent first; without those that fill no batch
    val: LatentSet
    labels: np.ndarray  # (n,) of the clips to generate: those of the first n test clips
    shapes: list[Shape]  # latent (T, H, W) of each of them
    given: (
        list[Tensor] | None
    )  # of each of them, the latents of the test clip's known frames (bench/training/known.py); None: none is known


@dataclass(frozen=True, kw_only=True)
class ReferenceSet:
    """What samples are judged against. Whoever trains needs none of it.

    Held-out clips are seen at their own shapes under every batching policy, sides cut to the policy's multiple; those of data of one
    shape as they are.
    """

    training: TrainingSet
    held_out: dict[str, Frames]  # "test", "val" -> the first n clips of the split
    boxes: list[np.ndarray] | None  # (T, 4) of the one subject of each test clip, in its pixels; None where the source knows none
    extractors: tuple[Extractor, ...]
    # Extractor -> subject -> features (n, D). "test": the first n test clips, which every distance compares with. "real": the
    # first n validation clips, the floor. "reconstruction": those through the autoencoder, the ceiling.
    features: dict[str, dict[str, np.ndarray]]
    reconstructed: Frames  # those clips


def cache_folder(results: Path) -> Path:
    """Where stages are cached."""
    return results / "cache"


def training_set(cell: Cell, results: Path, device: torch.device, progress: Progress) -> TrainingSet:
    """Clips, autoencoder and latents of a cell, from the cache or made now."""
    cache = cache_folder(results)
    clips = load_clips(cell.data, cache, progress)
    autoencoder = load_autoencoder(cell.autoencoder, clips, cache, device, progress)
    spec, known = autoencoder.spec(num_labels=len(clips.label_names)), cell.objective.known_frames
    spec = spec.with_known_frames() if known else spec
    fitted = {split: _held_out(cell, clips, split) for split in ("val", "test")}
    fitted["train"] = fit(clips.splits["train"].shapes, training_rules(cell.data, cell.batching, spec))
    sets = {}
    for split in ("train", "val"):
        latents = cached_latents(autoencoder, clips.splits[split].frames, fitted[split], clips.digest, split, cache, progress)
        labels = fitted[split].of_items(clips.splits[split].labels)
        sets[split] = LatentSet(latents=latents, labels=labels if spec.num_labels else None, null_label=spec.num_labels)
    generated, given = fitted["test"].items[: cell.evaluation.num_samples], None
    if known:
        given = known_of(autoencoder, fitted_clips(clips.splits["test"].frames, fitted["test"], cell.evaluation.num_samples), known)
    return TrainingSet(
        clips=clips,
        autoencoder=autoencoder,
        spec=spec,
        ledger=ledger(clips.splits["train"].shapes, fitted["train"], cell.batching, spec, cell.seed, subject_boxes(clips, "train")),
        train=sets["train"],
        trained_shapes=tuple(shape for shape in fitted["train"].shapes if shape not in starved(fitted["train"], cell.batching, spec)),
        val=sets["val"],
        labels=clips.splits["test"].labels[[item.clip for item in generated]],
        shapes=[spec.latent_shape(item.shape) for item in generated],
        given=given,
    )


def known_of(autoencoder: FrameAutoencoder, clips: Frames, known_frames: int) -> list[Tensor]:
    """Clips -> what is given of each where its first frames are known."""
    return given_of([encode_clips(autoencoder, np.array(clip)[None])[0] for clip in clips], known_frames)


def reference_set(cell: Cell, training: TrainingSet, results: Path, device: torch.device, progress: Progress) -> ReferenceSet:
    """Held-out clips of a cell and their features, from the cache or made now."""
    clips, num = training.clips, cell.evaluation.num_samples
    fitted = {split: _held_out(cell, clips, split) for split in ("val", "test")}
    held_out = {split: fitted_clips(clips.splits[split].frames, fitted[split], num) for split in ("val", "test")}
    latents = [torch.from_numpy(np.array(clip)) for clip in training.val.latents[:num]]
    reconstructed = decode_clips(training.autoencoder, latents)
    extractors = tuple(load_extractor(name, device) for name in cell.evaluation.extractors)
    subjects = {"test": held_out["test"], "real": held_out["val"], "reconstruction": reconstructed}
    features = {}
    for extractor in extractors:
        most = min(len(usable(extractor.manifest, frames)) for frames in held_out.values())  # equal numbers in all sets
        features[extractor.name] = {
            subject: features_of(subject, frames, most, extractor, results, progress) for subject, frames in subjects.items()
        }
    known, own = subject_boxes(clips, "test"), None
    if known is not None:  # in the pixels of their windows, which are not scaled
        own = [known[item.clip, : item.shape[0]] - (*item.box[:2], *item.box[:2]) for item in fitted["test"].items[:num]]
    return ReferenceSet(
        training=training,
        held_out=held_out,
        boxes=own,
        extractors=extractors,
        features=features,
        reconstructed=reconstructed,
    )


def scored_captions(cell: Cell, clips: Clips) -> tuple[str, ...] | None:
    """What the test clips that samples are compared with say, in their order; None where the data has no captions."""
    told = clips.splits["test"].captions
    items = _held_out(cell, clips, "test").items[: cell.evaluation.num_samples]
    return None if told is None else tuple(told[item.clip] for item in items)


def _held_out(cell: Cell, clips: Clips, split: str) -> Fitted:
    """Items of a held-out split. Refusal where there are fewer than are to be compared."""
    fitted, num = fit(clips.splits[split].shapes, held_out_rules(cell.data, cell.batching)), cell.evaluation.num_samples
    if len(fitted.items) < num:
        lost = fitted.lost[0]
        raise Refusal(f"{split} clip {lost.clip} {lost.reason}; {len(fitted.items)} are left of {num}")
    return fitted


def subject_boxes(clips: Clips, split: str) -> np.ndarray | None:
    """(N, T, 4) box of the one object of each clip, in pixels, where the source knows it and there is one."""
    truth = clips.splits[split].truth
    return truth["box"][:, :, 0] if truth is not None and "box" in truth and truth["box"].shape[2] == 1 else None


def features_of(subject: str, frames: Frames, num: int, extractor: Extractor, results: Path, progress: Progress) -> np.ndarray:
    """Features (n, D) of a subject's first `num` clips that are long enough, from the cache or made now."""

    def report(done: int, total: int) -> None:
        progress(done, total, f"{extractor.name} features of {subject}")

    return cached_features(extractor, usable(extractor.manifest, frames, num), None, cache_folder(results) / "features", report)
