"""How far clips show what they were told, beside the real clips of the same captions, those through the autoencoder, and chance."""

import importlib.metadata
from collections.abc import Mapping

import numpy as np
import torch

from bench.data.latents.autoencoder import decode_clips, encode_clips
from bench.data.ragged import Frames
from bench.data.sources import worlds
from bench.metrics.following import clip_score, following
from bench.records.record import REAL, Measurement
from bench.run.stages import ReferenceSet
from bench.run.told import is_read, unseen_combinations
from bench.study.cell import Cell


def measure_following(cell: Cell, reference: ReferenceSet, generated: Mapping[str, Frames], device: torch.device) -> list[Measurement]:
    """Of each subject of `generated`, told the captions of the first n test clips in order, and of those clips; [] where none was told."""
    if (captions := reference.training.told) is None:
        return []
    test, autoencoder = reference.held_out["test"], reference.training.autoencoder
    latents = [encode_clips(autoencoder, np.asarray(clip)[None])[0] for clip in test]
    clips = {REAL: test, "reconstruction": decode_clips(autoencoder, latents), **generated}
    found, source = list[Measurement](), reference.training.clips.digest
    if is_read(cell):
        assert isinstance(cell.data, worlds.Config)
        found += following.measurements(captions, clips, unseen_combinations(cell), source, cell.data.num_objects)
    if cell.evaluation.clip_score is not None:
        network = clip_score.load_clip_network(cell.evaluation.clip_score, device)
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        found += clip_score.measurements(captions, clips, network, source, versions)
    return found
