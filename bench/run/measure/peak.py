"""The one peak of a study: the matrix product that MFU divides by, measured once, so that rivals have one denominator.

Kept in the cache under all that a rate of this machine depends on, and the study: a resumed study goes on with the peak it began with.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError

from bench.data.files import now, write_text
from bench.data.frozen import Frozen, content_hash
from bench.data.sealed import warn_damaged
from bench.meters import peak
from bench.meters.process import device_name
from bench.records.environment import cpu_id, own_cpus
from bench.run.stages import cache_folder


class StudyPeak(Frozen):
    """A measurement of the peak, and a hash that an edit does not keep."""

    key: str  # of the study, the machine and the arithmetic
    flop_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    measured_at: datetime
    sha256: str = ""  # of the fields above

    def sealed(self) -> "StudyPeak":
        """The same with its hash."""
        return self.model_copy(update={"sha256": content_hash([self.key, self.flop_per_s, self.measured_at.isoformat()])})


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
    if path.exists():
        try:
            found = StudyPeak.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            found = None
        if found is not None and found.key == key and found == found.sealed():
            return found
        warn_damaged(f"cached peak {path} is not what was written and is measured anew")
    made = StudyPeak(key=key, flop_per_s=peak.matmul_peak(device, dtype), measured_at=datetime.fromisoformat(now())).sealed()
    write_text(path, made.model_dump_json() + "\n")
    return made
