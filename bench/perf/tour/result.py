"""What a tour has found so far, in one file that is whole at any time. Knows no torch."""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from bench.data.files import write_text
from bench.data.frozen import Frozen, explain
from bench.records.environment import Environment
from bench.shapes import Refusal, Shape

FILE = "tour.json"
ROOT = Path(__file__).resolve().parents[3]
CODE = ("bench", "baselines", "dit")  # whose change makes what was measured another thing's

StepWay = Literal["diffusers", "eager", "auto"]


class StepRow(Frozen):
    """A training step of one backbone, run one way: draws, forward, backward, clipping, optimiser and average."""

    backbone: str
    way: StepWay
    chosen: str | None = None  # by `auto`
    trial_s: float | None = None  # that `auto` took, compiling and capturing included
    left_out: dict[str, str] = Field(default_factory=dict)  # ways that are not on offer here -> why
    precision: str
    batch_size: int
    shape: Shape  # latents (T, H, W) of each clip
    step_s: list[float]  # means of windows of several steps, the device waited for at both ends
    against: list[float] = Field(default_factory=list)  # of diffusers' step, in the same round, over this one
    flops: int  # of a step: three times the forward pass
    peak_flop_per_s: float  # of a large matrix product in this precision, measured here
    busy_share: float | None = None  # of a step in which the device works, by the profiler; None on a CPU
    num_kernels: int | None = None  # that a step starts, of CUDA
    num_launches: int  # operators of a step that start work, counted without graphs
    peak_allocated_bytes: int | None = None  # beyond what was there before it was built; CUDA's allocator
    peak_reserved_bytes: int | None = None  # of the whole process
    loss: float


class TourPart(Frozen):
    """A part of the tour, as it ended last."""

    status: Literal["done", "failed", "out of time"]
    what: str  # its last line, or why it ended
    limit_s: float
    wall_time_s: float
    ended_at: str  # UTC, ISO 8601
    commit: str
    rows: list[StepRow] = Field(default_factory=list)


class Tour(Frozen):
    """Everything a tour has found on one machine, by one code."""

    schema_version: Literal[1] = 1
    code: str  # hash of the sources
    dry: bool
    environment: Environment
    parts: dict[str, TourPart] = Field(default_factory=dict)  # in the order in which they ended

    def goes_on_as(self, other: "Tour") -> bool:
        """Whether what was found is of the same code and machine."""
        here, there = self.environment, other.environment
        machine = [(each.cpu_id, each.gpus, each.packages.get("torch")) for each in (here, there)]
        return (self.code, self.dry) == (other.code, other.dry) and machine[0] == machine[1]


def code_hash() -> str:
    """Of all sources and matrices of the suite, 16 hex digits."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def read(out: Path) -> Tour | None:
    """What lies in a folder; None where there is nothing. Refusal for a file that is no tour."""
    path = out / FILE
    if not path.exists():
        return None
    try:
        return Tour.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise Refusal(f"{path} is no tour ({explain(error, Tour)}); remove it or give another --out") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} cannot be read ({error}); remove it or give another --out") from error


def write(out: Path, tour: Tour) -> None:
    """The file, whole."""
    write_text(out / FILE, tour.model_dump_json(indent=1) + "\n")
