"""Stored references: the steps of one revision on one machine, in a file, to compare with later on that same machine.

One process against another differs by several percent whatever the code does, so the promise is coarse; `check --base` keeps a finer one.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.data.files import now
from bench.data.frozen import Frozen
from bench.data.progress import Progress
from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.judge import alpha_of_a_look, judge_groups
from bench.perf.gate.lockstep import Rounds, joined, num_rounds
from bench.perf.gate.policy import Policy
from bench.perf.gate.result import BenchmarkVerdict, CheckResult, Compared, not_compared
from bench.perf.gate.revisions import Revision
from bench.perf.gate.verdicts import not_comparable, verdict_of
from bench.perf.gate.workers import BenchmarkFailed, Worker
from bench.records.environment import Environment, read_environment

SAME = ("machine", "system", "cpu", "cpu_id", "num_cpus", "gpus", "python", "device", "num_threads")  # of an environment
SAME_PACKAGES = ("torch", "diffusers", "numpy")


class Process(Frozen):
    """One fresh process: benchmark -> times of its rounds, and of their parts."""

    times_s: dict[str, list[float]]
    parts_s: dict[str, dict[str, list[float]]]


class Reference(Frozen):
    """What a file holds."""

    schema_version: int = 1
    suite_version: int
    revision: Compared
    measured_at: str
    environment: Environment
    definitions: dict[str, dict[str, Any]]
    counters: dict[str, dict[str, int]]
    processes: tuple[Process, ...]
    failed: dict[str, str]  # benchmark -> error


def measure(revision: Revision, policy: Policy, chosen: Callable[[str], bool], say: Progress) -> Reference:
    """The chosen benchmarks of a revision in several fresh processes."""
    processes, counters, failed, facts, hello = [], dict[str, dict[str, int]](), dict[str, str](), dict[str, Any](), dict[str, Any]()
    total = policy.reference.processes
    for index in range(total):
        with Worker(revision.tree, str(revision)) as worker:
            hello = worker.hello
            names = [name for name in hello["benchmarks"] if chosen(name) and name not in failed]
            if not names and not failed:
                raise CheckRefused(Exit.BAD_INPUT, f"no benchmark is chosen; there are {', '.join(hello['benchmarks'])}")
            process = Process(times_s={}, parts_s={})
            for name in names:
                say(index, total, f"process {index + 1}: {name}")
                try:
                    facts = worker.ask("open", name=name)
                    times_s, parts_s = list[float](), dict[str, list[float]]()
                    for _ in range(num_rounds(worker.ask("step")["s"])):
                        worker.step(times_s, parts_s)
                    if index == 0:
                        counters[name] = worker.ask("counters")
                    worker.ask("close")
                    process.times_s[name], process.parts_s[name] = times_s, parts_s
                except BenchmarkFailed as error:
                    failed[name] = str(error)
            processes.append(process)
    return Reference(
        suite_version=hello["suite_version"],
        revision=revision,
        measured_at=now(),
        environment=read_environment(num_threads=facts.get("num_threads"), device=facts.get("device")),
        definitions={name: definition for name, definition in hello["benchmarks"].items() if chosen(name)},
        counters=counters,
        processes=tuple(processes),
        failed=failed,
    )


def read_reference(path: Path) -> Reference:
    """The reference in a file. CheckRefused where there is none, or one that cannot be read."""
    if not path.is_file():
        raise CheckRefused(Exit.NO_REFERENCE, f"no reference at {path}; store one on this machine with `check --save {path}`")
    try:
        return Reference.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckRefused(Exit.NO_REFERENCE, f"reference {path} cannot be read ({str(error).splitlines()[0]}); store it again") from error


def compare(reference: Reference, current: Reference, policy: Policy, started_s: float) -> CheckResult:
    """Verdicts on what was measured now. CheckRefused where the reference is of another machine or suite."""
    refuse_other(reference, current)
    definitions = {"base": reference.definitions, "head": current.definitions}
    names = list({**current.definitions, **reference.definitions})
    alpha = alpha_of_a_look(policy.false_alarms, len(names), 1)
    verdicts = []
    for name in names:
        refusal = not_comparable(name, definitions, policy)
        error = current.failed.get(name) or reference.failed.get(name)
        if refusal is None and error is not None:
            refusal = not_compared(name, Exit.DOES_NOT_BUILD, error)
        verdicts.append(refusal or _verdict(name, reference, current, policy, alpha))
    return CheckResult(
        base=reference.revision,
        head=current.revision,
        started_at=current.measured_at,
        seconds=time.monotonic() - started_s,
        environment=current.environment,
        suite_version=current.suite_version,
        policy=policy.model_dump(mode="json"),
        notes=(f"against stored numbers of {reference.measured_at}, process against process: the promise is coarse",),
        verdicts=tuple(verdicts),
        pairs=tuple(
            {"rounds": {name: {"base_s": base.times_s.get(name, []), "head_s": head.times_s.get(name, [])} for name in names}}
            for base, head in zip(reference.processes, current.processes, strict=False)
        ),
    )


def refuse_other(reference: Reference, current: Reference) -> None:
    """CheckRefused naming the first thing in which the machines, or the suites, differ."""
    if reference.suite_version != current.suite_version:
        raise CheckRefused(
            Exit.ANOTHER_SUITE,
            f"the reference has suite version {reference.suite_version}, this revision {current.suite_version}; store it again",
        )
    before, after = reference.environment, current.environment
    pairs = [(field, getattr(before, field), getattr(after, field)) for field in SAME]
    pairs += [(package, before.packages.get(package), after.packages.get(package)) for package in SAME_PACKAGES]
    pairs.append(("memory in GiB", round(before.memory_bytes / 2**30), round(after.memory_bytes / 2**30)))
    for field, stored, here in pairs:
        if stored != here:
            raise CheckRefused(
                Exit.ANOTHER_MACHINE,
                f"the reference is of another machine: {field} {stored!r} there, {here!r} here; store one here with `check --save FILE`",
            )


def _verdict(name: str, reference: Reference, current: Reference, policy: Policy, alpha: float) -> BenchmarkVerdict:
    base, head = ([process for process in side.processes if name in process.times_s] for side in (reference, current))
    base_s, head_s = ([statistics.median(process.times_s[name]) for process in side] for side in (base, head))
    detect = max(policy.reference.detect, policy.detect_of(name, statistics.median(base_s)))
    rounds = [Rounds(base_s=process.times_s[name], base_parts_s=process.parts_s[name]) for process in base]
    rounds += [Rounds(head_s=process.times_s[name], head_parts_s=process.parts_s[name]) for process in head]
    counters = {"base": reference.counters.get(name, {}), "head": current.counters.get(name, {})}
    return verdict_of(name, judge_groups(base_s, head_s, detect=detect, alpha=alpha), detect, joined(rounds), len(head), counters, policy)
