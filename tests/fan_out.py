"""Many cells over two workers, by each launcher, whole and under fire: what is left must be what one worker leaves, one cell at a time.

`python -m tests.fan_out --on local --on slurm --on ray --kills 30 --seed 0 --out reports/faults`. Killed by SIGKILL are the command (the
head), the process of a cell (worker), and what a launcher has around it (its own process on a node); jobs in a queue are also cancelled.
SLURM is started on this machine's loopback (root, Debian's slurm-wlm and munge), Ray as two nodes of its own.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from bench.data.files import StoreError, write_text
from bench.records.environment import cpu_id
from bench.records.record import Record
from bench.records.store import latest, read_record, read_run
from bench.report.render.markdown import markdown_table
from bench.run.claim import CLAIM
from tests import torture
from tests.commands import ROOT

NUM_SEEDS = 6
BACKBONES = ("tests.small:DiT-XXS/2", "tests.small:DiT-XXS/2{depth: 3}")
NUM_STEPS = 120
NAME = "fan"
BETWEEN_S = 12.0  # at most, until a kill
UNTIMED = ("loss", "grad_norm", "num_samples", "validation_by_timestep", "step_work")
ABOUT = """# Fan-out

{num} tiny cells ({seeds} seeds of two backbones, {steps} steps) over two workers, by each launcher, against the same one by one on one
worker: losses, gradient norms, work of every step, validation losses and all measurements but those of time and memory, bit for bit.
Then once more under fire: until so many kills are done something that runs is drawn, killed or cancelled, and the command given again
wherever it has ended. "head" is the command, "worker" the process of a cell, "node" what the launcher has around it, by SIGKILL; "cancel"
is `scancel`. A cell is trained twice to its end where it has two records that say ok.

{table}

{kills}

One machine, `{cpu}`: "two workers" are two processes of one thread each. Made by `{command}`.
"""


@dataclass
class Place:
    """A launcher as this test drives it."""

    arguments: tuple[str, ...]  # of `run`
    kinds: dict[str, Callable[[Random], bool]]  # what is killed -> kills one of it, if there is any


@dataclass
class Outcome:
    """Of a launcher."""

    name: str
    seconds: float = 0.0
    whole: list[str] = field(default_factory=list)  # differences of the run that nobody killed
    kills: Counter[str] = field(default_factory=Counter)
    fire: list[str] = field(default_factory=list)  # of the other
    starts: int = 0
    twice: int = 0
    torn: int = 0


def matrix(folder: Path) -> Path:
    """Cells that write a checkpoint whenever there is time."""
    return torture.matrix(folder, NAME, NUM_STEPS, axes={"backbone": list(BACKBONES)}, seeds=list(range(NUM_SEEDS)))


def start(path: Path, results: Path, arguments: tuple[str, ...], log: Path) -> "subprocess.Popen[bytes]":
    """The command in a group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench", "run", str(path), "--results", str(results), *arguments]
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True)


def records(results: Path) -> dict[str, Record]:
    """Cell -> its newest record."""
    found = {cell.name: latest(results / NAME / cell.folder) for cell in read_run(results / NAME).cells}
    return {name: record for name, record in found.items() if record is not None}


def differences(results: Path, expected: dict[str, Record]) -> Iterator[str]:
    """What is otherwise than one by one."""
    found = records(results)
    for name, good in expected.items():
        record = found.get(name)
        if record is None or record.status != "ok" or record.training is None or good.training is None:
            yield f"{name} is {record.status if record else 'missing'}: {record.reason if record else ''}"
            continue
        yield from (f"{name}: another {each}" for each in UNTIMED if getattr(record.training, each) != getattr(good.training, each))
        for measured in good.measurements:
            own = record.measurement(measured.name, measured.subject)
            if measured.name.startswith(("val_loss", "fd_", "kd_", "psnr")) and (own is None or own.value != measured.value):
                yield f"{name}: another {measured.name} of {measured.subject}"


def one(rng: Random, alive: list[psutil.Process]) -> bool:
    """Kill one of these processes."""
    if not alive:
        return False
    with contextlib.suppress(psutil.Error):
        rng.choice(sorted(alive, key=lambda process: process.pid)).kill()
    return True


def processes(pattern: str) -> list[psutil.Process]:
    """Those whose command line matches."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if re.search(pattern, " ".join(process.cmdline())):
                found.append(process)
    return found


def workers(rng: Random) -> bool:
    return one(rng, processes(r"-m bench\.run\.worker"))


def cancel(rng: Random) -> bool:
    """One job that runs or waits."""
    lines = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=False).stdout.split()
    if not lines:
        return False
    subprocess.run(["scancel", rng.choice(lines)], check=False)
    return True


@contextlib.contextmanager
def place(name: str, folder: Path) -> Iterator[Place]:
    """The launcher's cluster, while the block runs."""
    if name == "local":
        yield Place(("--devices", "cpu,cpu"), {"worker": workers})
    elif name == "slurm":
        from tests.slurm_cluster import slurm_cluster

        folder.mkdir()
        node = {"node": lambda rng: one(rng, processes(r"submitit\.core\._submit"))}
        with slurm_cluster(folder):
            yield Place(("--on", "slurm", "--with", "cpus=1"), {"worker": workers, "cancel": cancel, **node})
    else:
        from tests.ray_cluster import ray_cluster

        node = {"node": lambda rng: one(rng, processes(r"^ray::perform"))}
        with ray_cluster() as cluster:
            yield Place(cluster.arguments, {"worker": workers, **node})


def whole(path: Path, folder: Path, where: Place, expected: dict[str, Record], found: Outcome) -> None:
    """The run that nobody kills."""
    begun_s = time.monotonic()
    run = start(path, folder / "whole", where.arguments, folder / "whole.log")
    if run.wait(timeout=1800):
        raise RuntimeError((folder / "whole.log").read_text()[-2000:])
    found.seconds = time.monotonic() - begun_s
    found.whole = list(differences(folder / "whole", expected))


def under_fire(path: Path, folder: Path, where: Place, expected: dict[str, Record], found: Outcome, rng: Random, num_kills: int) -> None:
    """The run that is killed until it ends; where it ends too early, another one."""
    for round_ in range(1000):
        results = folder / f"fire{round_}"
        while True:
            run = start(path, results, where.arguments, folder / "fire.log")
            found.starts += 1
            while found.kills.total() < num_kills:
                wait(run, results, rng)
                if run.poll() is not None:
                    break
                kind = rng.choice(["head", *where.kinds])
                if kind == "head":
                    run.kill()
                    found.kills[kind] += 1
                    break
                found.kills[kind] += where.kinds[kind](rng)
            code = run.wait(timeout=1800)
            if code == 0:
                break
            told = (folder / "fire.log").read_text(errors="replace")[-300:]
            if code not in (1, 130, -signal.SIGKILL) and "run the same command again to go on" not in told:
                found.fire.append(f"the command ends with {code}: {told}")
                break
        found.fire += list(differences(results, expected))
        for file in results.rglob("attempt-*.json"):
            try:
                read_record(file)
            except StoreError:
                found.torn += 1
        for cell in read_run(results / NAME).cells:
            attempts = [read_record(attempt) for attempt in (results / NAME / cell.folder).glob("attempt-*.json")]
            found.twice += sum(attempt.status == "ok" for attempt in attempts) > 1
        if found.kills.total() >= num_kills:
            return


def wait(run: "subprocess.Popen[bytes]", results: Path, rng: Random) -> None:
    """Until the moment of a kill, or the end of the command: three of four while a cell is at work, one at any time."""
    if rng.randrange(4):
        while run.poll() is None and not any(results.glob(f"{NAME}/*/{CLAIM}")):
            time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(timeout=rng.random() * BETWEEN_S)


def to_text(outcomes: list[Outcome], command: str) -> str:
    """The page."""
    rows = [
        [
            each.name,
            str(len(each.whole)),
            str(each.kills.total()),
            str(each.starts),
            str(len(each.fire)),
            str(each.twice),
            str(each.torn),
            f"{each.seconds:.0f}",
        ]
        for each in outcomes
    ]
    head = ["launcher", "differences", "kills", "commands until done", "differences after", "trained twice", "torn records", "whole run, s"]
    kinds = sorted({kind for each in outcomes for kind in each.kills})
    return ABOUT.format(
        num=NUM_SEEDS * len(BACKBONES),
        seeds=NUM_SEEDS,
        steps=NUM_STEPS,
        table=markdown_table(head, rows, figures=range(1, len(head))),
        kills=markdown_table(
            ["killed", *kinds], [[each.name, *(str(each.kills[kind]) for kind in kinds)] for each in outcomes], figures=range(1, 9)
        ),
        cpu=cpu_id(),
        command=command,
    )


def main() -> int:
    """Status 1 where anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.fan_out", description=__doc__)
    parser.add_argument("--on", action="append", choices=("local", "slurm", "ray"), required=True)
    parser.add_argument("--kills", type=int, default=30, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for fan-out.md")
    given = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        path = matrix(folder)
        single: Any = start(path, folder / "one-by-one", (), folder / "one.log")
        if single.wait(timeout=1800):
            raise RuntimeError((folder / "one.log").read_text()[-2000:])
        expected = records(folder / "one-by-one")
        for name in given.on:
            found, own = Outcome(name), folder / name
            own.mkdir()
            with place(name, own / "cluster") as where:
                whole(path, own, where, expected, found)
                print(f"{name}: {found.seconds:.0f} s, {'; '.join(found.whole) or 'equal'}", flush=True)
                under_fire(path, own, where, expected, found, Random(f"{given.seed}/{name}"), given.kills)
            print(f"{name}: {dict(found.kills)}, {found.starts} commands, {'; '.join(found.fire) or 'equal'}", flush=True)
            outcomes.append(found)
    command = f"python -m tests.fan_out {' '.join(f'--on {name}' for name in given.on)} --kills {given.kills} --seed {given.seed}"
    text = to_text(outcomes, f"{command} --out {(given.out or Path('reports/faults')).as_posix()}")
    print(f"\n{text}")
    if given.out:
        write_text(given.out / "fan-out.md", text)
    return int(any(each.whole or each.fire or each.twice or each.torn for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
