"""The gate on quality: distances and losses of two finished runs, by their intervals. Trains nothing."""

import math
import statistics
from pathlib import Path

from bench.data.files import StoreError
from bench.perf.gate.exits import OUTCOME_EXITS, CheckRefused, Exit
from bench.perf.gate.judge import Outcome
from bench.perf.gate.policy import Policy
from bench.perf.gate.result import BenchmarkVerdict, not_compared
from bench.records.record import Measurement
from bench.records.store import latest, read_run
from bench.report.verdicts.stats import welch


def check_quality(base: Path, head: Path, policy: Policy) -> list[BenchmarkVerdict]:
    """A verdict on every contender and measurement that the policy's `quality` names, from the records of two runs of one matrix.

    Over seeds by Welch's interval where both runs have two or more; else by the intervals of the single values; a value without one
    is compared as it is.
    """
    if not policy.quality:
        raise CheckRefused(Exit.BAD_INPUT, "the policy names no quality to gate; for example `quality: {fd_motion: 0.1, val_loss: 0.05}`")
    before, after = _measurements(base), _measurements(head)
    verdicts = []
    for contender in {**after, **before}:
        if contender not in before or contender not in after:
            missing = base if contender not in before else head
            verdicts.append(not_compared(contender, Exit.LACKS_BENCHMARK, f"{missing} has no finished cell of it"))
            continue
        for wanted, allowed in policy.quality.items():
            names = [name for name in {**after[contender], **before[contender]} if name.partition("@")[0] == wanted]
            if not names:
                verdicts.append(not_compared(f"{contender} {wanted}", Exit.LACKS_BENCHMARK, f"neither run measured {wanted}"))
            verdicts += [
                _verdict(f"{contender} {name}", before[contender].get(name, []), after[contender].get(name, []), allowed, policy)
                for name in names
            ]
    return verdicts


def _measurements(folder: Path) -> dict[str, dict[str, list[Measurement]]]:
    """Contender (a cell's name without its seed) -> measurement -> one a seed, of the trained model."""
    found: dict[str, dict[str, list[Measurement]]] = {}
    try:
        for cell in read_run(folder).cells:
            record = latest(folder / cell.folder)
            for measurement in record.measurements if record is not None and record.status == "ok" else ():
                if measurement.subject == "trained":
                    contender = found.setdefault(cell.name.removesuffix(f"-seed{cell.seed}"), {})
                    contender.setdefault(measurement.name, []).append(measurement)
    except StoreError as error:
        raise CheckRefused(Exit.NO_REFERENCE, str(error)) from error
    return found


def _verdict(name: str, base: list[Measurement], head: list[Measurement], allowed: float, policy: Policy) -> BenchmarkVerdict:
    protocols = {measurement.protocol_fingerprint for measurement in (*base, *head)}
    if not base or not head or len(protocols) > 1:
        reason = "measured under different protocols" if base and head else "only one of the runs measured it"
        return not_compared(name, Exit.ANOTHER_SUITE, reason)
    sign = -1 if base[0].better == "higher" else 1
    before, after = ([m.value for m in side] for side in (base, head))
    mean = statistics.fmean(before)
    half = _half_width(base, head)
    worse = sign * (statistics.fmean(after) - mean)
    limit = allowed * abs(mean)
    outcome: Outcome = "inconclusive"
    if worse > limit and worse > half:  # by size and by evidence
        outcome = "regressed"
    elif worse < -limit and worse < -half:
        outcome = "improved"
    elif worse + half <= limit:
        outcome = "unchanged"
    reason = f"{mean:.4g} -> {statistics.fmean(after):.4g}, difference {worse:+.3g} ± {half:.2g} (above 0 is worse), {limit:.3g} passes"
    accepted = outcome == "regressed" and policy.accepts(name, "quality")
    return BenchmarkVerdict(
        name=name,
        outcome=outcome,
        exit=Exit.UNCHANGED if accepted else OUTCOME_EXITS.get(outcome, Exit.UNCHANGED),
        reason=reason + ("; accepted by the policy" if accepted else ""),
        num_pairs=min(len(before), len(after)),
        accepted=("quality",) if accepted else (),
    )


def _half_width(base: list[Measurement], head: list[Measurement]) -> float:
    """Half of the 95 % interval of the difference."""
    difference = welch([m.value for m in head], [m.value for m in base])
    if difference.low is not None and difference.high is not None:
        return (difference.high - difference.low) / 2
    halves = [(m.high - m.low) / 2 for m in (base[0], head[0]) if m.low is not None and m.high is not None]
    return math.sqrt(sum(half**2 for half in halves)) if len(halves) == 2 else 0.0
