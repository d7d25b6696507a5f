"""What rivals share: clips, autoencoder, latents, and the features of real and reconstructed clips.

Each stage is cached under the hash of exactly what determines it, so the first cell pays and all others read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench import autoencoder as autoencoders
from bench.cell import Cell
from bench.data.source import Clips, load_clips
from bench.metrics.extractor import Extractor, load_extractor
from bench.metrics.features import cached_features
from bench.shapes import LatentSpec
from bench.train import LatentSet

Progress = Callable[[int, int, str], None]

SHEET_CLIPS = 16  # clips of each kind kept for the report's sample sheets


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Everything a cell finds ready."""

    clips: Clips
    autoencoder: autoencoders.Stage
    spec: LatentSpec
    train: LatentSet
    val: LatentSet
    extractors: tuple[Extractor, ...]
    # Extractor -> subject -> features (n, D). "test": the first n test clips, which every distance compares with. "real": the
    # first n validation clips, the floor. "reconstruction": those through the autoencoder, the ceiling.
    features: dict[str, dict[str, np.ndarray]]
    reconstructed: np.ndarray  # (n, T, H, W, 3) uint8, those clips


def cache_folder(results: Path) -> Path:
    """Where stages are cached."""
    return results / "cache"


def feature_folder(results: Path) -> Path:
    """Where features of clips are cached, by the hash of the clips."""
    return cache_folder(results) / "features"


def prepare(cell: Cell, results: Path, device: torch.device, progress: Progress) -> Stages:
    """Every stage of a cell, from the cache or made now."""
    cache = cache_folder(results)
    clips = load_clips(cell.data, cache, progress)
    stage = autoencoders.prepare(cell.autoencoder, clips, cache, device, progress)
    spec = stage.autoencoder.spec(num_labels=len(clips.label_names))
    sets = {}
    for split in ("train", "val"):
        latents = autoencoders.cached_latents(stage, clips.splits[split], clips.digest, split, cache, progress)
        labels = clips.splits[split].labels if spec.num_labels else None
        sets[split] = LatentSet(latents=latents, labels=labels, null_label=spec.num_labels)
    num = cell.evaluation.num_samples
    reconstructed = autoencoders.decode_clips(stage.autoencoder, [torch.from_numpy(np.array(clip)) for clip in sets["val"].latents[:num]])
    shared = {
        "test": clips.splits["test"].frames[:num],
        "real": clips.splits["val"].frames[:num],
        "reconstruction": reconstructed,
    }
    extractors = tuple(load_extractor(name, device) for name in cell.evaluation.extractors)
    features = {
        extractor.name: {
            subject: cached_features(
                extractor, frames, None, feature_folder(results), partial(labelled, progress, f"{extractor.name} features of {subject}")
            )
            for subject, frames in shared.items()
        }
        for extractor in extractors
    }
    return Stages(
        clips=clips,
        autoencoder=stage,
        spec=spec,
        train=sets["train"],
        val=sets["val"],
        extractors=extractors,
        features=features,
        reconstructed=reconstructed,
    )


def labelled(progress: Progress, what: str, done: int, total: int) -> None:
    """Progress of a part that counts without saying what it counts."""
    progress(done, total, what)
