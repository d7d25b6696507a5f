"""The few clips of a cell that a report shows: real test clips, the same through the autoencoder, and generated ones of their classes."""

from pathlib import Path

import numpy as np

from bench.data.latents.autoencoder import decode_clips, encode_clips
from bench.data.ragged import Frames, Ragged, clip_shapes
from bench.records.artefacts import framed, save_arrays
from bench.run.stages import ReferenceSet

SHEET_CLIPS = 16  # of each kind


def save_sheet(path: Path, reference: ReferenceSet, generated: Frames, untrained: Frames | None) -> None:
    """The first clips of every set that there is, each in a frame of grey where they have several shapes. StoreError as `save_arrays`."""
    given, real = reference.training, reference.held_out["test"][:SHEET_CLIPS]
    latents = [encode_clips(given.autoencoder, np.array(clip)[None])[0] for clip in real]
    sets = {"real": real, "reconstruction": decode_clips(given.autoencoder, latents), "generated": generated[:SHEET_CLIPS]}
    if untrained is not None:
        sets["untrained"] = untrained[:SHEET_CLIPS]
    arrays = {name: framed(frames) for name, frames in sets.items()}
    if isinstance(generated, Ragged):  # how much of its grey frame the k-th clip of every set fills
        arrays["shapes"] = np.array(clip_shapes(sets["generated"]))
    labels, fps = given.labels[:SHEET_CLIPS], np.float64(given.clips.fps)
    save_arrays(path, **arrays, labels_real=labels, labels_generated=labels, fps=fps)
