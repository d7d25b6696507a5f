"""The gate: pairs of workers until every benchmark's verdict is clear, or pairs or time run out."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.data.files import now
from bench.data.progress import Progress
from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.judge import Estimate, Outcome, alpha_of_a_look, judge_pairs, usual_spread
from bench.perf.gate.lockstep import WorkerPair, run_pair
from bench.perf.gate.policy import Policy
from bench.perf.gate.result import BenchmarkVerdict, CheckResult, Compared
from bench.perf.gate.revisions import Revision
from bench.perf.gate.verdicts import joined, not_comparable, verdict_of
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
        return [name for name in self.log_ratios if self._outcome(name) == "inconclusive"]

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

    def drop(self, name: str) -> None:
        """A benchmark that failed is judged no more."""
        self.log_ratios.pop(name, None)

    def _outcome(self, name: str) -> Outcome:
        return self.estimates[name].outcome if name in self.estimates else "inconclusive"


def check_revisions(base: Revision, head: Revision, policy: Policy, chosen: Callable[[str], bool], say: Progress) -> CheckResult:
    """Measure two revisions against each other. `chosen`: whether a benchmark of that name takes part."""
    started_at, start_s = now(), time.monotonic()
    labels = f"base {base}", f"head {head}"
    definitions, version = _definitions(base, head, labels)
    verdicts: dict[str, BenchmarkVerdict] = {}
    names = []
    for name in {**definitions["head"], **definitions["base"]}:
        if not chosen(name):
            continue
        refusal = not_comparable(name, definitions, policy)
        if refusal is None:
            names.append(name)
        else:
            verdicts[name] = refusal
    if not names and not verdicts:
        raise CheckRefused(Exit.BAD_INPUT, f"no benchmark is chosen; there are {', '.join(definitions['head'])}")

    decisions, pairs = Decisions(policy, names), list[WorkerPair]()
    while (waiting := decisions.open()) and len(pairs) < policy.most_pairs and time.monotonic() - start_s < policy.max_seconds:
        index = len(pairs)

        def show(name: str, index: int = index, waiting: list[str] = waiting) -> None:
            say(index, policy.most_pairs, f"pair {index + 1}, {len(waiting)} open: {name}")

        pair = run_pair(base.tree, head.tree, waiting, index=index, count=index == 0, say=show, labels=labels)
        pairs.append(pair)
        for name, reason in pair.failed.items():
            decisions.drop(name)
            verdicts[name] = BenchmarkVerdict(name=name, outcome="not comparable", exit=Exit.DOES_NOT_BUILD, reason=reason)
        decisions.add(
            {name: rounds.log_ratio() for name, rounds in pair.rounds.items()},
            {name: statistics.median(rounds.base_s) for name, rounds in pair.rounds.items()},
        )
    for name in names:
        if name not in verdicts:
            rounds = [pair.rounds[name] for pair in pairs if name in pair.rounds]
            verdicts[name] = verdict_of(
                name,
                decisions.estimates.get(name),
                decisions.detect.get(name),
                times_s=([s for each in rounds for s in each.base_s], [s for each in rounds for s in each.head_s]),
                parts_s=(joined([each.base_parts_s for each in rounds]), joined([each.head_parts_s for each in rounds])),
                counters=next((pair.counters[name] for pair in pairs if name in pair.counters), {}),
                num_samples=len(rounds),
                policy=policy,
            )
    facts = pairs[0].facts if pairs else {}
    return CheckResult(
        base=Compared(name=base.name, commit=base.commit),
        head=Compared(name=head.name, commit=head.commit),
        started_at=started_at,
        seconds=time.monotonic() - start_s,
        environment=read_environment(num_threads=facts.get("num_threads"), device=facts.get("device")),
        suite_version=version,
        policy=policy.model_dump(mode="json"),
        notes=_notes(base, head),
        verdicts=tuple(verdicts[name] for name in {**definitions["head"], **definitions["base"]} if name in verdicts),
        pairs=tuple(dataclasses.asdict(pair) for pair in pairs),
    )


def _definitions(base: Revision, head: Revision, labels: tuple[str, str]) -> tuple[dict[str, dict[str, Any]], int]:
    """Role -> benchmark -> definition, and the suite's version. CheckRefused where the versions differ."""
    hellos = {}
    for revision, label, role in ((base, labels[0], "base"), (head, labels[1], "head")):
        with Worker(revision.tree, label) as worker:
            hellos[role] = worker.hello
    versions = {role: hello["suite_version"] for role, hello in hellos.items()}
    if versions["base"] != versions["head"]:
        raise CheckRefused(
            Exit.ANOTHER_SUITE,
            f"the performance suite has version {versions['base']} in {labels[0]} and {versions['head']} in {labels[1]}: their numbers "
            "mean different things; check against a base of the same version",
        )
    return {role: hello["benchmarks"] for role, hello in hellos.items()}, versions["head"]


def _notes(base: Revision, head: Revision) -> tuple[str, ...]:
    """What a reader must know of how the two were run."""
    notes = []
    for file in DEPENDENCIES:
        before, after = (revision.tree / file for revision in (base, head))
        if (before.read_bytes() if before.is_file() else b"") != (after.read_bytes() if after.is_file() else b""):
            notes.append(f"{file} differs between the two revisions; both ran with what is installed here")
    return tuple(notes)
