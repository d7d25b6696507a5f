"""Does the gate keep its promises? Its evidence, from recording to page.

    python -m bench.perf.evidence.trials record 50 reports/gate/idle.jsonl
    python -m bench.perf.evidence.trials record 50 reports/gate/loaded.jsonl --load
    python -m bench.perf.evidence.trials live reports/gate/live.jsonl
    python -m bench.perf.evidence.trials replay reports/gate idle.jsonl loaded.jsonl

A recording or a series of live checks that was stopped goes on.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from bench.data.files import write_text
from bench.data.progress import Reporter
from bench.perf.evidence.evidence import PICTURE, power, to_markdown
from bench.perf.evidence.planted import neighbour, run_trials, twice
from bench.perf.evidence.replay import read_recording, replayed, spread
from bench.perf.gate.lockstep import run_pair
from bench.perf.gate.policy import read_policy
from bench.perf.suite import suite
from bench.shapes import Refusal

PROJECT = Path(__file__).resolve().parents[3]
LIVE = "live.jsonl"

app = typer.Typer(add_completion=False, help=__doc__)


@app.command(name="record")
def record_pairs(
    num_pairs: int, out: Path, load: Annotated[bool, typer.Option(help="With a neighbour that works in bursts.")] = False
) -> None:
    """Record pairs of workers of this tree, times in microseconds, one JSON a line and pair."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = len(out.read_text().splitlines()) if out.is_file() else 0
    with Reporter("record").live() as progress, neighbour(load), out.open("a", encoding="utf-8") as file:
        for index in range(done, num_pairs):
            pair = run_pair(twice(PROJECT), list(suite()), index=index, count=False, say=partial(progress, index, num_pairs))
            if pair.failed:
                raise Refusal(f"a benchmark failed: {pair.failed}")
            times = {name: [[round(1e6 * s) for s in side] for side in (r.base_s, r.head_s)] for name, r in pair.rounds.items()}
            file.write(json.dumps(times) + "\n")
            file.flush()


@app.command()
def live(out: Path) -> None:
    """Check commits of a clone of this tree with and without something planted in its code."""
    with Reporter("live").live() as progress:
        for row in run_trials(PROJECT, out, read_policy(None), progress):
            typer.echo(f"{row['machine']:<8}{row['planted']:<50}{'right' if row['right'] else 'WRONG'}, {', '.join(row['regressed'])}")


@app.command()
def replay(folder: Path, recordings: Annotated[list[str], typer.Argument(help="Files in FOLDER.")]) -> None:
    """Write `trials.md`, its tables as CSV and its picture into FOLDER."""
    policy = read_policy(None)
    read = [read_recording(folder / name) for name in recordings]
    with Reporter("replay").live() as progress:
        rows = pd.concat([replayed(recording, policy, progress) for recording in read])
    spreads = pd.concat([spread(recording) for recording in read])
    checks = [json.loads(line) for line in (folder / LIVE).read_text().splitlines()] if (folder / LIVE).is_file() else []
    for name, frame in (("trials", rows), ("spread", spreads)):
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.4g", lineterminator="\n")
    write_text(folder / PICTURE, power(rows))
    page = to_markdown(rows, spreads, checks, policy)
    write_text(folder / "trials.md", page)
    typer.echo(page)


if __name__ == "__main__":
    app()
