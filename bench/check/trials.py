"""Does the gate keep its promises? Records pairs of workers of one unchanged tree, and replays the gate over them.

    python -m bench.check.trials record 50 reports/gate/idle.jsonl
    python -m bench.check.trials record 50 reports/gate/loaded.jsonl --load
    python -m bench.check.trials replay reports/gate reports/gate/*.jsonl

The replay draws the pairs of a check at random from the recorded ones, without replacement and the same for all benchmarks, and
lets the gate decide (`gate.Decisions`, the code of a live check). A slow-down is planted by scaling. Beside it stands what
`pytest-benchmark --benchmark-compare-fail` would say: one process against another one, here of neighbouring pairs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from bench.check.gate import Decisions
from bench.check.policy import Policy, read_policy
from bench.check.recorded import Recording, read_recording, record

NUM_TRIALS = 2000
SLOW_DOWNS = (1.05, 1.10)
SEED = 1
STATISTICS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "median": np.median, "min": np.min}
RULE = 1.05  # of --benchmark-compare-fail

app = typer.Typer(add_completion=False, help=__doc__)


@app.command(name="record")
def record_pairs(
    num_pairs: int, out: Path, load: Annotated[bool, typer.Option(help="With a neighbour that works in bursts.")] = False
) -> None:
    """Record pairs of workers of this tree; a stopped recording goes on."""
    from bench.perf.suite import suite
    from bench.progress import Reporter

    with Reporter("record").live() as progress:
        record(Path(__file__).resolve().parents[2], list(suite()), num_pairs, out, load, progress)


@app.command()
def replay(folder: Path, recordings: list[Path]) -> None:
    """Write `trials.md`, `trials.csv` and `spread.csv` into FOLDER."""
    policy = read_policy(None)
    rows, spreads = [], []
    for path in recordings:
        recording = read_recording(path)
        rows += replayed(recording, policy)
        spreads += spread(recording)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("trials", pd.DataFrame(rows)), ("spread", pd.DataFrame(spreads))):
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.4g", lineterminator="\n")
        typer.echo(frame.to_string(index=False))


def replayed(recording: Recording, policy: Policy) -> list[dict[str, object]]:
    """One row a question: how often the gate, and pytest-benchmark's three rules, say "slower"."""
    generator = np.random.default_rng(SEED)
    log_ratios = recording.log_ratios()
    steps_s = {name: float(np.median(times)) for name, times in recording.times_s.items()}
    num_pairs = len(next(iter(log_ratios.values())))
    draws = [generator.permutation(num_pairs)[: policy.most_pairs] for _ in range(NUM_TRIALS)]
    checks = [_check({name: values[draw] for name, values in log_ratios.items()}, steps_s, policy) for draw in draws]
    rows: list[dict[str, object]] = [
        {
            "recording": recording.name,
            "pairs": num_pairs,
            "planted": "nothing",
            "benchmark": "whole suite",
            "gate": np.mean([any(o == "regressed" for o in check.values()) for check, _ in checks]),
            "gate inconclusive": np.mean([any(o == "inconclusive" for o in check.values()) for check, _ in checks]),
            "gate pairs": np.mean([used for _, used in checks]),
            **_compare_fail(recording, list(log_ratios), 1.0),
        }
    ]
    for name in log_ratios:
        for slow_down in SLOW_DOWNS:
            found = [
                _check({name: log_ratios[name][draw] + np.log(slow_down)}, steps_s, policy, num_benchmarks=len(log_ratios))
                for draw in draws
            ]
            rows.append(
                {
                    "recording": recording.name,
                    "pairs": num_pairs,
                    "planted": f"{slow_down - 1:.0%}",
                    "benchmark": name,
                    "gate": np.mean([check[name] == "regressed" for check, _ in found]),
                    "gate inconclusive": np.mean([check[name] == "inconclusive" for check, _ in found]),
                    "gate pairs": np.mean([used for _, used in found]),
                    **_compare_fail(recording, [name], slow_down),
                }
            )
    return rows


def spread(recording: Recording) -> list[dict[str, object]]:
    """How far pairs, and processes, of one unchanged tree differ."""
    rows = []
    for name, values in recording.log_ratios().items():
        times = recording.times_s[name]
        process = np.log(np.mean(times[1:, 1], axis=-1) / np.mean(times[:-1, 0], axis=-1))
        rows.append(
            {
                "recording": recording.name,
                "benchmark": name,
                "step ms": 1000 * float(np.median(times)),
                "rounds": times.shape[-1],
                "spread of pairs %": 100 * float(np.std(values, ddof=1)),
                "largest pair %": 100 * float(np.abs(values).max()),
                "processes over 5 % apart": float(np.mean(np.abs(process) > np.log(RULE))),
            }
        )
    return rows


def _check(
    log_ratios: dict[str, np.ndarray], steps_s: dict[str, float], policy: Policy, num_benchmarks: int | None = None
) -> tuple[dict[str, str], int]:
    """Outcomes of one check and the pairs it took."""
    decisions = Decisions(policy, list(log_ratios), num_benchmarks=num_benchmarks)
    used = 0
    while used < policy.most_pairs and (waiting := decisions.open()):
        decisions.add({name: float(log_ratios[name][used]) for name in waiting}, steps_s)
        used += 1
    return {name: estimate.outcome for name, estimate in decisions.estimates.items()}, used


def _compare_fail(recording: Recording, names: list[str], slow_down: float) -> dict[str, float]:
    """Rule of --benchmark-compare-fail -> how often it says "slower" for any of `names`: each pair's head against the base before."""
    rates = {}
    for statistic, function in STATISTICS.items():
        slower = [
            slow_down * function(recording.times_s[name][1:, 1], axis=-1) > RULE * function(recording.times_s[name][:-1, 0], axis=-1)
            for name in names
        ]
        rates[f"{statistic}:5%"] = float(np.mean(np.any(slower, axis=0)))
    return rates


if __name__ == "__main__":
    app()
