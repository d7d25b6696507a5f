"""What a run said of its held-out cells before they trained: `prediction.json` in its folder, written once, with a hash of itself."""

from pathlib import Path

from pydantic import ValidationError

from bench.data.files import StoreError, write_text
from bench.data.frozen import Frozen, content_hash, explain
from bench.records.store import read_json

PREDICTION = "prediction.json"
REMEDY = "what was predicted is not known: remove the run's folder and run the matrix again"


class FittedRecord(Frozen):
    """A record that a law was fitted to."""

    folder: str  # of its cell
    fingerprint: str
    attempt: int


class FittedFamily(Frozen):
    """The law of one family of backbones: the floor + size_scale (N / unit)^-size_exponent + data_scale (D / unit)^-data_exponent."""

    family: str
    size_scale: float
    size_exponent: float
    data_scale: float
    data_exponent: float


class PredictedLoss(Frozen):
    """The loss of one held-out cell after one budget, at eight fixed timesteps, as it was expected to be."""

    folder: str  # of the cell
    part: float  # of its budget
    params: int  # N
    clips: int  # D, drawn until then
    loss: float
    low: float  # ends that hold the loss of such a run at `level`
    high: float


class Foresight(Frozen):
    """All that was said before the held-out cells trained."""

    matrix: str
    written_at: str
    commit: str
    level: float  # at which an interval holds the loss of a run
    floor: float
    params_unit: float
    clips_unit: float
    families: tuple[FittedFamily, ...]
    fitted_to: tuple[FittedRecord, ...]
    losses: tuple[PredictedLoss, ...]

    @property
    def sha256(self) -> str:
        """Of all of it: a record of a held-out cell names it."""
        return content_hash(self.model_dump(mode="json"))


class _Sealed(Frozen):
    sha256: str
    prediction: Foresight


def write_prediction(folder: Path, prediction: Foresight) -> None:
    """Into a run's folder. StoreError where it cannot be written, or one is there."""
    path = folder / PREDICTION
    if path.exists():
        raise StoreError(f"{path} is there already; a prediction is never edited")
    write_text(path, _Sealed(sha256=prediction.sha256, prediction=prediction).model_dump_json(indent=1) + "\n")


def read_prediction(folder: Path) -> Foresight | None:
    """That of a run's folder, or None. StoreError where it is not what was written."""
    path = folder / PREDICTION
    if not path.exists():
        return None
    try:
        found = _Sealed.model_validate(read_json(path, REMEDY))
    except ValidationError as error:
        raise StoreError(f"{path} is no prediction ({explain(error, _Sealed)}); {REMEDY}") from error
    if found.sha256 != found.prediction.sha256:
        raise StoreError(f"{path} was edited: its hash is {found.prediction.sha256[:12]}, and it says {found.sha256[:12]}; {REMEDY}")
    return found.prediction
