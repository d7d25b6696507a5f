"""Two workers, one for each revision, that alternate single steps: whatever else the machine does falls on both.

A pair of fresh workers gives one number a benchmark, the median over its rounds of log(head / base). Steps of one process are not
independent, so pairs, not rounds, are what the gate counts.

Both workers of a pair share one processor while they step: two processors of a shared machine are not equally fast, and a scheduler
leaves each worker where it is. The order within a pair stays (base head, base head, ...): a step that follows one of its own process
finds its caches warm and was up to 13 % faster, and in turns turned about (base head, head base, ...) a median falls between the two
kinds. Pairs of an unchanged tree differ by 0.4 to 1.3 % (standard deviation, idle machine).
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.data.progress import Say
from bench.perf.gate.revisions import Revision
from bench.perf.gate.workers import BenchmarkFailed, Worker
from bench.records.environment import own_cpus

MOST_ROUNDS, LEAST_ROUNDS = 120, 10  # of a benchmark in a pair
ROUNDS_S = 1.5  # of steps on each side; longer steps get fewer rounds
LONG_STEP_S = 0.1  # from here on rounds are too few for the finer promise


@dataclass(kw_only=True)
class Rounds:
    """A benchmark in one pair of workers. Lists have one entry a round."""

    base_s: list[float] = field(default_factory=list)
    head_s: list[float] = field(default_factory=list)
    base_parts_s: dict[str, list[float]] = field(default_factory=dict)  # data, forward, ... -> seconds
    head_parts_s: dict[str, list[float]] = field(default_factory=dict)

    def log_ratio(self) -> float:
        """Median of log(head / base) over the rounds."""
        return statistics.median(math.log(head / base) for base, head in zip(self.base_s, self.head_s, strict=True))


def joined(rounds: Iterable[Rounds]) -> Rounds:
    """The rounds of several pairs, one after another."""
    whole = Rounds()
    for each in rounds:
        whole.base_s += each.base_s
        whole.head_s += each.head_s
        for parts_s, more_s in ((whole.base_parts_s, each.base_parts_s), (whole.head_parts_s, each.head_parts_s)):
            for part, seconds in more_s.items():
                parts_s.setdefault(part, []).extend(seconds)
    return whole


@dataclass(kw_only=True)
class WorkerPair:
    """What one pair of fresh workers gave."""

    rounds: dict[str, Rounds] = field(default_factory=dict)
    counters: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)  # benchmark -> "base" or "head" -> counter -> value
    failed: dict[str, str] = field(default_factory=dict)  # benchmark -> which revision, and its error
    facts: dict[str, Any] = field(default_factory=dict)  # device, num_threads, torch


def num_rounds(step_s: float) -> int:
    """Rounds of a benchmark whose step takes `step_s`.

    >>> num_rounds(0.002), num_rounds(0.05), num_rounds(10)
    (120, 30, 10)
    """
    return max(LEAST_ROUNDS, min(MOST_ROUNDS, round(ROUNDS_S / step_s)))


def run_pair(revisions: Mapping[str, Revision], names: Sequence[str], *, index: int, count: bool, say: Say) -> WorkerPair:
    """Start a worker for each of "base" and "head", step the named benchmarks in lock-step, and stop them.

    `index`: of the pair. Who comes first alternates from pair to pair, and the processor with every second one. `count`: read the
    counters too.
    """
    pair = WorkerPair()
    order = ("base", "head") if index % 2 == 0 else ("head", "base")
    cpus = own_cpus()
    with ExitStack() as stack:
        workers = {
            role: stack.enter_context(Worker(revisions[role].tree, f"{role} {revisions[role]}", blame=f"{role}: ")) for role in order
        }
        for name in names:
            say(f"pair {index + 1}, {len(names)} open: {name}")
            try:
                pair.rounds[name] = _rounds(workers, name, pair, count, cpus[index // 2 % len(cpus)])
            except BenchmarkFailed as error:
                pair.failed[name] = str(error)
    return pair


def _rounds(workers: dict[str, Worker], name: str, pair: WorkerPair, count: bool, cpu: int) -> Rounds:
    for worker in workers.values():  # both at once, anywhere: nothing is timed yet
        worker.pin(own_cpus())
        worker.send("open", name=name)
    opened = {role: worker.reply() for role, worker in workers.items()}
    pair.facts = {key: opened["head"][key] for key in ("device", "num_threads", "torch")}
    for worker in workers.values():
        worker.pin([cpu])
    # The faster of two, so that one step in a neighbour's way does not cost rounds; of the slower worker.
    step_s = max(min(worker.ask("step")["s"] for _ in range(2)) for worker in workers.values())
    rounds = Rounds()
    lists = {"base": (rounds.base_s, rounds.base_parts_s), "head": (rounds.head_s, rounds.head_parts_s)}
    for _ in range(num_rounds(step_s)):
        for role, worker in workers.items():
            worker.step(*lists[role])
    if count:
        pair.counters[name] = {role: worker.ask("counters") for role, worker in workers.items()}
    for worker in workers.values():
        worker.ask("close")
    return rounds
