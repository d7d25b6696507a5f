"""The shape grid: how good samples are at each of several sizes, aspects and durations, trained on or not.

At every shape of the grid the same source makes real clips of just that shape, so that a distance has its own floor there; the noise
of the k-th clip of a cell is the same for all contenders.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench.backbone import check_latents
from bench.data.clips import Clips
from bench.data.latents.autoencoder import decode_clips, encode_clips
from bench.data.latents.latents import LatentSet
from bench.data.progress import Progress, silent
from bench.data.ragged import Frames
from bench.data.source import load_clips
from bench.metrics.extractors.manifest import FRAME
from bench.metrics.extractors.motion import load_motion
from bench.metrics.extractors.table import Extractor
from bench.metrics.pixels.contract import PixelSets
from bench.metrics.quality import pixel_measurements
from bench.records.record import GridPoint, Measurement
from bench.run.measure.costs import loss_protocol
from bench.run.measure.quality import distances
from bench.run.stages import ReferenceSet, cache_folder, captions_of, features_of, subject_boxes, table_of
from bench.shapes import Refusal, Shape, shape_text
from bench.study.cell import Cell
from bench.training.sampling import SamplePlan, sample
from bench.training.validation import mean_loss, validation_losses


def measure_grid(
    cell: Cell, backbone: Any, reference: ReferenceSet, judge: str, results: Path, device: torch.device, progress: Progress
) -> list[GridPoint]:
    """Every shape of the cell's grid, in pixels; `judge`: the extractor whose distance is measured there, single frames where too short."""
    points = []
    extractor = next(extractor for extractor in reference.extractors if extractor.name == judge)
    for done, shape in enumerate(cell.evaluation.grid):
        progress(done, len(cell.evaluation.grid), f"shape grid, {shape_text(shape)}")
        place = place_of(shape, reference.training.trained_shapes)
        try:
            latent_shape = reference.training.spec.latent_shape(shape)
            check_latents(backbone, latent_shape)
            real = load_clips(cell.data.at(shape, cell.evaluation.grid_samples), cache_folder(results))
        except Refusal as error:  # a shape that the backbone or the source cannot have is a hole in the grid, with its reason
            points.append(GridPoint(shape=shape, place=place, reason=str(error)))
        else:
            measurements = _measure(cell, backbone, reference, extractor, real, shape, latent_shape, results, device)
            points.append(GridPoint(shape=shape, place=place, measurements=measurements))
    return points


def place_of(shape: Shape, trained: Sequence[Shape]) -> Literal["trained", "in range", "out of range"]:
    """Whether a shape was trained on; if not, whether its duration, area and aspect lie within those that were.

    >>> place_of((4, 16, 24), [(4, 16, 16), (8, 16, 32)])
    'in range'
    """
    if shape in trained:
        return "trained"
    for measure in (lambda s: s[0], lambda s: s[1] * s[2], lambda s: s[2] / s[1]):
        values = [measure(other) for other in trained]
        if not min(values) <= measure(shape) <= max(values):
            return "out of range"
    return "in range"


def _measure(
    cell: Cell,
    backbone: Any,
    reference: ReferenceSet,
    extractor: Extractor,
    real: Clips,
    shape: Shape,
    latent_shape: Shape,
    results: Path,
    device: torch.device,
) -> list[Measurement]:
    num, given = cell.evaluation.grid_samples, reference.training
    test, val = (real.splits[split].frames for split in ("test", "val"))
    assert isinstance(test, np.ndarray) and isinstance(val, np.ndarray)
    labels = real.splits["test"].labels
    table, captions, empty_caption = None, None, 0
    if cell.text is not None:
        table = table_of(cell, given.clips, captions_of(real, "test"), results, device, silent)
        captions, empty_caption = table.places(captions_of(real, "test")), table.empty
    plan = SamplePlan(
        cell=cell, spec=given.spec, shapes=[latent_shape] * num, labels=labels, captions=captions, empty_caption=empty_caption
    )
    latents, num_labels = encode_clips(given.autoencoder, test).numpy(), given.spec.num_labels
    held_out = LatentSet(
        latents=latents,
        labels=labels if num_labels else None,
        null_label=num_labels,
        captions=captions,
        empty_caption=empty_caption,
    )
    with contextlib.nullcontext() if table is None else backbone.reading(table):  # their captions are not those of the cell's clips
        generated, _ = sample(backbone, plan, device)
        loss = mean_loss(validation_losses(backbone, held_out, num, cell, device))
    clips: dict[str, Frames] = {"trained": decode_clips(given.autoencoder, generated), "real": val}
    manifest = extractor.manifest
    sets = {**clips, "test": test}
    if manifest.takes(shape[0]):
        features = {name: features_of(name, frames, num, extractor, results, silent) for name, frames in sets.items()}
    else:  # too short for it: single frames
        encoder, manifest = load_motion(device), FRAME
        features = {name: encoder.features_by_frame(frames) for name, frames in sets.items()}
    found = distances(features, manifest, cell, real, num, shape, device, "given")
    boxes = subject_boxes(real, "test")
    pixels = PixelSets(clips=clips, test=test, source=real.digest, mixed=True, boxes=None if boxes is None else list(boxes))
    protocol = loss_protocol(cell, real.digest, num, given.autoencoder.key) | {"shape": list(shape), "split": "test"}
    return [
        *found,
        *pixel_measurements(pixels),
        Measurement(name="val_loss", value=loss, unit="1", better="lower", protocol=protocol),
    ]
