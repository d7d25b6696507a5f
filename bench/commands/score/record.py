"""What `score` finds, as one JSON: every number with its floor, interval and protocol, and what was left out. Knows no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from bench.data.files import StoreError
from bench.data.frozen import Frozen
from bench.metrics.protocol import ProtocolBlock
from bench.records.environment import Environment

SCHEMA_VERSION = 1
FILE = "score.json"


class Omitted(Frozen):
    """Something in a folder that gave no clip, or fewer than it holds."""

    name: str
    reason: str


class ScoredSet(Frozen):
    """One of the two sets: what there was and what became of it."""

    path: str
    num_items: int  # videos, folders of frames, arrays
    num_read: int  # clips cut from them
    num_used: int  # of those, compared with the other set
    num_untried: int  # items never opened, because there were enough clips
    num_copies: int  # clips whose frames equal those of an earlier clip
    skipped: list[Omitted]
    labels: dict[str, int]  # class -> clips used; empty without classes
    shapes: dict[str, int]  # "TxHxW" of the items as they came -> clips used
    fps: tuple[float, float] | None  # slowest and fastest item; None where no file says it
    digest: str  # identity of the clips


class ClipsProtocol(ProtocolBlock):
    """A protocol block of clips from anywhere, and how they were cut."""

    fps: Annotated[float, Field(gt=0)] | None  # type: ignore[assignment]  # None where no file says it
    clips: dict[str, Any]  # the rule


class Distance(Frozen):
    """One distance between the sets, over the features of one extractor; lower is better."""

    name: str  # "fvd@64"
    kind: Literal["frechet", "kernel"]
    extractor: str
    value: float
    low: float | None  # 95 % interval; None below the n it needs
    high: float | None
    interval: str  # how it was found, or why there is none
    floor: float | None  # the same distance of real clips to real clips
    floor_source: str  # how it was found, or why there is none
    infinite_n: float | None  # extrapolated to infinitely many clips
    infinite_n_low: float | None
    infinite_n_high: float | None
    infinite_n_source: str
    protocol: ClipsProtocol
    fingerprint: str


class Share(Frozen):
    """Precision, recall, density or coverage over the features of one extractor; higher is better."""

    name: str  # "precision_i3d@64"
    extractor: str
    value: float
    protocol: ClipsProtocol
    fingerprint: str


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

    protocol: str  # "stylegan-v"
    name: str  # "fd_i3d_eps1e-5@64 (cd-fvd protocol)"
    value: float | None  # None where the tool's matrix root fails
    exact_root: float  # the same with an exact matrix root
    n_real: int  # clips counted
    n_fake: int
    distinct_real: int  # different clips among them
    distinct_fake: int
    choices: dict[str, str]  # what the tool does, and where it says so
    skipped: list[Omitted]
    block: ClipsProtocol
    fingerprint: str
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
    distances: list[Distance]
    shares: list[Share] = Field(default_factory=list)
    groups: list[ScoredGroup] = Field(default_factory=list)
    published: list[PublishedValue] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    environment: Environment
    commit: str


def read_score(path: Path) -> Score:
    """The score in a file, or in `score.json` of a folder. StoreError for anything else."""
    file = path / FILE if path.is_dir() else path
    try:
        return Score.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"no score in {path}; `python -m bench score REAL GENERATED --out {path}` makes one") from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        what = f"{error.error_count()} fields are not as they should be" if isinstance(error, ValidationError) else str(error)
        raise StoreError(f"{file} is not a score ({what}); score the clips again with --out") from error
