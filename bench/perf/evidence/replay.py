"""Recorded pairs of workers, and the gate over them: how often it cries wolf, and how often it catches what is planted by scaling.

A check's pairs are drawn at random from the recorded ones, without replacement and the same for all benchmarks, and `gate.Decisions`
decides, the code of a live check. Beside it stands what `pytest-benchmark --benchmark-compare-fail` would say: one process against
another one, here the head of each pair against the base of the pair before.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.progress import Progress
from bench.perf.gate.gate import Decisions
from bench.perf.gate.policy import Policy

NUM_TRIALS = 2000
SEED = 1
STATISTICS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "median": np.median, "min": np.min}
PROMISES = {0.05: 0.90, 0.10: 0.99}  # planted slow-down -> share of checks that must call it
STEPS = "train/"  # the benchmarks that the promises are about
CURVE = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.10, 0.15)  # slow-downs planted in those, for a picture
RULE = 1.05  # of --benchmark-compare-fail
RULES = tuple(f"{name}:{RULE - 1:.0%}" for name in STATISTICS)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Pairs of one file. Times have the shape (pairs, 2, rounds): base, head."""

    name: str
    times_s: dict[str, np.ndarray]  # benchmark -> times

    def log_ratios(self) -> dict[str, np.ndarray]:
        """Benchmark -> the number of each pair, (pairs,)."""
        return {name: np.median(np.log(times[:, 1] / times[:, 0]), axis=-1) for name, times in self.times_s.items()}


def read_recording(path: Path) -> Recording:
    """The pairs in a file, .jsonl or .jsonl.gz. Rounds are cut to the fewest that a pair has."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    pairs = [json.loads(line) for line in text.splitlines()]
    times = {}
    for name in pairs[0]:
        rounds = min(len(side) for pair in pairs for side in pair[name])
        times[name] = np.array([[side[:rounds] for side in pair[name]] for pair in pairs]) / 1e6
    return Recording(name=path.name.partition(".")[0], times_s=times)


def replayed(recording: Recording, policy: Policy, say: Progress) -> pd.DataFrame:
    """One row for the whole suite of an unchanged tree, and one for each benchmark and planted slow-down (0.05 for 5 %).

    "gate", "mean:5%", ...: shares of checks that say "slower". "pairs": of workers, that the gate took by the whole suite
    on average.
    """
    generator = np.random.default_rng(SEED)
    log_ratios = recording.log_ratios()
    names = list(log_ratios)
    steps_s = {name: float(np.median(times)) for name, times in recording.times_s.items()}
    recorded = len(log_ratios[names[0]])
    draws = [generator.permutation(recorded)[: policy.most_pairs] for _ in range(NUM_TRIALS)]

    # Where a slow-down is planted, and what is asked of; None for all of the suite.
    questions: list[tuple[str | None, float]] = [(None, 0.0)]
    questions += [(name, each) for name in names for each in (CURVE if name.startswith(STEPS) else PROMISES)]
    rows = []
    for index, (name, slow_down) in enumerate(questions):
        say(index, len(questions), f"{recording.name}: {name or 'whole suite'}")
        planted = {each: values + np.log1p(slow_down) if each == name else values for each, values in log_ratios.items()}
        checks = [_check({each: values[draw] for each, values in planted.items()}, steps_s, policy) for draw in draws]
        outcomes = [set(found.values()) if name is None else {found[name]} for found, _ in checks]
        rows.append(
            {
                "machine": recording.name,
                "recorded": recorded,
                "benchmark": name or "whole suite",
                "detect": policy.detect_of(name, steps_s[name]) if name else None,
                "planted": slow_down,
                "gate": float(np.mean(["regressed" in found for found in outcomes])),
                "inconclusive": float(np.mean(["inconclusive" in found for found in outcomes])),
                "pairs": float(np.mean([pairs for _, pairs in checks])),
                **_compare_fail(recording, [name] if name else names, slow_down),
            }
        )
    return pd.DataFrame(rows)


def spread(recording: Recording) -> pd.DataFrame:
    """How far pairs, and processes, of one unchanged tree differ."""
    rows = []
    for name, values in recording.log_ratios().items():
        times = recording.times_s[name]
        process = np.log(np.mean(times[1:, 1], axis=-1) / np.mean(times[:-1, 0], axis=-1))
        rows.append(
            {
                "machine": recording.name,
                "benchmark": name,
                "step_ms": 1000 * float(np.median(times)),
                "rounds": times.shape[-1],
                "pair_spread": float(np.std(values, ddof=1)),
                "largest_pair": float(np.abs(values).max()),
                "processes_over_5_percent_apart": float(np.mean(np.abs(process) > np.log(RULE))),
            }
        )
    return pd.DataFrame(rows)


def _check(log_ratios: dict[str, np.ndarray], steps_s: dict[str, float], policy: Policy) -> tuple[dict[str, str], int]:
    """(benchmark -> outcome, pairs taken) of one check."""
    decisions = Decisions(policy, list(log_ratios))
    used = 0
    while used < policy.most_pairs and (waiting := decisions.open()):
        decisions.add({name: float(log_ratios[name][used]) for name in waiting}, steps_s)
        used += 1
    return {name: estimate.outcome for name, estimate in decisions.estimates.items()}, used


def _compare_fail(recording: Recording, names: Sequence[str], slow_down: float) -> dict[str, float]:
    """Rule of --benchmark-compare-fail -> how often it says "slower" for any of `names`: each pair's head against the base before."""
    rates = {}
    for rule, function in zip(RULES, STATISTICS.values(), strict=True):
        slower = [
            (1 + slow_down) * function(recording.times_s[name][1:, 1], axis=-1) > RULE * function(recording.times_s[name][:-1, 0], axis=-1)
            for name in names
        ]
        rates[rule] = float(np.mean(np.any(slower, axis=0)))
    return rates
