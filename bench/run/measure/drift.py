"""Error by frame of a cell's clips, beside that of as many other real ones."""

from typing import Any

import numpy as np

from bench.data.ragged import Frames
from bench.metrics.drift import STATISTICS, VERSION, frame_distances, growth
from bench.records.record import FrameError, Measurement
from bench.run.stages import ReferenceSet
from bench.study.cell import Cell


def measure_drift(cell: Cell, reference: ReferenceSet, generated: Frames) -> tuple[list[Measurement], list[FrameError]]:
    """`frame_drift`, by how much later frames are further off than earlier ones, and the distance of every frame."""
    test, val = (np.asarray(reference.held_out[split]) for split in ("test", "val"))
    own, floor = frame_distances(np.asarray(generated), test), frame_distances(val, test)
    protocol: dict[str, Any] = {
        "measure": STATISTICS,
        "version": VERSION,
        "value": "mean over the last half of the frames less that over the first",
        "clips": reference.training.clips.digest,
        "num_clips": len(test),
    }
    if cell.objective.known_frames:
        protocol["known_frames"] = cell.objective.known_frames
    told = {"unit": "1", "better": "lower", "protocol": protocol, "interval": "none: one set of clips"}
    source = "validation clips against test clips"
    drift = Measurement(name="frame_drift", value=growth(own), floor=growth(floor), floor_source=source, **told)
    real = Measurement(name="frame_drift", subject="real", value=growth(floor), **told)
    errors = [
        FrameError(frame=frame, distance=distance, floor=at_best)
        for frame, (distance, at_best) in enumerate(zip(own.tolist(), floor.tolist(), strict=True))
    ]
    return [drift, real], errors
