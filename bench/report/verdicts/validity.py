"""Whether a finished run may be cited, in the manner of MLPerf: a list of checks of its records, each with what it found. Knows no torch.

A check asks of what was done, never of who leads: a run is valid whatever it says. Cells that ran out of memory or diverged are results,
and count.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.report.load import Run
from bench.report.render.table import Table
from bench.report.verdicts import faults
from bench.report.verdicts.faults import Fault


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question that a run's records must answer with yes."""

    name: str  # in a line, of what is wrong where it fails: "dirty commit"
    asks: str
    faults: Callable[[Run], Iterable[Fault]]
    detail: Callable[[Run], str] = lambda run: ""  # what is worth saying where it holds
    concerns: Callable[[Run], bool] = lambda run: True  # runs that are asked it


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A check and what it found in a run."""

    check: Check
    faults: tuple[Fault, ...]
    detail: str


@dataclass(frozen=True, kw_only=True)
class Validity:
    """What all checks found."""

    answers: tuple[Answered, ...]

    @property
    def valid(self) -> bool:
        """Whether every check holds."""
        return not self.lines

    @property
    def lines(self) -> list[str]:
        """Every reason why not: cells, value and remedy."""
        return [fault.line for answer in self.answers for fault in answer.faults]

    @property
    def summary(self) -> str:
        """'Valid: 13 of 13 checks', or 'Not valid: dirty commit (2 cells)'."""
        num = len(self.answers)
        if self.valid:
            return f"Valid: {num} of {num} checks"
        parts = []
        for answer in self.answers:
            cells = {cell for fault in answer.faults for cell in fault.cells}
            parts += [f"{answer.check.name} ({len(cells)} cell{'s' if len(cells) > 1 else ''})"] if answer.faults else []
        return f"Not valid: {', '.join(parts)}"

    def table(self) -> Table:
        """One line a check."""
        rows = []
        for answer in self.answers:
            told = "; ".join(fault.line for fault in answer.faults) or answer.detail
            rows.append((answer.check.asks, "FAILED" if answer.faults else "passed", told))
        return Table("validity", f"Whether this run may be cited. {self.summary}", ("Check", "Result", "Detail"), tuple(rows))


def check(run: Run) -> Validity:
    """Every check of a run."""
    answers = []
    for each in filter(lambda each: each.concerns(run), CHECKS):
        found = tuple(each.faults(run))
        answers.append(Answered(check=each, faults=found, detail="" if found else each.detail(run)))
    return Validity(answers=tuple(answers))


CHECKS: tuple[Check, ...] = (
    Check(
        name="cells not finished",
        asks="Every cell has a record and ended: ok, oom and diverged count",
        faults=faults.finished,
        detail=faults.non_converged,
    ),
    Check(
        name="seeds differ",
        asks="Every contender has the same seeds, each once",
        faults=faults.seeds,
        detail=lambda run: faults.listed(dict.fromkeys(cell.seed for cell in run.cells)),
    ),
    Check(
        name="clips differ",
        asks="All were made from the same clips",
        faults=faults.data,
        detail=lambda run: faults.listed({record.data.digest: None for record in run.records if record.data}),
    ),
    Check(name="evaluation differs", asks="As many samples, the same extractors, sampler and validation points", faults=faults.evaluation),
    Check(name="protocols differ", asks="Every measure was taken under one protocol", faults=faults.protocols),
    Check(
        name="settings differ", asks="Objective, schedule, average, budget and all else are equal but for the axes", faults=faults.settings
    ),
    Check(name="rates not tuned", asks="Tuned alike and to no edge, or declared untuned", faults=faults.tuning, detail=faults.tuned_how),
    Check(name="not the last checkpoint", asks="The averaged weights of the last step were scored", faults=faults.averaged),
    Check(name="budget not used", asks="The budget was used in full", faults=faults.budget),
    Check(name="scaled down", asks="Nothing of the matrix was made smaller to fit a time", faults=faults.scaled),
    Check(name="canaries", asks="Canaries ran for every contender, and passed", faults=faults.canaries),
    Check(name="machines differ", asks="One kind of machine, threads and versions took all timings", faults=faults.machine),
    Check(
        name="commit not clean",
        asks="One commit made all records, without edits",
        faults=faults.commits,
        detail=lambda run: faults.listed({commit: None for record in run.records for commit in record.commits}),
    ),
    Check(name="headline changed", asks="Claim, primary measure and cells were the same when each cell ran", faults=faults.headline),
    Check(
        name="trained before its prediction",
        asks="What is held out trained after it was predicted, and the law was fitted to records that are here",
        faults=faults.foreseen,
        detail=lambda run: run.prediction.sha256 if run.prediction else "",
        concerns=lambda run: run.forecast is not None,
    ),
    Check(name="timings disturbed", asks="No measurement is marked as not valid", faults=faults.timings),
)
