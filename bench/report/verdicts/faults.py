"""What makes a run not valid: one function for each check of validity.py, records in, faults out. Knows no torch."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.data.frozen import content_hash, flatten
from bench.records.artefacts import WEIGHTS
from bench.records.record import FINAL, WORK, Measurement, Record, Training
from bench.report.load import CellResult, Run
from bench.report.render.catalogue import commit_text
from bench.report.verdicts.compare import differing_machines, protocol_differences
from bench.study.budget import BUDGETS, Spent
from bench.study.contrasts import told as contrasts_told
from bench.study.tune import Tuning

AGAIN = "run the matrix again"
EVALUATION = ("evaluation.", "sampler.")  # fields of a cell that say what is measured, and how it is sampled
MEASURED_UNDER = ("data", "autoencoder", "objective", "precision", "evaluation", "sampler")  # parts of a cell that a protocol tells
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


def finished(run: Run) -> Iterator[Fault]:
    again = f"go on with `{run.command or f'python -m bench run {run.matrix}'}`"
    for cell in run.cells:
        if cell.status not in FINAL:
            yield Fault(cells=(cell.name,), what=f"{cell.status} ({cell.reason or 'no reason was given'})", remedy=again)
        elif cell.record and cell.record.fingerprint != cell.fingerprint:
            wrong = f"its record is of fingerprint {cell.record.fingerprint[:8]}, run.json lists {cell.fingerprint[:8]}"
            yield Fault(cells=(cell.name,), what=wrong, remedy=again)


def non_converged(run: Run) -> str:
    """How many cells ended without an answer; they count."""
    ended = [status for status in FINAL[1:] for cell in run.cells if cell.status == status]
    told = ", ".join(f"{ended.count(status)} {status}" for status in dict.fromkeys(ended))
    return (
        f"{len(ended)} of {len(run.cells)} cells did not converge, and count: {told}" if ended else f"{len(run.cells)} cells, all converged"
    )


def seeds(run: Run) -> Iterator[Fault]:
    """Contenders without the seeds that others have. Where looks add them, one that is beaten may have the first ones alone."""
    for group in (run.contenders, run.further):
        every = sorted({cell.seed for contender in group for cell in run.of(contender)})
        for contender in group:
            cells = run.of(contender)
            own, names = [cell.seed for cell in cells], tuple(cell.name for cell in cells)
            missing = [seed for seed in every if seed not in own]
            if twice := sorted({seed for seed in own if own.count(seed) > 1}):
                names = tuple(cell.name for cell in cells if cell.seed in twice)
                yield Fault(cells=names, what=f"seed {listed(twice)} more than once", remedy="give every cell a seed of its own")
            elif missing and not (run.looks and own == every[: len(own)]):
                what = f"{contender} has seeds {listed(own)} and not {listed(missing)}"
                yield Fault(cells=names, what=what, remedy=f"run it with seeds=[{listed(every)}] too")


def listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _measured_alike(run: Run) -> list[list[CellResult]]:
    """Cells in groups whose axes give them the same clips and protocols."""
    groups: dict[str, list[CellResult]] = {}
    for cell in run.cells:
        own = {key: value for key, value in cell.axes.items() if key.partition(".")[0] in MEASURED_UNDER}
        groups.setdefault(content_hash(own), []).append(cell)
    return list(groups.values())


def data(run: Run) -> Iterator[Fault]:
    for cells in _measured_alike(run):
        digests = [(cell.name, cell.record.data.digest) for cell in cells if cell.record and cell.record.data]
        yield from _differing(digests, lambda digest: f"clips of digest {digest[:12]}", f"put the same data back and {AGAIN}")


def _fields(run: Run, belongs: Callable[[str], bool]) -> Iterator[Fault]:
    """Fields of the cells that differ and are neither an axis nor tuned; untrained clips may be those of the first seed alone."""
    axes = {key for cell in run.cells for key in cell.axes} | {"backbone", "seed", "evaluation.untrained"}
    axes |= {"budget"} if any(axis.startswith("budget.") for axis in axes) else set()  # of its axes a budget has one
    axes |= {key for record in run.records if record.tuning for key in record.tuning.chosen}
    flat = {cell.name: flatten(cell.record.cell.model_dump(mode="json")) for cell in run.cells if cell.record}
    for key in sorted({key for fields in flat.values() for key in fields if belongs(key)}):
        if not any(f"{key}.".startswith(f"{axis}.") for axis in axes):
            values = [(name, str(fields.get(key))) for name, fields in flat.items()]
            yield from _differing(values, partial(_named, key), f"make it equal, or an axis, and {AGAIN}")


def _named(key: str, value: Any) -> str:
    return f"{key} {value}"


def evaluation(run: Run) -> Iterator[Fault]:
    yield from _fields(run, lambda key: key.startswith(EVALUATION))
    points = [(name, tuple(point.num_clips for point in training.validation)) for name, _, training in _trained(run) if training.num_steps]
    yield from _differing(points, lambda clips: f"{len(clips)} validation points of {listed(clips)} clips", AGAIN)
    scored = [(name, tuple(point.part for point in record.points)) for name, record in _ok(run)]
    yield from _differing(scored, lambda parts: f"samples scored at {listed(parts) or 'no'} parts of the budget", AGAIN)


def settings(run: Run) -> Iterator[Fault]:
    yield from _fields(run, lambda key: not key.startswith(EVALUATION))


def tuning(run: Run) -> Iterator[Fault]:
    """Where contenders were to be tuned and were not, or not alike; nothing of a run that declares its fields untuned."""
    if not run.asks_tuning:
        return
    tuned, lent = [(record.name, record.tuning) for record in run.records if record.tuning], _lent(run)
    if without := tuple(record.name for record in run.records if not record.tuning):
        yield Fault(cells=without, what="not tuned", remedy=f"tune every contender (`tune` of the matrix) and {AGAIN}")
    for name, tuning in tuned:
        if tuning.at_edge:
            chosen = listed(f"{key} {tuning.chosen[key]}" for key in tuning.at_edge)
            yield Fault(cells=(name,), what=f"tuned to the edge of what was tried ({chosen})", remedy=f"widen the grid and {AGAIN}")
        if tuning.differs and name not in lent:
            yield Fault(
                cells=(name,), what=f"tuned under other fields ({'; '.join(tuning.differs)})", remedy=f"tune as it runs and {AGAIN}"
            )
    efforts = ((record.name, _effort(record, record.tuning)) for record in run.records if record.tuning)
    yield from _differing(efforts, str, f"give every contender as many trials and {AGAIN}")


def _lent(run: Run) -> dict[str, str]:
    """Further cell -> the fields under which its choice was made, where they are not its own and all its rivals have such a choice too.

    No rival gains by it, and no headline rests on further cells.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for cell in run.cells:
        if cell.further and cell.record and cell.record.tuning:
            own = {key: value for key, value in cell.axes.items() if key != "backbone"}
            groups.setdefault(content_hash(own), []).append((cell.name, "; ".join(cell.record.tuning.differs)))
    return {name: differs for group in groups.values() if len({each for _, each in group}) == 1 for name, differs in group if differs}


def _effort(record: Record, tuning: Tuning) -> str:
    """What was spent on a choice: trials, by their part of the cell's own budget."""
    nums: dict[str, int] = {}
    for trial in tuning.trials:
        own = record.cell.budget
        budget = f"{trial.budget.axis} {trial.budget.amount:g}"
        if trial.budget.axis == own.axis and own.amount:
            budget = "the full budget" if trial.budget == own else f"{trial.budget.amount / own.amount:.3g} of the budget"
        nums[budget] = nums.get(budget, 0) + len(trial.losses)
    return " and ".join(f"{num} trials of {budget}" for budget, num in sorted(nums.items()))


def tuned_how(run: Run) -> str:
    """What was spent on it, or that nothing was."""
    if run.tunes is not None:
        return "its cells are the trials of a tuning"
    efforts = dict.fromkeys(_effort(record, record.tuning) for record in run.records if record.tuning)
    if not efforts:
        return "declared untuned: contenders have the fields that the matrix gives them"
    lent = dict.fromkeys(_lent(run).values())
    return f"{listed(efforts)} each" + (f"; further cells have the choice made under other fields ({listed(lent)})" if lent else "")


def foreseen(run: Run) -> Iterator[Fault]:
    """Held-out cells that were not predicted before they trained, and records that a prediction rests on and that are others now."""
    said = run.prediction
    held = run.forecast.held_out if run.forecast else ()
    for cell in run.cells:
        if (record := cell.record) is None or record.cell.backbone not in held:
            continue
        if said is None or record.asked.prediction != said.sha256 or record.started_at < said.written_at:
            yield Fault(cells=(cell.name,), what="trained before its prediction", remedy=f"remove its folder and {AGAIN}")
    known = {(cell.path.name, cell.record.fingerprint, cell.record.attempt): cell.name for cell in run.cells if cell.record}
    for each in said.fitted_to if said else ():
        if (each.folder, each.fingerprint, each.attempt) not in known:
            yield Fault(
                cells=(each.folder,), what="is not the record that the prediction was fitted to", remedy=f"remove the run and {AGAIN}"
            )


def protocols(run: Run) -> Iterator[Fault]:
    again = f"{AGAIN} with one version of the suite and of its packages"
    versions = [(record.name, record.protocol_version) for record in run.records]
    yield from _differing(versions, lambda version: f"protocol version {version}", again)
    for cells in _measured_alike(run):
        prints: dict[str, dict[str | None, list[str]]] = {}  # measure -> fingerprint -> cells
        for cell in cells:
            for m in cell.record.measurements if cell.record and cell.status == "ok" else ():
                if m.subject == "trained":
                    prints.setdefault(m.name, {}).setdefault(_print_of(m), []).append(cell.name)
        for measure, found in prints.items():
            if len(found) > 1:
                fewest, records = min(found.values(), key=len), [cell.record for cell in cells if cell.record]
                differing = "; ".join(protocol_differences(records, {measure})) or "some have none"
                yield Fault(cells=tuple(fewest), what=f"{measure} under another protocol ({differing})", remedy=again)


def _print_of(measurement: Measurement) -> str | None:
    """Of its protocol, but for what the loss is of: that follows from the backbone, and such losses are never compared."""
    if measurement.protocol is None or "loss" not in measurement.protocol:
        return measurement.protocol_fingerprint
    return content_hash({key: value for key, value in measurement.protocol.items() if key != "loss"})[:16]


def scaled(run: Run) -> Iterator[Fault]:
    """Where `--budget-minutes` made it smaller: a first look bears its matrix's name and is not the study."""
    if run.scaling:
        told = run.scaling.text.rstrip(".")
        yield Fault(cells=tuple(cell.name for cell in run.cells), what=told[0].lower() + told[1:], remedy="run it without --budget-minutes")


def averaged(run: Run) -> Iterator[Fault]:
    for name, record in _ok(run):
        last = record.training.validation[-1].step if record.training and record.training.validation else 0
        taken = record.training.num_steps if record.training else 0
        if (not taken and record.cell.budget.amount) or last != taken:
            yield Fault(cells=(name,), what=f"scored at step {last} of {taken}", remedy=f"remove its folder and {AGAIN}")
        elif record.artefacts.get("weights") != WEIGHTS:
            kept = record.artefacts.get("weights", "none")
            yield Fault(cells=(name,), what=f"the weights it kept are {kept}, not {WEIGHTS}", remedy=f"remove its folder and {AGAIN}")


def budget(run: Run) -> Iterator[Fault]:
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


def canaries(run: Run) -> Iterator[Fault]:
    for contender in run.labels:
        cells = [cell for cell in run.of(contender) if cell.record and cell.status == "ok"]
        if cells and not any(cell.record.canaries for cell in cells if cell.record):
            yield Fault(cells=tuple(cell.name for cell in cells), what="no canary ran", remedy=AGAIN)
    for name, record in _ok(run):
        for canary in record.canaries:
            if not canary.passed:
                yield Fault(cells=(name,), what=f"canary failed: {canary.name} ({canary.detail})", remedy=f"mend the build and {AGAIN}")


def machine(run: Run) -> Iterator[Fault]:
    again = f"{AGAIN} on one kind of machine, or believe no timing"
    for key, values in differing_machines(run.records).items():
        yield from _differing(zip((record.name for record in run.records), values, strict=True), partial(_named, key), again)
    for record in run.records:
        if len(record.machines) > 1:
            yield Fault(cells=(record.name,), what=f"trained in turn on {'; '.join(record.machines)}", remedy=again)


def commits(run: Run) -> Iterator[Fault]:
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
        others = tuple(dict.fromkeys(name for commit in told if commit != usual for name in told[commit]))
        yield Fault(cells=others, what=f"{len(told)} commits worked on the run ({listed(map(commit_text, told))})", remedy=again)


def headline(run: Run) -> Iterator[Fault]:
    remedy = f"what decides is named before the run: {AGAIN} under another name"
    for record in run.records:
        asked, now = (record.asked.claim, record.asked.primary), (run.claim, run.primary)
        if asked != now:
            shown = [f"claim {claim or 'none'} and primary {primary or 'none'}" for claim, primary in (asked, now)]
            yield Fault(cells=(record.name,), what=f"asked for {shown[0]}, the run asks for {shown[1]}", remedy=remedy)
        if record.asked.contrasts != run.contrasts:
            shown = [f"contrasts {contrasts_told(contrasts)}" for contrasts in (record.asked.contrasts, run.contrasts)]
            yield Fault(cells=(record.name,), what=f"asked for {shown[0]}, the run asks for {shown[1]}", remedy=remedy)
    further = {cell.path.name: cell.further for cell in run.cells}
    for record in run.records:
        if moved := record.asked.moved(further):
            yield Fault(cells=(record.name,), what=f"{listed(moved)} changed between contenders and further cells", remedy=remedy)
    if run.changed:
        folders = set(further)
        names = tuple(record.name for record in run.records if record.asked.cells and set(record.asked.cells) != folders)
        yield Fault(cells=names, what=run.changed, remedy=remedy)


def timings(run: Run) -> Iterator[Fault]:
    for name, record in _ok(run):
        reasons: dict[str, list[str]] = {}
        for measurement in record.measurements:
            if measurement.invalid is not None:
                reasons.setdefault(measurement.invalid, []).append(measurement.name)
        for reason, names in reasons.items():
            yield Fault(
                cells=(name,), what=f"{listed(names)} not valid: {reason}", remedy=f"remove its folder and {AGAIN} alone on the device"
            )
