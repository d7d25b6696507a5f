"""The one peak of a study: the matrix product that MFU divides by, measured once, so that rivals have one denominator.

Kept in the cache under all that a rate of this machine depends on, and the study: a resumed study goes on with the peak it began with.
"""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from bench.data.files import now
from bench.data.frozen import Frozen, content_hash
from bench.data.sealed import read_sealed, write_sealed
from bench.meters import peak
from bench.meters.process import device_name
from bench.records.environment import cpu_id, own_cpus
from bench.run.stages import cache_folder


class StudyPeak(Frozen):
    """A measurement of the peak."""

    key: str  # of the study, the machine and the arithmetic
    flop_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    measured_at: str  # UTC, ISO 8601


def study_peak(matrix: str, dtype: torch.dtype, device: torch.device, results: Path) -> StudyPeak:
    """The peak of a study on this device in `dtype`, from the cache or measured now. One that was edited is named and measured anew."""
    identity = {
        "study": matrix,
        "device": device_name(device),
        "cpu": cpu_id(),
        "cpus": len(own_cpus()),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype),
        "side": peak.SIDES[device.type],
        "torch": torch.__version__,
    }
    key = content_hash(identity)[:16]
    path = cache_folder(results) / "peak" / f"{key}.json"
    if (found := read_sealed(path, key, StudyPeak, "peak")) is not None:
        return found
    made = StudyPeak(key=key, flop_per_s=peak.matmul_peak(device, dtype), measured_at=now())
    write_sealed(path, key, made)
    return made
