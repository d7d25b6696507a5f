"""What a launcher is: where the jobs of a study run. Knows no torch and no engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bench.data.frozen import Frozen
from bench.run.job import Job
from bench.run.watch import Ended
from bench.study.matrix import Study


class Placed(Protocol):
    """A job that a launcher has started, or queued."""

    @property
    def where(self) -> str:
        """For people: "device 1", "slurm job 17_3"."""

    def ended(self) -> Ended | None:
        """How it ended; None while it runs or waits. Never waits itself."""

    def stop(self) -> None:
        """Ask it to write its checkpoint and end; it is not waited for, and where it does not, it is killed in a minute."""

    def kill(self) -> None:
        """End it at once."""

    def output(self) -> str:
        """What it has printed since it was asked last; "" where that goes to the console by itself."""


class Launcher(Protocol):
    """Where jobs run. A job is the same everywhere, and so is the record that it leaves: the record is the truth.

    A launcher says only where a job is, and how its process ended, as far as it knows.
    """

    name: str
    device: Literal["cpu", "cuda"] | None  # what `device: auto` is there; None: what it is on this machine
    machine: str  # what times that were measured there are told apart by; "": this machine says it
    spins: bool | None  # whether threads wait by spinning there; None: as quiet as this machine is
    leaves: bool  # whether its jobs go on when `run` ends
    patience_s: float  # that a file of a job that has ended may take to be seen here

    def check(self, study: Study) -> None:
        """Asked once, before anything starts. Refusal where its engine is not there, or has no room for a cell of the study."""

    def start(self, jobs: Sequence[Job], lock: int | None) -> list[Placed]:
        """Start the first of these jobs, as many as there is room for; the others are asked for again when one has ended.

        `lock`: descriptor that keeps others out of the run's folder; a job on this machine inherits it. Refusal where nothing can start.
        """

    def attached(self, job: Job) -> Placed | None:
        """The job of an earlier `run` that does the same and has not ended, as far as anybody knows."""


@dataclass(frozen=True, kw_only=True)
class LauncherKind:
    """A launcher by its name, and what it is asked."""

    name: str  # of `--on`
    options: type[Frozen]  # what `--with` sets
    make: Callable[[Any], Launcher]  # Refusal where an extra is not installed
