"""What `score` finds, as one JSON: every number with its floor, interval and protocol, and what was left out. Knows no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from bench.data.clips import Skipped
from bench.data.files import StoreError
from bench.data.frozen import Frozen
from bench.metrics.protocol import read_name
from bench.records.environment import Environment
from bench.records.record import Measurement
from bench.records.store import read_json

SCHEMA_VERSION = 2
FILE = "score.json"
GENERATED = "generated"  # the subject of its measurements


class ScoredSet(Frozen):
    """One of the two sets: what there was and what became of it."""

    path: str
    num_items: int  # videos, folders of frames, arrays
    num_read: int  # clips cut from them
    num_used: int  # of those, compared with the other set
    num_untried: int  # items never opened, because there were enough clips
    num_copies: int  # clips whose frames equal those of an earlier clip
    skipped: list[Skipped]  # what gave no clip, or fewer than it holds
    labels: dict[str, int]  # class -> clips used; empty without classes
    shapes: dict[str, int]  # "TxHxW" of the items as they came -> clips used
    fps: tuple[float, float] | None  # slowest and fastest item; None where no file says it
    digest: str  # identity of the clips


class ScoredGroup(Frozen):
    """Clips of one class, or that came in one shape, compared by themselves."""

    by: Literal["class", "shape"]
    name: str
    num_real: int  # clips of the group among those used
    num_generated: int
    n: int  # compared, the first of each; 0 where there are too few
    values: dict[str, float]  # name of the distance -> value; empty where there are too few


class PublishedValue(Frozen):
    """A value measured as another tool measures it."""

    tool: str  # whose protocol: "stylegan-v"
    measurement: Measurement  # "fd_i3d_eps1e-5@64 (cd-fvd protocol)"; NaN and invalid where the tool's matrix root fails
    exact_root: float  # the same with an exact matrix root
    n_real: int  # clips counted
    n_fake: int
    distinct_real: int  # different clips among them
    distinct_fake: int
    choices: dict[str, str]  # what the tool does, and where it says so
    skipped: list[Skipped]
    canonical_name: str | None  # this suite's value on the same folders
    canonical_value: float | None


class Score(Frozen):
    """One set of generated clips against one set of real ones."""

    schema_version: int = SCHEMA_VERSION
    real: ScoredSet
    generated: ScoredSet
    n: int  # clips of each set that were compared
    num_frames: int
    height: int
    width: int
    rule: dict[str, Any]  # how clips are cut
    measurements: list[Measurement]  # of GENERATED; of `real`, where a measure of pixels has a floor
    groups: list[ScoredGroup] = Field(default_factory=list)
    published: list[PublishedValue] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    environment: Environment
    commit: str

    @property
    def distances(self) -> list[Measurement]:
        """Those between the sets, without what is derived from them."""
        return [found for found in self.measurements if read_name(found.name)]


def read_score(path: Path) -> Score:
    """The score in a file, or in `score.json` of a folder. StoreError for anything else."""
    file = path / FILE if path.is_dir() else path
    if not file.exists():
        raise StoreError(f"no score in {path}, and no run; `python -m bench score REAL GENERATED --out {path}` makes a score")
    remedy = "score the clips again with --out"
    fields = read_json(file, remedy)
    version = fields.get("schema_version", SCHEMA_VERSION) if isinstance(fields, dict) else SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        raise StoreError(f"{file} has schema version {version}, this suite reads {SCHEMA_VERSION}; {remedy}")
    try:
        return Score.model_validate(fields)
    except ValidationError as error:
        raise StoreError(f"{file} is not a score ({error.error_count()} fields are not as they should be); {remedy}") from error
