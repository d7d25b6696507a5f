"""What a check found: verdicts with the numbers behind them, and every raw time."""

from typing import Any

from pydantic import Field

from bench.data.frozen import Frozen
from bench.perf.gate.exits import Exit, worst
from bench.perf.gate.judge import Outcome
from bench.records.environment import Environment


class Counter(Frozen):
    """An exact count on both sides."""

    name: str
    base: int | None
    head: int | None
    outcome: Outcome


class BenchmarkVerdict(Frozen):
    """One benchmark."""

    name: str
    outcome: Outcome
    exit: Exit
    reason: str
    detect: float | None = None  # smallest slow-down this verdict promises to catch
    ratio: float | None = None  # of step times, head over base
    low: float | None = None
    high: float | None = None
    num_pairs: int = 0
    base_s: float | None = None  # median step
    head_s: float | None = None
    parts: dict[str, tuple[float, float]] = Field(default_factory=dict)  # data, forward, ... -> seconds of base and of head
    counters: tuple[Counter, ...] = ()
    accepted: tuple[str, ...] = ()  # quantities that got worse and are meant to


def not_compared(name: str, status: Exit, reason: str, accepted: tuple[str, ...] = ()) -> BenchmarkVerdict:
    """The verdict on a benchmark of which there is nothing to compare."""
    if accepted:
        status, reason = Exit.UNCHANGED, f"{reason}, which the policy accepts"
    return BenchmarkVerdict(name=name, outcome="not comparable", exit=status, reason=reason, accepted=accepted)


class Compared(Frozen):
    """One of the two that were compared."""

    name: str  # as the user wrote it
    commit: str


class CheckResult(Frozen):
    """A whole check."""

    schema_version: int = 1
    base: Compared
    head: Compared
    started_at: str
    seconds: float
    environment: Environment
    suite_version: int
    policy: dict[str, Any]
    notes: tuple[str, ...] = ()
    verdicts: tuple[BenchmarkVerdict, ...]
    pairs: tuple[dict[str, Any], ...]  # raw: one entry a pair of workers, benchmark -> times of every round

    @property
    def exit(self) -> Exit:
        """How the check ends."""
        return worst([verdict.exit for verdict in self.verdicts])
