"""Verdicts: from an estimate of the time and exact counters to an outcome, how it counts for the exit status, and why in words."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.data.frozen import flatten
from bench.perf.gate.exits import Exit
from bench.perf.gate.judge import Estimate, Outcome
from bench.perf.gate.policy import Policy
from bench.perf.gate.result import BenchmarkVerdict, Counter

PartTimes = Mapping[str, Sequence[float]]  # data, forward, ... -> seconds


def verdict_of(
    name: str,
    estimate: Estimate | None,
    detect: float | None,
    *,
    times_s: tuple[Sequence[float], Sequence[float]],
    parts_s: tuple[PartTimes, PartTimes],
    counters: Mapping[str, Mapping[str, int]],
    num_samples: int,
    policy: Policy,
) -> BenchmarkVerdict:
    """Time by evidence, counters exactly; the worse of the two is the benchmark's. Pairs of arguments are base, head."""
    counted = _counters(counters, policy)
    parts = {part: (statistics.median(parts_s[0][part]), statistics.median(parts_s[1][part])) for part in parts_s[0] if part in parts_s[1]}
    outcomes: dict[str, Outcome] = {"time": estimate.outcome if estimate else "inconclusive"}
    outcomes |= {counter.name: counter.outcome for counter in counted}
    accepted = tuple(quantity for quantity, outcome in outcomes.items() if outcome == "regressed" and policy.accepts(name, quantity))
    left = [outcome for quantity, outcome in outcomes.items() if quantity not in accepted]
    order: tuple[Outcome, ...] = ("regressed", "inconclusive", "improved")
    outcome = next((kind for kind in order if kind in left), "unchanged")
    return BenchmarkVerdict(
        name=name,
        outcome=outcome,
        exit={"regressed": Exit.REGRESSED, "inconclusive": Exit.INCONCLUSIVE}.get(outcome, Exit.UNCHANGED),
        reason=_reason(estimate, detect, counted, parts, accepted, num_samples),
        detect=detect,
        ratio=estimate.ratio if estimate else None,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        num_pairs=num_samples,
        base_s=statistics.median(times_s[0]) if times_s[0] else None,
        head_s=statistics.median(times_s[1]) if times_s[1] else None,
        parts=parts,
        counters=tuple(counted),
        accepted=accepted,
    )


def not_comparable(name: str, definitions: Mapping[str, Mapping[str, Any]], policy: Policy) -> BenchmarkVerdict | None:
    """The verdict on a benchmark that both sides do not have alike, or None."""
    missing = [role for role in ("base", "head") if name not in definitions[role]]
    if missing:
        accepted = policy.accepts(name, "missing")
        reason = f"{missing[0]} lacks this benchmark" + (", which the policy accepts" if accepted else "")
        return BenchmarkVerdict(
            name=name, outcome="not comparable", exit=Exit.UNCHANGED if accepted else Exit.LACKS_BENCHMARK, reason=reason,
            accepted=("missing",) if accepted else (),
        )  # fmt: skip
    before, after = flatten(definitions["base"][name]), flatten(definitions["head"][name])
    different = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if different:
        accepted = policy.accepts(name, "definition")
        shown = ", ".join(f"{key} {before.get(key)} -> {after.get(key)}" for key in different[:3])
        reason = f"another benchmark under the same name: {shown}" + (", which the policy accepts" if accepted else "")
        return BenchmarkVerdict(
            name=name, outcome="not comparable", exit=Exit.UNCHANGED if accepted else Exit.ANOTHER_SUITE, reason=reason,
            accepted=("definition",) if accepted else (),
        )  # fmt: skip
    return None


def joined(parts: Sequence[PartTimes]) -> dict[str, list[float]]:
    """PartTimes of several samples -> one list a part."""
    names = {name: None for each in parts for name in each}
    return {name: [seconds for each in parts for seconds in each.get(name, ())] for name in names}


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
