"""Memory as measurements: what the meters of a phase found, and the peak that is predicted of a step that was measured."""

import sys
from collections.abc import Mapping

from bench.meters.memory import FOUND
from bench.records.record import PREDICTED, Measurement
from bench.shapes import LatentSpec
from bench.training.predict import Predictor
from bench.training.trainer import Trainer


def memory_measurements(found: Mapping[str, int], prefix: str = "") -> list[Measurement]:
    """Of what a phase found, under the same names: bytes, and counts of events.

    `unallocated_share`: of the bytes that CUDA's allocator reserved at most, the part beyond what it had allocated at most, in [0, 1]:
    cache, and gaps between the blocks in use. The two peaks need not be of one moment.
    """
    measured: list[tuple[str, float, str]] = [
        (name, found[name], "B" if name.endswith("_bytes") else "1") for name in FOUND if name in found
    ]
    if found.get("peak_reserved_bytes"):
        measured.append(("unallocated_share", 1 - found["peak_allocated_bytes"] / found["peak_reserved_bytes"], "1"))
    return [Measurement(name=f"{prefix}{name}", value=value, unit=unit, better="lower") for name, value, unit in measured]


def predicted_storage(trainer: Trainer, spec: LatentSpec, known: float | None = None) -> list[Measurement]:
    """The peak storage that was to be expected of the training step that was metered; `known`: as it was predicted before.

    Nothing of a step that cannot be predicted, as of several processes, which hold buckets of gradients or parts of weights. Nor on a
    CPU: there it is as measured, to the byte, and takes longer than small cells do.
    """
    unknown = trainer.cell.parallel.kind != "none" or trainer.cell.text is not None  # what reads captions is in no prediction
    if trainer.device.type == "cpu" or unknown or not trainer.state.peak_storage_bytes:
        return []
    predicted_bytes = _predicted(trainer, spec) if known is None else known
    return [] if predicted_bytes is None else [Measurement(name=PREDICTED, value=predicted_bytes, unit="B", better="none")]


def _predicted(trainer: Trainer, spec: LatentSpec) -> int | None:
    cell = trainer.cell
    try:
        predictor = Predictor(cell.backbone, spec, cell.precision, trainer.device.type, cell.acceleration)
        return predictor.peak_drawn(trainer.draw(trainer.metered)).num_bytes
    except Exception as error:  # noqa: BLE001  an operator that takes no tensors without contents; a trained cell is not lost for that
        print(f"memory of {cell.backbone} is not predicted: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return None
