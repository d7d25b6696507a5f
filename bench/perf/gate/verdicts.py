"""Verdicts: from an estimate of the time and exact counters to an outcome, how it counts for the exit status, and why in words."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.data.frozen import flatten
from bench.perf.gate.exits import OUTCOME_EXITS, Exit
from bench.perf.gate.judge import Estimate, Outcome
from bench.perf.gate.lockstep import Rounds
from bench.perf.gate.policy import Policy
from bench.perf.gate.result import BenchmarkVerdict, Counter, not_compared


def verdict_of(
    name: str,
    estimate: Estimate | None,
    detect: float | None,
    rounds: Rounds,
    num_samples: int,
    counters: Mapping[str, Mapping[str, int]],
    policy: Policy,
) -> BenchmarkVerdict:
    """Time by evidence, counters exactly; the worse of the two is the benchmark's. `rounds`: those of all samples."""
    counted = _counters(counters, policy)
    parts = {
        part: (statistics.median(base_s), statistics.median(rounds.head_parts_s[part]))
        for part, base_s in rounds.base_parts_s.items()
        if part in rounds.head_parts_s
    }
    outcomes: dict[str, Outcome] = {"time": estimate.outcome if estimate else "inconclusive"}
    outcomes |= {counter.name: counter.outcome for counter in counted}
    accepted = tuple(quantity for quantity, outcome in outcomes.items() if outcome == "regressed" and policy.accepts(name, quantity))
    left = [outcome for quantity, outcome in outcomes.items() if quantity not in accepted]
    order: tuple[Outcome, ...] = ("regressed", "inconclusive", "improved")
    outcome = next((kind for kind in order if kind in left), "unchanged")
    return BenchmarkVerdict(
        name=name,
        outcome=outcome,
        exit=OUTCOME_EXITS.get(outcome, Exit.UNCHANGED),
        reason=_reason(estimate, detect, counted, parts, accepted, num_samples),
        detect=detect,
        ratio=estimate and estimate.ratio,
        low=estimate and estimate.low,
        high=estimate and estimate.high,
        num_pairs=num_samples,
        base_s=statistics.median(rounds.base_s) if rounds.base_s else None,
        head_s=statistics.median(rounds.head_s) if rounds.head_s else None,
        parts=parts,
        counters=tuple(counted),
        accepted=accepted,
    )


def not_comparable(name: str, definitions: Mapping[str, Mapping[str, Any]], policy: Policy) -> BenchmarkVerdict | None:
    """The verdict on a benchmark that "base" and "head" do not have alike, or None."""
    missing = [role for role in ("base", "head") if name not in definitions[role]]
    if missing:
        quantity, status, reason = "missing", Exit.LACKS_BENCHMARK, f"{missing[0]} lacks this benchmark"
    else:
        before, after = flatten(definitions["base"][name]), flatten(definitions["head"][name])
        different = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        if not different:
            return None
        shown = ", ".join(f"{key} {before.get(key)} -> {after.get(key)}" for key in different[:3])
        quantity, status, reason = "definition", Exit.ANOTHER_SUITE, f"another benchmark under the same name: {shown}"
    return not_compared(name, status, reason, accepted=(quantity,) if policy.accepts(name, quantity) else ())


def _counters(counted: Mapping[str, Mapping[str, int]], policy: Policy) -> list[Counter]:
    base, head = counted.get("base", {}), counted.get("head", {})
    found = []
    for name in {**base, **head}:
        before, after = base.get(name), head.get(name)
        outcome: Outcome = "not comparable"
        if before is not None and after is not None:
            allowed = before * (1 + policy.counters.get(name, 0.0))
            outcome = "regressed" if after > allowed else "improved" if after < before else "unchanged"
        found.append(Counter(name=name, base=before, head=after, outcome=outcome))
    return found


def _reason(
    estimate: Estimate | None,
    detect: float | None,
    counters: Sequence[Counter],
    parts: Mapping[str, tuple[float, float]],
    accepted: Sequence[str],
    num_samples: int,
) -> str:
    """Why, in words: size and evidence of the time, where it went, and which counters changed."""
    said = []
    if estimate is None or detect is None:
        said.append(f"only {num_samples} pairs of workers in the time there was")
    elif estimate.outcome in ("regressed", "improved"):
        said.append(f"{abs(estimate.ratio - 1):.1%} {'slower' if estimate.outcome == 'regressed' else 'faster'}")
        where = {part: after - before for part, (before, after) in parts.items()}
        if where and estimate.outcome == "regressed":
            most = max(where, key=lambda part: where[part])
            said.append(f"most of it in {most}, {1000 * parts[most][0]:.2f} -> {1000 * parts[most][1]:.2f} ms")
    elif estimate.outcome == "inconclusive":
        said.append(f"{estimate.ratio - 1:+.1%} [{estimate.low - 1:+.1%}, {estimate.high - 1:+.1%}]: too noisy to exclude {detect:.0%}")
    for counter in counters:
        if counter.outcome in ("regressed", "improved"):
            said.append(f"{counter.name} {counter.base:,} -> {counter.head:,}")
    if accepted:
        said.append(f"accepted by the policy: {', '.join(accepted)}")
    return "; ".join(said)
