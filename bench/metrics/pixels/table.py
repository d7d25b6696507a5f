"""The measures of clips by their pixels. No torch.

Another is a file with a `PixelMeasure` and an entry here, or one in any installed package that registers it under `ENTRY_POINT_GROUP`:
it is then measured by `run` and `score`, listed by `ls` and shown in reports.
"""

import functools

from bench.backbone import registered
from bench.data.registry import load_registered
from bench.metrics.pixels.contract import PixelMeasure
from bench.metrics.pixels.frame_quality import FRAME_QUALITY
from bench.metrics.pixels.framing import FRAMING
from bench.metrics.pixels.permanence import PERMANENCE
from bench.metrics.pixels.saliency import SALIENCY
from bench.shapes import Refusal

ENTRY_POINT_GROUP = "unet_vs_dit.pixel_measures"


@functools.cache
def pixel_measures() -> tuple[PixelMeasure, ...]:
    """Every measure: those of this folder, then registered ones by name. Refusal where two give values of one name."""
    known = (PERMANENCE, FRAMING, SALIENCY, FRAME_QUALITY)
    outside = [load_registered("pixel measure", ENTRY_POINT_GROUP, name, PixelMeasure) for name in sorted(registered(ENTRY_POINT_GROUP))]
    found = (*known, *outside)
    names: dict[str, str] = {}
    for measure in found:
        for value in measure.values:
            if value.name in names:
                raise Refusal(f"pixel measures {names[value.name]!r} and {measure.name!r} both give {value.name!r}; rename one of them")
            names[value.name] = measure.name
    return found
