"""The control of what framing measures: real clips, cropped to the one shape, in truth and seen through the autoencoder."""

import numpy as np

from bench.data.latents.autoencoder import FrameAutoencoder, decode_clips, encode_clips
from bench.data.latents.latents import item_pixels
from bench.data.policy.fitting import cropping_rules, fit
from bench.data.policy.ledger import wholly_inside
from bench.data.ragged import Frames, clip_shapes
from bench.metrics.pixels.framing import FRAMING, measure
from bench.records.record import Measurement
from bench.study.cell import Cell


def crop_control(cell: Cell, autoencoder: FrameAutoencoder, frames: Frames, boxes: np.ndarray, source: str) -> list[Measurement]:
    """Share of real clips whose subject is whole when they are cropped to the one shape: in truth, and seen through the autoencoder.

    One that never saw a cut subject paints the frame's outermost pixels dark and hides cuts, a model's too: then the second is higher.
    """
    one_shape = (cell.data.num_frames, cell.data.height, cell.data.width)
    items = fit(clip_shapes(frames), cropping_rules(one_shape)).items
    crops = [item_pixels(frames, item) for item in items]
    latents = [encode_clips(autoencoder, crop[None])[0] for crop in crops]
    rates = {
        "real": float(np.mean(wholly_inside(items, boxes))),
        "reconstruction": float(measure(list(decode_clips(autoencoder, latents))).whole.mean()),
    }
    known, protocol = FRAMING.value("crop_control_whole_rate"), FRAMING.protocol(source, len(crops), cropped=list(one_shape))
    return [
        Measurement(name=known.name, subject=subject, value=rate, unit=known.unit, better=known.better, protocol=protocol)
        for subject, rate in rates.items()
    ]
