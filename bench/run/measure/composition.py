"""Whether training on crops shows in what is generated: are subjects whole in the frame, and are they where they belong?

For a world of one object whose box is known, from the object seen in the pixels; for any video, from where motion and contrast are.
"""

import sys
from collections.abc import Sequence

import numpy as np

from bench.data.latents.autoencoder import FrameAutoencoder, decode_clips, encode_clips
from bench.data.latents.latents import item_pixels
from bench.data.policy.fitting import Rules, fit
from bench.data.policy.ledger import wholly_inside
from bench.data.ragged import Frames, clip_shapes
from bench.metrics.distances.interval import NUM_GROUPS, jackknife_sets
from bench.metrics.distances.wasserstein import mean_wasserstein
from bench.metrics.pixels import framing, saliency
from bench.records.record import Measurement
from bench.run.measure.costs import protocol_fields
from bench.study.cell import Cell

INTERVAL = f"delete-group jackknife over clips, {NUM_GROUPS} groups, 95 %"


def composition(clips: dict[str, Frames], test: Frames, boxes: Sequence[np.ndarray] | None, source: str) -> list[Measurement]:
    """Measurements of every subject's clips against the real `test` clips; `boxes` (T, 4) of the one object of each, or None.

    All sets have the shapes of the test clips about equally often. `source` identifies the real clips.
    """
    found = []
    if boxes is not None:
        truth = framing.truth(boxes, clip_shapes(test))
        for subject, frames in clips.items():
            seen = framing.measure(list(frames))
            fields = {"subject": subject, **protocol_fields(_framing_block(source, len(test)))}
            found.append(Measurement(name="subject_whole_rate", value=seen.whole_rate, unit="share of clips", better="higher", **fields))
            found.append(Measurement(name="subject_absent_rate", value=seen.absent_rate, unit="share of clips", better="lower", **fields))
            found += _distance("framing_distance", seen.features, truth.features, fields)
    block = {"measure": "saliency", "version": saliency.VERSION, "clips": source, "num_clips": len(test), **vars(saliency.SETTINGS)}
    real = saliency.measure(list(test)).features
    for subject, frames in clips.items():
        fields = {"subject": subject, **protocol_fields(block)}
        found += _distance("saliency_distance", saliency.measure(list(frames)).features, real, fields)
    return found


def crop_control(cell: Cell, autoencoder: FrameAutoencoder, frames: Frames, boxes: np.ndarray, source: str) -> list[Measurement]:
    """Share of real clips whose subject is whole when they are cropped to the one shape: in truth, and seen through the autoencoder.

    One that never saw a cut subject paints the frame's outermost pixels dark and hides cuts, a model's too: then the second is higher.
    """
    one_shape = (cell.data.num_frames, cell.data.height, cell.data.width)
    rules = Rules(policy="crop", one_shape=one_shape, multiple=1, max_pixels=sys.maxsize)
    items = fit(clip_shapes(frames), rules).items
    crops = [item_pixels(frames, item) for item in items]
    latents = [encode_clips(autoencoder, crop[None])[0] for crop in crops]
    seen = framing.measure(list(decode_clips(autoencoder, latents)))
    block = {**_framing_block(source, len(crops)), "cropped": list(one_shape)}
    rates = {"real": float(np.mean(wholly_inside(items, boxes))), "reconstruction": seen.whole_rate}
    return [
        Measurement(
            name="crop_control_whole_rate", subject=subject, value=rate, unit="share of clips", better="none", **protocol_fields(block)
        )
        for subject, rate in rates.items()
    ]


def _framing_block(source: str, num_clips: int) -> dict[str, object]:
    """The protocol of what framing measures."""
    return {"measure": "framing", "version": framing.VERSION, "clips": source, "num_clips": num_clips, **vars(framing.THRESHOLDS)}


def _distance(name: str, seen: np.ndarray, real: np.ndarray, fields: dict[str, object]) -> list[Measurement]:
    """Mean Wasserstein distance of features (n, D) with its interval; nothing where no clip shows a subject."""
    present = seen[~np.isnan(seen).any(axis=1)]
    if not len(present):
        return []
    interval = None
    if min(len(present), len(real)) >= NUM_GROUPS:
        interval = jackknife_sets(lambda sets: mean_wasserstein(*sets), (present, real), NUM_GROUPS)
    return [
        Measurement(
            name=name,
            value=mean_wasserstein(present, real),
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            interval=INTERVAL if interval else None,
            unit="share of the frame",
            better="lower",
            **fields,
        )
    ]
