"""`python -m tests.fuzz`: try inputs, print and write the table, write findings; or try a stored finding again."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.data.files import write_text
from tests.fuzz.guard import ALLOCATION, LIMIT_S
from tests.fuzz.shards import domains, fuzz, replay, to_table, write_findings

ABOUT = """# Bad input

How inputs end that a seeded fuzzer damaged: matrices and overrides as YAML, records and `run.json`, arrays, videos and images as `score`
and a source of data read them, what a cell leaves (artefacts, weights, checkpoints), and caches (stages of a run, sets of `score`).
Each must end in success or in a refusal of one line. A finding is anything else: another traceback, more than {limit:g} seconds, more than
{gib:g} GiB, something written outside its folder or run, or another value than of undamaged files.

{table}

Made by `{command}`.
"""


def main() -> int:
    """Status 1 where there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=2, help="processes; the inputs are the same for any number")
    parser.add_argument("--only", help="one domain", choices=[domain.name for domain in domains()])
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="folder of the inputs that were findings")
    parser.add_argument("--out", type=Path, help="folder for fuzz.md")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="instead, try stored findings again")
    given = parser.parse_args()
    if given.replay:
        with tempfile.TemporaryDirectory() as folder:
            outcomes = [(path, replay(path, Path(folder))) for path in given.replay]
        for path, outcome in outcomes:
            print(f"{path}: {outcome.ending} {outcome.cause}\n{outcome.detail}")
        return int(any(outcome.ending == "finding" for _, outcome in outcomes))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    start_s = time.monotonic()
    tally = fuzz(given.seed, given.inputs, given.shards, given.only)
    table = to_table(tally)
    print(table)
    for line in write_findings(tally, given.findings):
        print(line)
    print({name: round(seconds, 1) for name, seconds in tally.seconds.items()}, f"{time.monotonic() - start_s:.0f} s", file=sys.stderr)
    if given.out:
        command = f"python -m tests.fuzz --inputs {given.inputs} --seed {given.seed} --out {given.out.as_posix()}"
        text = ABOUT.format(limit=LIMIT_S, gib=ALLOCATION / 2**30, table=table, command=command)
        write_text(given.out / "fuzz.md", text)
    return int(bool(tally.causes))


if __name__ == "__main__":
    sys.exit(main())
