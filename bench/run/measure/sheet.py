"""The few clips of a cell that a report shows: real test clips, the same through the autoencoder, and generated ones of their classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.data.clips import labels_in_turn
from bench.data.latents.autoencoder import decode_clips, encode_clips
from bench.data.ragged import Frames, Ragged, clip_shapes, stacked
from bench.records.artefacts import framed, save_arrays
from bench.run.stages import ReferenceSet

SHEET_CLIPS = 16  # of each kind


def save_sheet(path: Path, reference: ReferenceSet, generated: Frames, untrained: Frames | None) -> None:
    """A few clips of every set that there is, each in a frame of grey where they have several shapes. StoreError as `save_arrays`."""
    given = reference.training
    places = sorted(labels_in_turn(given.labels, SHEET_CLIPS))
    real = _at(reference.held_out["test"], places)
    latents = [encode_clips(given.autoencoder, np.array(clip)[None])[0] for clip in real]
    sets = {"real": real, "reconstruction": decode_clips(given.autoencoder, latents), "generated": _at(generated, places)}
    if untrained is not None:
        sets["untrained"] = _at(untrained, places)
    arrays = {name: framed(frames) for name, frames in sets.items()}
    if isinstance(generated, Ragged):  # how much of its grey frame the k-th clip of every set fills
        arrays["shapes"] = np.array(clip_shapes(sets["generated"]))
    if given.told is not None:  # the caption of the k-th clip of every set
        arrays["told"] = np.array([given.told[place] for place in places])
    labels, fps = given.labels[places], np.float64(given.clips.fps)
    save_arrays(path, **arrays, labels_real=labels, labels_generated=labels, fps=fps)


def _at(frames: Frames, places: Sequence[int]) -> Frames:
    return stacked((frames[place] for place in places), len(places))
