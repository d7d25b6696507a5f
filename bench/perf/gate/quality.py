"""The gate on quality: distances and losses of two finished runs, by their seeds. Trains nothing."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.data.files import StoreError
from bench.perf.gate.exits import OUTCOME_EXITS, CheckRefused, Exit
from bench.perf.gate.judge import Outcome
from bench.perf.gate.policy import Policy
from bench.perf.gate.result import BenchmarkVerdict, not_compared
from bench.records.record import Measurement
from bench.report.load import Run, load_run
from bench.report.verdicts.history import RunPair
from bench.report.verdicts.stats import MIN_SEEDS, Difference, holm, welch
from bench.shapes import Refusal

ALPHA = 0.05  # chance that a gate between equal runs calls anything worse or better


@dataclass(frozen=True, kw_only=True)
class QualityChange:
    """One measure of one contender in two runs."""

    name: str
    before: Sequence[float]  # one value a seed
    after: Sequence[float]
    better: str
    allowed: float  # of the mean before

    @property
    def difference(self) -> Difference:
        """After less before, above 0 is worse; Welch's 95 % interval."""
        return welch([self.sign * value for value in self.after], [self.sign * value for value in self.before])

    @property
    def sign(self) -> int:
        """What makes a growth worse."""
        return -1 if self.better == "higher" else 1

    @property
    def limit(self) -> float:
        """The growth that passes, in the measure's unit."""
        return self.allowed * abs(statistics.fmean(self.before))

    @property
    def p_value(self) -> float | None:
        """That it has changed by what is allowed and no more; None with too few seeds, without spread, or within the limit."""
        value = self.difference.value
        if min(len(self.before), len(self.after)) < MIN_SEEDS or not abs(value) > self.limit:
            return None
        moved = math.copysign(self.limit, value)
        return welch([self.sign * after - moved for after in self.after], [self.sign * before for before in self.before]).p_value


def check_quality(base: Path, head: Path, policy: Policy) -> list[BenchmarkVerdict]:
    """A verdict on every contender and measurement that the policy's `quality` names, from the records of two runs of one matrix."""
    if not policy.quality:
        raise CheckRefused(Exit.BAD_INPUT, "the policy names no quality to gate; for example `quality: {fd_motion: 0.1, val_loss: 0.05}`")
    pair = RunPair(_run(base), _run(head))
    try:
        pair.check_alike()
    except Refusal as error:
        raise CheckRefused(Exit.ANOTHER_SUITE, str(error)) from error
    before, after = _measurements(pair.first), _measurements(pair.second)
    verdicts, changes = [], []
    for contender in {**after, **before}:
        if contender not in before or contender not in after:
            missing = base if contender not in before else head
            lacks = f"{missing} has nothing that all its seeds measured, or a canary of it failed"
            verdicts.append(not_compared(contender, Exit.LACKS_BENCHMARK, lacks))
            continue
        for wanted, allowed in policy.quality.items():
            names = [name for name in {**after[contender], **before[contender]} if name.partition("@")[0] == wanted]
            if not names:
                verdicts.append(not_compared(f"{contender} {wanted}", Exit.LACKS_BENCHMARK, f"neither run measured {wanted}"))
            for name in names:
                sides = before[contender].get(name, []), after[contender].get(name, [])
                if why := _not_comparable(*sides):
                    verdicts.append(not_compared(f"{contender} {name}", Exit.ANOTHER_SUITE, why))
                else:
                    first, second = ([measurement.value for measurement in side] for side in sides)
                    named, better = f"{contender} {name}", sides[0][0].better
                    changes.append(QualityChange(name=named, before=first, after=second, better=better, allowed=allowed))
    return verdicts + [_verdict(change, outcome, policy) for change, outcome in zip(changes, outcomes(changes), strict=True)]


def outcomes(changes: Sequence[QualityChange]) -> list[Outcome]:
    """What the seeds say of each change.

    Worse or better: by more than is allowed, by Welch's test, corrected for the number of changes (Holm), at `ALPHA`. Unchanged: not worse
    by more than is allowed, by the 95 % interval; or equal, seed by seed. Anything else, and too few seeds, is inconclusive.
    """
    corrected = iter(holm([1.0 if change.p_value is None else change.p_value for change in changes]))
    found: list[Outcome] = []
    for change, p_value in zip(changes, corrected, strict=True):
        difference = change.difference
        if list(change.before) == list(change.after):
            found.append("unchanged")
        elif p_value < ALPHA:
            found.append("regressed" if difference.value > 0 else "improved")
        else:
            seeds = min(len(change.before), len(change.after)) >= MIN_SEEDS
            within = seeds and difference.high is not None and difference.high <= change.limit
            found.append("unchanged" if within else "inconclusive")
    return found


def _run(folder: Path) -> Run:
    try:
        return load_run(folder)
    except StoreError as error:
        raise CheckRefused(Exit.NO_REFERENCE, str(error)) from error


def _measurements(run: Run) -> dict[str, dict[str, list[Measurement]]]:
    """Contender -> measurement -> one a seed, of the trained model; none where a seed has no value, a failed one, or a canary failed."""
    found: dict[str, dict[str, list[Measurement]]] = {}
    for contender in run.contenders:
        for cell in run.of(contender):
            for measurement in cell.record.measurements if cell.record is not None else ():
                if measurement.subject == "trained" and not run.missing(contender, measurement.name) and contender not in run.untrusted:
                    found.setdefault(contender, {}).setdefault(measurement.name, []).append(measurement)
    return found


def _not_comparable(base: list[Measurement], head: list[Measurement]) -> str | None:
    """Why two sides must not be compared."""
    if not base or not head:
        return "only one of the runs measured it"
    protocols = {measurement.protocol_fingerprint for measurement in (*base, *head)}
    return "measured under different protocols" if len(protocols) > 1 else None


def _verdict(change: QualityChange, outcome: Outcome, policy: Policy) -> BenchmarkVerdict:
    mean, difference = statistics.fmean(change.before), change.difference
    half = "" if difference.high is None else f" ± {difference.high - difference.value:.2g}"
    reason = f"{mean:.4g} -> {statistics.fmean(change.after):.4g}, difference {difference.value:+.3g}{half} (above 0 is worse), "
    reason += f"{change.limit:.3g} passes"
    seeds = min(len(change.before), len(change.after))
    if seeds < MIN_SEEDS and outcome != "unchanged":
        reason += f"; too few seeds ({seeds}) to tell chance, a verdict needs {MIN_SEEDS}"
    accepted = outcome == "regressed" and policy.accepts(change.name, "quality")
    return BenchmarkVerdict(
        name=change.name,
        outcome=outcome,
        exit=Exit.UNCHANGED if accepted else OUTCOME_EXITS.get(outcome, Exit.UNCHANGED),
        reason=reason + ("; accepted by the policy" if accepted else ""),
        num_pairs=min(len(change.before), len(change.after)),
        accepted=("quality",) if accepted else (),
    )
