"""What rivals share: the set they train on (clips, autoencoder, latents), and the one their samples are judged against (features).

Each stage is cached under the hash of exactly what determines it, so the first cell pays and all others read.
"""

from collections.abc import Iterable
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
from bench.data.text.encoder import caption_table
from bench.data.text.table import CaptionTable
from bench.metrics.extractors.features import cached_features, usable
from bench.metrics.extractors.table import Extractor, load_extractor
from bench.run.checks import given_to
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
    table: CaptionTable | None = None  # of all captions of the data; None: the cell has no text
    captions: np.ndarray | None = None  # (n,) of the clips to generate, places in it

    @property
    def told(self) -> tuple[str, ...] | None:
        """Caption of each of the clips to generate; None where the cell has no text."""
        return None if self.table is None or self.captions is None else tuple(self.table.texts[place] for place in self.captions)

    @property
    def empty_caption(self) -> int:
        """Where the empty caption is."""
        return 0 if self.table is None else self.table.empty


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
    spec, known = given_to(cell, autoencoder.spec(num_labels=len(clips.label_names))), cell.objective.known_frames
    table = None
    if cell.text is not None:
        table = table_of(cell, clips, [text for split in clips.splits for text in captions_of(clips, split)], results, device, progress)
    fitted = {split: _held_out(cell, clips, split) for split in ("val", "test")}
    fitted["train"] = fit(clips.splits["train"].shapes, training_rules(cell.data, cell.batching, spec))
    sets = {}
    for split in ("train", "val"):
        latents = cached_latents(autoencoder, clips.splits[split].frames, fitted[split], clips.digest, split, cache, progress)
        labels = fitted[split].of_items(clips.splits[split].labels)
        sets[split] = LatentSet(
            latents=latents,
            labels=labels if spec.num_labels else None,
            null_label=spec.num_labels,
            captions=None if table is None else fitted[split].of_items(table.places(captions_of(clips, split))),
            empty_caption=0 if table is None else table.empty,
        )
    generated, given = fitted["test"].items[: cell.evaluation.num_samples], None
    if known:
        given = known_of(autoencoder, fitted_clips(clips.splits["test"].frames, fitted["test"], cell.evaluation.num_samples), known)
    return TrainingSet(
        clips=clips,
        autoencoder=autoencoder,
        spec=spec,
        ledger=ledger(clips.splits["train"].shapes, fitted["train"], cell.batching, spec, cell.seed, subject_boxes(clips, "train")),
        train=sets["train"],
        trained_shapes=_trained_shapes(cell, fitted["train"], spec),
        val=sets["val"],
        labels=clips.splits["test"].labels[[item.clip for item in generated]],
        shapes=[spec.latent_shape(item.shape) for item in generated],
        given=given,
        table=table,
        captions=None if table is None else table.places(captions_of(clips, "test"))[[item.clip for item in generated]],
    )


def captions_of(clips: Clips, split: str) -> tuple[str, ...]:
    """Of each clip. Refusal where the data has none."""
    captions = clips.splits[split].captions
    if captions is None:
        raise Refusal(f"the {split} clips have no captions, which text needs; give data.captions or leave out text")
    return captions


def table_of(cell: Cell, clips: Clips, captions: Iterable[str], results: Path, device: torch.device, progress: Progress) -> CaptionTable:
    """Captions, of any clips, as the encoder of a cell reads them that is trained on `clips`."""
    assert cell.text is not None
    return caption_table(cell.text, captions, captions_of(clips, "train"), cache_folder(results), device, progress)


def _trained_shapes(cell: Cell, fitted: Fitted, spec: LatentSpec) -> tuple[Shape, ...]:
    """In pixels, those of items that fill batches, and of stills cut from them."""
    starving = starved(fitted, cell.batching, spec)
    shapes = [shape for shape in fitted.shapes if shape not in starving]
    stills = [(1, height, width) for _, height, width in shapes if cell.batching.stills]
    return (*shapes, *stills)


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
