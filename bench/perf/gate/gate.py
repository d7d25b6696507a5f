"""The gate: pairs of workers until every benchmark's verdict is clear, or pairs or time run out."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench.data.files import now
from bench.data.progress import Progress
from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.judge import Estimate, alpha_of_a_look, judge_pairs, usual_spread
from bench.perf.gate.lockstep import WorkerPair, joined, run_pair
from bench.perf.gate.policy import Policy
from bench.perf.gate.result import CheckResult, not_compared
from bench.perf.gate.revisions import Revision
from bench.perf.gate.verdicts import not_comparable, verdict_of
from bench.perf.gate.workers import Worker
from bench.records.environment import read_environment

DEPENDENCIES = ("constraints.txt", "pyproject.toml")  # both revisions run in this environment, whatever theirs would be


class Decisions:
    """The sequential test: pairs go in one by one, a benchmark leaves when its verdict is clear. Used live and by the replay alike."""

    def __init__(self, policy: Policy, names: Sequence[str]):
        self.policy = policy
        self.log_ratios: dict[str, list[float]] = {name: [] for name in names}
        self.detect: dict[str, float] = {}
        self.estimates: dict[str, Estimate] = {}
        self.alpha = alpha_of_a_look(policy.false_alarms, max(1, len(names)), policy.most_pairs - policy.least_pairs + 1)

    def open(self) -> list[str]:
        """Benchmarks whose verdict is not clear yet."""
        return [name for name in self.log_ratios if name not in self.estimates or self.estimates[name].outcome == "inconclusive"]

    def add(self, log_ratios: Mapping[str, float], steps_s: Mapping[str, float]) -> None:
        """One pair's log ratio of each benchmark that is open, and what a step of it takes."""
        for name, value in log_ratios.items():
            self.log_ratios[name].append(value)
            self.detect.setdefault(name, self.policy.detect_of(name, steps_s[name]))
        judged = [name for name in log_ratios if len(self.log_ratios[name]) >= self.policy.least_pairs]
        if judged:
            usual = usual_spread(values for values in self.log_ratios.values() if len(values) > 1)
            for name in judged:
                self.estimates[name] = judge_pairs(self.log_ratios[name], detect=self.detect[name], alpha=self.alpha, usual=usual)


def check_revisions(revisions: Mapping[str, Revision], policy: Policy, chosen: Callable[[str], bool], say: Progress) -> CheckResult:
    """Measure "base" and "head" against each other. `chosen`: whether a benchmark of that name takes part."""
    started_at, start_s = now(), time.monotonic()
    definitions, version = _definitions(revisions)
    names = [name for name in {**definitions["head"], **definitions["base"]} if chosen(name)]
    if not names:
        raise CheckRefused(Exit.BAD_INPUT, f"no benchmark is chosen; there are {', '.join(definitions['head'])}")
    verdicts = {name: refusal for name in names if (refusal := not_comparable(name, definitions, policy)) is not None}
    decisions, pairs = Decisions(policy, [name for name in names if name not in verdicts]), list[WorkerPair]()
    while (waiting := decisions.open()) and len(pairs) < policy.most_pairs and time.monotonic() - start_s < policy.max_seconds:
        index = len(pairs)
        pair = run_pair(revisions, waiting, index=index, count=index == 0, say=partial(say, index, policy.most_pairs))
        pairs.append(pair)
        for name, reason in pair.failed.items():
            del decisions.log_ratios[name]
            verdicts[name] = not_compared(name, Exit.DOES_NOT_BUILD, reason)
        decisions.add(
            {name: rounds.log_ratio() for name, rounds in pair.rounds.items()},
            {name: statistics.median(rounds.base_s) for name, rounds in pair.rounds.items()},
        )
    for name in decisions.log_ratios:
        taken = [pair.rounds[name] for pair in pairs if name in pair.rounds]
        counters = next((pair.counters[name] for pair in pairs if name in pair.counters), {})
        estimate, detect = decisions.estimates.get(name), decisions.detect.get(name)
        verdicts[name] = verdict_of(name, estimate, detect, joined(taken), len(taken), counters, policy)
    facts = pairs[0].facts if pairs else {}
    return CheckResult(
        base=revisions["base"],
        head=revisions["head"],
        started_at=started_at,
        seconds=time.monotonic() - start_s,
        environment=read_environment(num_threads=facts.get("num_threads"), device=facts.get("device")),
        suite_version=version,
        policy=policy.model_dump(mode="json"),
        notes=_notes(revisions),
        verdicts=tuple(verdicts[name] for name in names),
        pairs=tuple(dataclasses.asdict(pair) for pair in pairs),
    )


def _definitions(revisions: Mapping[str, Revision]) -> tuple[dict[str, dict[str, Any]], int]:
    """Role -> benchmark -> definition, and the suite's version. CheckRefused where the versions differ."""
    hellos = {}
    for role, revision in revisions.items():
        with Worker(revision.tree, f"{role} {revision}") as worker:
            hellos[role] = worker.hello
    base, head = (hellos[role]["suite_version"] for role in ("base", "head"))
    if base != head:
        raise CheckRefused(
            Exit.ANOTHER_SUITE,
            f"the performance suite has version {base} in base {revisions['base']} and {head} in head {revisions['head']}: their numbers "
            "mean different things; check against a base of the same version",
        )
    return {role: hello["benchmarks"] for role, hello in hellos.items()}, head


def _notes(revisions: Mapping[str, Revision]) -> tuple[str, ...]:
    """What a reader must know of how the two were run."""
    notes = []
    for file in DEPENDENCIES:
        paths = [revision.tree / file for revision in revisions.values()]
        if len({path.read_bytes() if path.is_file() else b"" for path in paths}) > 1:
            notes.append(f"{file} differs between the two revisions; both ran with what is installed here")
    return tuple(notes)
