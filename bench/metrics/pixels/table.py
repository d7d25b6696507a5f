"""The measures of clips by their pixels. No torch.

Another is a file with a `PixelMeasure` and an entry here, or one in any installed package that registers it under `ENTRY_POINT_GROUP`:
it is then measured by `run` and `score`, listed by `ls` and shown in reports.
"""

import functools

from bench.data.registry import load_all
from bench.metrics.pixels.contract import PixelMeasure
from bench.metrics.pixels.frame_quality import FRAME_QUALITY
from bench.metrics.pixels.framing import FRAMING
from bench.metrics.pixels.permanence import PERMANENCE
from bench.metrics.pixels.saliency import SALIENCY

ENTRY_POINT_GROUP = "unet_vs_dit.pixel_measures"


@functools.cache
def pixel_measures() -> tuple[PixelMeasure, ...]:
    """Every measure: those of this folder, then registered ones by name. Refusal where two share a name, their values' among them."""
    ours = (PERMANENCE, FRAMING, SALIENCY, FRAME_QUALITY)
    return load_all("pixel measure", ENTRY_POINT_GROUP, ours, lambda one: (one.name, *(value.name for value in one.values)), PixelMeasure)
