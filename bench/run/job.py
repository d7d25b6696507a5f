"""A job: what one process has to do. Knows no torch; bench/run/process.py starts it, bench/run/worker.py does it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from bench.data.frozen import Frozen
from bench.records.record import Asked, Canary
from bench.shapes import Shape
from bench.study.cell import Cell
from bench.study.matrix import Match, NamedCell, Study

EXIT_BAD_INPUT = 2  # the job was refused; its one line is on standard error
EXIT_STOPPED = 130  # asked to stop; what was done is kept
PACES_S = 300.0  # that measuring how long cells take may itself take
TRACEBACK = "UNET_VS_DIT_TRACEBACK"  # set in the environment: what a line says is also shown with its traceback


class Task(Frozen):
    """What every job has."""

    label: str  # in front of its progress
    matrix: str
    results: Path
    spins: bool = False  # whether its threads wait for each other by spinning

    @property
    def limit_s(self) -> float | None:
        """What it may take; None: whatever it needs."""
        return None

    @property
    def is_spread(self) -> bool:
        """Whether several processes do it, or one as if it were one of several."""
        return False


class PrepareJob(Task):
    """Check cells and, where they are to run, make the stages they share."""

    kind: Literal["prepare"] = "prepare"
    study: Study
    waiting: tuple[str, ...]  # cells that are to run; the others are only compared with
    until: Literal["named", "checked", "made"]  # what needs no torch; all that `run` refuses; the stages too


class CellJob(Task):
    """Train, sample and measure one cell."""

    kind: Literal["cell"] = "cell"
    cell: NamedCell
    asked: Asked = Asked()  # by the run; the extractor of its primary measure judges the shape grid
    canaries: tuple[Canary, ...] | None = None  # of an earlier cell of this run which says as much of this one; None: they run
    predicted_bytes: float | None = None  # peak storage of a step, as predicted for such a cell; None: it is predicted, where it is
    track: tuple[str, ...] = ()  # trackers that are told how it goes
    after: int = 0  # attempts that there were when it was handed out: a result that came since is another worker's, and is taken

    @property
    def folder(self) -> Path:
        """Of its cell."""
        return self.results / self.matrix / self.cell.folder

    @property
    def limit_s(self) -> float:
        """As its cell has it."""
        return self.cell.cell.timeout_s

    @property
    def is_spread(self) -> bool:
        """As its cell says."""
        return self.cell.cell.parallel.kind != "none"


class SampleJob(Task):
    """Make more clips from a finished cell."""

    kind: Literal["sample"] = "sample"
    cell: Cell
    folder: Path  # of the cell
    num_clips: int
    shape: Shape | None  # of the clips, (T, H, W) in pixels; None = as those that were scored
    out: Path
    prompts: tuple[str, ...] = ()  # what is to be seen, clip by clip in turn; (): what the test clips' captions say

    @property
    def limit_s(self) -> float:
        """As its cell has it."""
        return self.cell.timeout_s


class MatchJob(Task):
    """Find the size of a cell's backbone that matches another's cost."""

    kind: Literal["match"] = "match"
    cell: Cell
    target: str  # the backbone that is matched
    match: Match
    out: Path  # of the proof

    @property
    def limit_s(self) -> float:
        """As its cell has it."""
        return self.cell.timeout_s


class SizeJob(Task):
    """Count what backbones have and take."""

    kind: Literal["size"] = "size"
    cells: tuple[tuple[Cell, Path], ...]  # each with the file of its size


class PaceJob(Task):
    """Measure how long the parts of cells take."""

    kind: Literal["pace"] = "pace"
    cells: tuple[tuple[Cell, Path], ...]  # each with the file of its pace

    @property
    def limit_s(self) -> float:
        """Without which one goes on without it."""
        return PACES_S


Job = Annotated[PrepareJob | CellJob | SampleJob | MatchJob | SizeJob | PaceJob, Field(discriminator="kind")]  # what one process has to do


def read_job(text: str) -> Job:
    """The job in JSON."""
    return TypeAdapter[Job](Job).validate_json(text)
