"""Whether a finished run may be cited, in the manner of MLPerf: a list of checks of its records, each with what it found. Knows no torch.

A check asks of what was done, never of who leads: a run is valid whatever it says. Cells that ran out of memory or diverged are results,
and count.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.data.frozen import flatten
from bench.records.artefacts import WEIGHTS
from bench.records.record import FINAL, WORK, Record, Training
from bench.report.load import Run
from bench.report.render.catalogue import commit_text
from bench.report.render.table import Table
from bench.report.verdicts.compare import differing_machines, protocol_differences
from bench.study.budget import BUDGETS, Spent

AGAIN = "run the matrix again"
EVALUATION = ("evaluation.", "sampler.")  # fields of a cell that say what is measured, and how it is sampled
MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a run is not valid."""

    cells: tuple[str, ...]  # names
    what: str  # the value that is wrong
    remedy: str

    @property
    def line(self) -> str:
        """Cells, value and remedy."""
        more = f" and {len(self.cells) - MOST_NAMED} more" if len(self.cells) > MOST_NAMED else ""
        return f"{', '.join(self.cells[:MOST_NAMED])}{more}: {self.what}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question that a run's records must answer with yes."""

    name: str  # in a line, of what is wrong where it fails: "dirty commit"
    asks: str
    faults: Callable[[Run], Iterable[Fault]]
    detail: Callable[[Run], str] = lambda run: ""  # what is worth saying where it holds


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
    for each in CHECKS:
        faults = tuple(each.faults(run))
        answers.append(Answered(check=each, faults=faults, detail="" if faults else each.detail(run)))
    return Validity(answers=tuple(answers))


def _ok(run: Run) -> list[tuple[str, Record]]:
    """Cells that finished with all their numbers."""
    return [(cell.name, cell.record) for cell in run.cells if cell.record and cell.status == "ok"]


def _trained(run: Run) -> Iterator[tuple[str, Record, Training]]:
    return ((name, record, record.training) for name, record in _ok(run) if record.training)


def _differing(values: Iterable[tuple[str, Hashable]], what: Callable[[Any], str], remedy: str) -> list[Fault]:
    """A fault for every value but the one that most cells have."""
    cells: dict[Hashable, list[str]] = {}
    for name, value in values:
        cells.setdefault(value, []).append(name)
    usual = max(cells, key=lambda value: len(cells[value]), default=None)
    return [
        Fault(cells=tuple(names), what=f"{what(value)}, {len(cells[usual])} cells have {what(usual)}", remedy=remedy)
        for value, names in cells.items()
        if value != usual
    ]


# --- the checks


def _finished(run: Run) -> Iterator[Fault]:
    again = f"go on with `{run.command or f'python -m bench run {run.matrix}'}`"
    for cell in run.cells:
        if cell.status not in FINAL:
            yield Fault(cells=(cell.name,), what=f"{cell.status} ({cell.reason or 'no reason was given'})", remedy=again)
        elif cell.record and cell.record.fingerprint != cell.fingerprint:
            wrong = f"its record is of fingerprint {cell.record.fingerprint[:8]}, run.json lists {cell.fingerprint[:8]}"
            yield Fault(cells=(cell.name,), what=wrong, remedy=again)


def _non_converged(run: Run) -> str:
    """How many cells ended without an answer; they count."""
    ended = [status for status in FINAL[1:] for cell in run.cells if cell.status == status]
    told = ", ".join(f"{ended.count(status)} {status}" for status in dict.fromkeys(ended))
    return (
        f"{len(ended)} of {len(run.cells)} cells did not converge, and count: {told}" if ended else f"{len(run.cells)} cells, all converged"
    )


def _seeds(run: Run) -> Iterator[Fault]:
    every = sorted({cell.seed for cell in run.cells})
    for contender in run.contenders:
        cells = run.of(contender)
        seeds = [cell.seed for cell in cells]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            names = tuple(cell.name for cell in cells if cell.seed in twice)
            yield Fault(cells=names, what=f"seed {_list(twice)} more than once", remedy="give every cell a seed of its own")
        elif missing := [seed for seed in every if seed not in seeds]:
            names = tuple(cell.name for cell in cells)
            what = f"{contender} has seeds {_list(seeds)} and not {_list(missing)}"
            yield Fault(cells=names, what=what, remedy=f"run it with seeds=[{_list(every)}] too")


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _data(run: Run) -> list[Fault]:
    digests = [(cell.name, cell.record.data.digest) for cell in run.cells if cell.record and cell.record.data]
    return _differing(digests, lambda digest: f"clips of digest {digest[:12]}", f"put the same data back and {AGAIN}")


def _fields(run: Run, belongs: Callable[[str], bool]) -> Iterator[Fault]:
    """Fields of the cells that differ and are no axis."""
    axes = {key for cell in run.cells for key in cell.axes} | {"backbone", "seed"}
    flat = {cell.name: flatten(cell.record.cell.model_dump(mode="json")) for cell in run.cells if cell.record}
    for key in sorted({key for fields in flat.values() for key in fields if belongs(key)}):
        if not any(f"{key}.".startswith(f"{axis}.") for axis in axes):
            values = [(name, str(fields.get(key))) for name, fields in flat.items()]
            yield from _differing(values, lambda value, key=key: f"{key} {value}", f"make it equal, or an axis, and {AGAIN}")


def _evaluation(run: Run) -> Iterator[Fault]:
    yield from _fields(run, lambda key: key.startswith(EVALUATION))
    points = [(name, tuple(point.num_clips for point in training.validation)) for name, _, training in _trained(run)]
    yield from _differing(points, lambda clips: f"{len(clips)} validation points of {_list(clips)} clips", AGAIN)


def _settings(run: Run) -> Iterator[Fault]:
    yield from _fields(run, lambda key: not key.startswith(EVALUATION))


def _protocols(run: Run) -> Iterator[Fault]:
    again = f"{AGAIN} with one version of the suite and of its packages"
    versions = [(record.name, record.protocol_version) for record in run.records]
    yield from _differing(versions, lambda version: f"protocol version {version}", again)
    by_name: dict[str, dict[str | None, list[str]]] = {}
    for name, record in _ok(run):
        for measurement in record.measurements:
            if measurement.subject == "trained":
                by_name.setdefault(measurement.name, {}).setdefault(measurement.protocol_fingerprint, []).append(name)
    for measure, prints in by_name.items():
        if len(prints) > 1:
            fewest = min(prints.values(), key=len)
            differing = "; ".join(protocol_differences(run.records, {measure})) or "some have none"
            yield Fault(cells=tuple(fewest), what=f"{measure} under another protocol ({differing})", remedy=again)


def _averaged(run: Run) -> Iterator[Fault]:
    for name, record in _ok(run):
        last = record.training.validation[-1].step if record.training and record.training.validation else 0
        taken = record.training.num_steps if record.training else 0
        if not taken or last != taken:
            yield Fault(cells=(name,), what=f"scored at step {last} of {taken}", remedy=f"remove its folder and {AGAIN}")
        elif record.artefacts.get("weights") != WEIGHTS:
            kept = record.artefacts.get("weights", "none")
            yield Fault(cells=(name,), what=f"the weights it kept are {kept}, not {WEIGHTS}", remedy=f"remove its folder and {AGAIN}")


def _budget(run: Run) -> Iterator[Fault]:
    for name, record, training in _trained(run):
        work = dict(zip(WORK, map(sum, zip(*training.step_work, strict=True)), strict=False))
        spent = Spent(
            steps=training.num_steps,
            samples=training.num_samples,
            latent_voxels=work.get("latent_voxels", 0),
            forward_flops=work.get("flops", 0),
            seconds=training.wall_time_s,
        )
        budget = record.cell.budget
        if budget.fraction(spent) < 1:
            used = BUDGETS.find(budget.axis).used(spent)
            yield Fault(cells=(name,), what=f"used {used:g} of budget.{budget.axis} {budget.amount:g}", remedy=AGAIN)


def _canaries(run: Run) -> Iterator[Fault]:
    for contender in run.contenders:
        cells = [cell for cell in run.of(contender) if cell.record and cell.status == "ok"]
        if cells and not any(cell.record.canaries for cell in cells if cell.record):
            yield Fault(cells=tuple(cell.name for cell in cells), what="no canary ran", remedy=AGAIN)
    for name, record in _ok(run):
        for canary in record.canaries:
            if not canary.passed:
                yield Fault(cells=(name,), what=f"canary failed: {canary.name} ({canary.detail})", remedy=f"mend the build and {AGAIN}")


def _machine(run: Run) -> Iterator[Fault]:
    again = f"{AGAIN} on one kind of machine, or believe no timing"
    for key, values in differing_machines(run.records).items():
        yield from _differing(
            zip((record.name for record in run.records), values, strict=True), lambda value, key=key: f"{key} {value}", again
        )
    for record in run.records:
        if len(record.machines) > 1:
            yield Fault(cells=(record.name,), what=f"trained in turn on {'; '.join(record.machines)}", remedy=again)


def _commits(run: Run) -> Iterator[Fault]:
    again = f"commit what you changed and {AGAIN} from that one commit"
    told: dict[str, list[str]] = {}
    for record in run.records:
        for commit in record.commits or ["unknown"]:
            told.setdefault(commit, []).append(record.name)
    for commit, names in told.items():
        if commit == "unknown" or "+" in commit:
            yield Fault(cells=tuple(names), what=f"commit {commit_text(commit)}", remedy=again)
    if len(told) > 1:
        usual = max(told, key=lambda commit: len(told[commit]))
        names = tuple(dict.fromkeys(name for commit in told if commit != usual for name in told[commit]))
        yield Fault(cells=names, what=f"{len(told)} commits worked on the run ({_list(map(commit_text, told))})", remedy=again)


def _headline(run: Run) -> Iterator[Fault]:
    remedy = f"what decides is named before the run: {AGAIN} under another name"
    for record in run.records:
        asked, now = (record.asked.claim, record.asked.primary), (run.claim, run.primary)
        if asked != now:
            shown = [f"claim {claim or 'none'} and primary {primary or 'none'}" for claim, primary in (asked, now)]
            yield Fault(cells=(record.name,), what=f"asked for {shown[0]}, the run asks for {shown[1]}", remedy=remedy)
    if run.changed:
        listed = {cell.path.name for cell in run.cells}
        names = tuple(record.name for record in run.records if record.asked.cells and set(record.asked.cells) != listed)
        yield Fault(cells=names, what=run.changed, remedy=remedy)


def _timings(run: Run) -> Iterator[Fault]:
    for name, record in _ok(run):
        reasons: dict[str, list[str]] = {}
        for measurement in record.measurements:
            if measurement.invalid is not None:
                reasons.setdefault(measurement.invalid, []).append(measurement.name)
        for reason, names in reasons.items():
            yield Fault(
                cells=(name,), what=f"{_list(names)} not valid: {reason}", remedy=f"remove its folder and {AGAIN} alone on the device"
            )


CHECKS: tuple[Check, ...] = (
    Check(
        name="cells not finished",
        asks="Every cell has a record and ended: ok, oom and diverged count",
        faults=_finished,
        detail=_non_converged,
    ),
    Check(
        name="seeds differ",
        asks="Every contender has the same seeds, each once",
        faults=_seeds,
        detail=lambda run: _list(dict.fromkeys(cell.seed for cell in run.cells)),
    ),
    Check(
        name="clips differ",
        asks="All were made from the same clips",
        faults=_data,
        detail=lambda run: _list({record.data.digest: None for record in run.records if record.data}),
    ),
    Check(name="evaluation differs", asks="As many samples, the same extractors, sampler and validation points", faults=_evaluation),
    Check(name="protocols differ", asks="Every measure was taken under one protocol", faults=_protocols),
    Check(name="settings differ", asks="Objective, schedule, average, budget and all else are equal but for the axes", faults=_settings),
    Check(name="not the last checkpoint", asks="The averaged weights of the last step were scored", faults=_averaged),
    Check(name="budget not used", asks="The budget was used in full", faults=_budget),
    Check(name="canaries", asks="Canaries ran for every contender, and passed", faults=_canaries),
    Check(name="machines differ", asks="One kind of machine, threads and versions took all timings", faults=_machine),
    Check(
        name="commit not clean",
        asks="One commit made all records, without edits",
        faults=_commits,
        detail=lambda run: _list({commit: None for record in run.records for commit in record.commits}),
    ),
    Check(name="headline changed", asks="Claim, primary measure and cells were the same when each cell ran", faults=_headline),
    Check(name="timings disturbed", asks="No measurement is marked as not valid", faults=_timings),
)
