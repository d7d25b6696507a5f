"""What several processes for one cell cost and give on one machine, DDP and FSDP by gloo, and whether the simulator would have known.

    python -m bench.perf.evidence.spread

Groups of one, two and four processes are open at once and take turns, step by step, so that what else the machine does falls on all.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.data.files import write_text
from bench.data.progress import Reporter
from bench.perf.evidence.scale.group import Group
from bench.perf.evidence.scale.ways import ASKED, BACKBONES, COLLECTIVES, NUMS, ONE, SIZES, TOLD_BYTES, WAYS, Spreading
from bench.perf.evidence.spread_page import to_markdown
from bench.records.environment import commit, read_environment

STEPS = 2  # of a turn
FEWEST_ROUNDS = 3
CALLS = 10  # of a collective in a turn


def measure(minutes: float, progress: Reporter) -> dict[str, Any]:
    """Rounds of all ways of both backbones and of bare collectives, until so many minutes have passed since the first."""
    rounds: list[dict[str, dict[str, float]]] = []
    with ExitStack() as opened:
        groups = {num: opened.enter_context(Group(num)) for num in (1, *NUMS)}
        turns = list(_opened(groups, progress))
        _collectives(groups)  # the first of each finds its way
        start_s = time.perf_counter()
        while len(rounds) < FEWEST_ROUNDS or time.perf_counter() - start_s < 60 * minutes:
            progress(int(time.perf_counter() - start_s), round(60 * minutes), f"round {len(rounds) + 1}")
            found: dict[str, dict[str, float]] = {name: {} for name in BACKBONES}
            for backbone, way, number in turns if len(rounds) % 2 == 0 else turns[::-1]:
                found[backbone][way.key] = groups[way.num].seconds("steps", number=number, count=STEPS)
            rounds.append(found | {"collectives": _collectives(groups)})
        counts: dict[str, dict[str, Any]] = {name: {} for name in BACKBONES}
        for backbone, way, number in turns:
            counts[backbone][way.key] = groups[way.num].ask("counts", number=number)[0]
    environment = read_environment().model_dump(include={"cpu", "cpu_id", "num_cpus"})
    lean = {name: lean_counts(own) for name, own in counts.items()}
    return {"commit": commit(), "environment": environment, "rounds": rounds, "counts": lean}


def _opened(groups: dict[int, Group], progress: Reporter) -> Iterator[tuple[str, Spreading, int]]:
    """Every way of every backbone and its number in its group."""
    pairs = [(backbone, way) for backbone in BACKBONES for way in WAYS]
    for done, (backbone, way) in enumerate(pairs):
        progress(done, len(pairs), f"opening {backbone}, {way.key}")
        asked = {"backbone": backbone, "kind": way.kind, "batch_size": way.batch_size, "alone": way.kind == "none"}
        yield backbone, way, groups[way.num].ask("open", **asked)[0]


def _collectives(groups: dict[int, Group]) -> dict[str, float]:
    """Seconds of each, of each size."""
    return {
        f"{kind} {num} {size}": groups[num].seconds("collective", kind=kind, num_bytes=size, count=CALLS)
        for num in NUMS
        for kind in COLLECTIVES
        for size in (TOLD_BYTES, *SIZES)
    }


def lean_counts(own: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of a backbone its sizes, and by way the bytes that are kept and how far losses are from those of one process."""
    one = own[ONE.key]
    return {
        "num_params": one["num_params"],
        "unit_params": one["unit_params"],
        "kept_bytes": {way.key: own[way.key]["kept_bytes"] for way in ASKED},
        "losses_apart": {way.key: _apart(own[way.key]["losses"], one["losses"]) for way in ASKED},
    }


def _apart(losses: list[float], right: list[float]) -> float:
    """Largest relative difference of a step's loss."""
    return max(abs(own - one) / abs(one) for own, one in zip(losses, right, strict=True))


def main(
    minutes: Annotated[float, typer.Option(help="Of rounds; opening comes before, a minute or two on idle cores.", min=0)] = 8.0,
    out: Annotated[Path, typer.Option(help="Folder of spread.json and spread.md.")] = Path("reports/scale"),
    again: Annotated[bool, typer.Option("--again", help="The page anew from spread.json; nothing is measured.")] = False,
) -> None:
    """Measure by turns, predict, and write both."""
    if again:
        found = json.loads((out / "spread.json").read_text())
    else:
        found = measure(minutes, Reporter("spread"))
        write_text(out / "spread.json", json.dumps(found, indent=1) + "\n")
    write_text(out / "spread.md", to_markdown(found, STEPS))


if __name__ == "__main__":
    typer.run(main)
