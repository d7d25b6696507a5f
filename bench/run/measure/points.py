"""Quality on the way: samples of the averaged weights that training kept at points of its budget, scored by one extractor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.data.latents.autoencoder import decode_clips
from bench.data.progress import Progress
from bench.records.artefacts import load_tensors, point_file
from bench.records.record import QualityPoint
from bench.run.measure.quality import Quality
from bench.run.samples import sample_scored
from bench.shapes import Refusal

Kept = tuple[float, int, float, int]  # part of the budget, step, seconds and forward FLOPs, as training leaves them


def measure_points(
    quality: Quality, backbone: Any, judge: str, kept: Sequence[Kept], folder: Path, device: torch.device, progress: Progress
) -> list[QualityPoint]:
    """The distance of an extractor at every point of the cell; `backbone` has its own weights again when this returns."""
    cell, given, known = quality.cell, quality.reference.training, {point[0]: point for point in kept}
    final = {name: tensor.detach().clone() for name, tensor in backbone.state_dict().items()}
    found = []
    for done, part in enumerate(cell.evaluation.points):
        progress(done, len(cell.evaluation.points), f"quality at {part:.0%} of the budget")
        if part not in known:
            found.append(QualityPoint(part=part, step=0, wall_time_s=0, forward_flops=0, reason="a single step went past it"))
            continue
        place = dict(zip(("part", "step", "wall_time_s", "forward_flops"), known[part], strict=True))
        try:
            backbone.load_state_dict(load_tensors(folder / point_file(part)))
        except Refusal as error:  # damaged since training: a hole, with its reason
            found.append(QualityPoint(**place, reason=str(error)))
            continue
        latents, _ = sample_scored(cell, backbone, given, device, progress, quality.ranks)
        measurements = quality.by_one(judge, decode_clips(given.autoencoder, latents))
        found.append(QualityPoint(**place, measurements=measurements))
    backbone.load_state_dict(final)
    return found
