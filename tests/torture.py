"""The torture test: a tiny run is killed at random moments, over and over, until it ends; what is left must be that of an unkilled one.

`python -m tests.torture --kills 60 --seed 0 --out reports/faults`. Killed are the parent, the process of a job, all of both, by SIGKILL;
SIGTERM and SIGINT ask the parent to stop. After each there must be no process; after the last, the same losses bit for bit, records that
can be read, and no file that an unkilled run does not leave.
"""

import argparse
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from bench.data.files import StoreError, write_text
from bench.records.record import Record
from bench.records.store import latest, read_record, read_run
from bench.report.render.markdown import markdown_table
from tests.commands import ROOT, write_matrix
from tests.tiny import cell_fields

MARK = "UNET_VS_DIT_TORTURE"  # in the environment of every process of a run: how its orphans are found
KINDS = ("parent", "job", "all", "SIGTERM", "SIGINT")  # the first three by SIGKILL
GONE_S = 60.0  # until every process has ended
NUM_STEPS = 300
TRAINING_S = 5.0  # after its first checkpoint, from which half of the moments are drawn
AT_ONCE = 2  # runs, each on a thread of its own
KILLS_OF_A_RUN = 10  # at most; then it is left to end
EXIT_STOPPED = 130
ABOUT = """# Kills

A run of a tiny cell ({steps} steps, a checkpoint whenever there is time) is killed at random moments, started again,
and so on until it ends; then the next one. "parent", "job" and "all" are killed by SIGKILL: the process that was started, the one that
does its job, or both. SIGTERM and SIGINT ask the first to stop, which must then end with
status {stopped}, or by the signal itself where its command had not begun.

{kills}

{runs}

Losses are compared bit for bit with an unkilled run; files are all of the results folder but further attempts that say who killed them.
Made by `{command}`.
"""


@dataclass
class Chain:
    """A run that is killed until it ends."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, phase) -> how often
    resumed: int = 0  # times that training went on from a checkpoint
    wrong: list[str] = field(default_factory=list)  # differences from an unkilled run


def matrix(folder: Path, name: str = "tiny", num_steps: int = NUM_STEPS, **changes: Any) -> Path:
    """A small cell that saves whenever a step ends, as far as that costs no more than a twentieth of the time."""
    fields = cell_fields(
        budget={"steps": num_steps},
        checkpoint_interval_s=0.0,
        evaluation={"extractors": ["random3d"], "num_samples": 4, "untrained": False},
    )
    del fields["backbone"]
    return write_matrix(folder, name, **{"axes": {"backbone": ["tests.small:DiT-XXS/2"]}, "match": None, "defaults": fields, **changes})


def start(path: Path, results: Path, mark: str, log: Path) -> "subprocess.Popen[bytes]":
    """The run in a group of its own, as a shell starts it."""
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench", "run", str(path), "--results", str(results)]
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # what a shell starts with & ignores it
        )


def processes(mark: str) -> list[psutil.Process]:
    """Those of a run that live."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def kill(kind: str, run: "subprocess.Popen[bytes]", mark: str) -> None:
    """By one of KINDS."""
    if kind in ("SIGTERM", "SIGINT"):
        run.send_signal(getattr(signal, kind))
        return
    alive = processes(mark)
    if kind == "job":
        alive = [process for process in alive if process.pid != run.pid]
    elif kind == "parent":
        alive = [process for process in alive if process.pid == run.pid]
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


def phase(results: Path) -> str:
    """What a run was at, by what it has made."""
    folder = results / "tiny"
    if list(folder.glob("*/checkpoint.pt")):
        return "training and after"
    return "stages" if list((results / "cache").glob("*")) else "start"


def chain(path: Path, folder: Path, rng: Random, seconds: float, num_kills: int, kinds: tuple[str, ...] = KINDS) -> Chain:
    """Kill a run at most `num_kills` times, then let it end."""
    results, log, found, unkilled_starts = folder / "results", folder / "log", Chain(), 0
    while True:
        mark = f"{folder}/{rng.random()}"
        run = start(path, results, mark, log)
        while found.kills.total() < num_kills:
            wait(run, results, rng, seconds)
            if run.poll() is not None:
                break
            kind, at = rng.choice(kinds), phase(results)
            found.kills[kind, at] += 1
            kill(kind, run, mark)
            if kind != "job":  # whose parent goes on with the next cell, or ends
                code = run.wait(timeout=GONE_S)
                before = (-signal.SIGTERM, -signal.SIGINT) if at == "start" else ()  # the command had not begun: Python was importing it
                if kind in ("SIGTERM", "SIGINT") and code not in (EXIT_STOPPED, 0, *before):
                    found.wrong.append(f"{kind} in {phase(results)} ended with {code}: {log.read_text()[-500:]}")
                break
        code = run.wait(timeout=600)
        if left := orphans(mark):
            found.wrong.append(f"orphans: {left}")
        if code == 0:
            break
        unkilled_starts += found.kills.total() >= num_kills
        if unkilled_starts > 2:  # the first may still be the one that was killed last, or report its killed cell
            found.wrong.append(f"the run ends with {code} although nobody kills it: {log.read_text(errors='replace')[-500:]}")
            break
    found.resumed = log.read_text(errors="replace").count("resumed at step")
    return found


def wait(run: "subprocess.Popen[bytes]", results: Path, rng: Random, seconds: float) -> None:
    """Until the moment of a kill, or the end of the run: half are drawn from all of it, half from the seconds after training began."""
    begun_s = time.time()
    if rng.randrange(2):
        while run.poll() is None and not any(saved_s(path) > begun_s for path in results.glob("tiny/*/checkpoint.pt")):
            time.sleep(0.02)
        seconds = TRAINING_S
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(timeout=rng.random() * seconds)


def saved_s(path: Path) -> float:
    """When a file was written last; 0 where it is being replaced."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def orphans(mark: str) -> list[str]:
    """Command lines of processes that outlive their run for long."""
    deadline_s = time.monotonic() + GONE_S
    while (alive := processes(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return [" ".join(process.cmdline()) for process in alive]


def differences(results: Path, expected: Path) -> Iterator[str]:
    """What a killed run left otherwise than an unkilled one."""
    for cell, good in records(expected).items():
        record = records(results).get(cell)
        if record is None or record.status != "ok" or record.training is None or good.training is None:
            yield f"{cell} is {record.status if record else 'missing'}"
            continue
        for name in ("loss", "grad_norm", "num_samples", "validation_by_timestep"):
            if getattr(record.training, name) != getattr(good.training, name):
                yield f"{cell}: another {name}"
        for measured in good.measurements:
            own = record.measurement(measured.name, measured.subject)
            if measured.name.startswith(("val_loss", "fd_", "kd_", "psnr")) and (own is None or own.value != measured.value):
                yield f"{cell}: another {measured.name} of {measured.subject}"
    for path in results.rglob("attempt-*.json"):
        try:
            record = read_record(path)
        except StoreError as error:
            yield f"torn: {error}"
            continue
        if record.status != "ok" and "SIGKILL" not in str(record.reason):
            yield f"{path.relative_to(results)} is {record.status}: {record.reason}"
    ours, theirs = (sorted(names(folder)) for folder in (results, expected))
    yield from (f"left behind: {name}" for name in ours if name not in theirs)
    yield from (f"missing: {name}" for name in theirs if name not in ours)


def records(results: Path) -> dict[str, Record]:
    """Cell -> its newest record."""
    found = {cell.name: latest(results / "tiny" / cell.folder) for cell in read_run(results / "tiny").cells}
    return {name: record for name, record in found.items() if record is not None}


def names(results: Path) -> set[str]:
    """Of all files, hidden ones too; attempts count once."""
    found = (path.relative_to(results).as_posix() for path in results.rglob("*"))
    return {re.sub(r"attempt-\d+", "attempt-n", name) for name in found}


def torture(folder: Path, seed: int, num_kills: int, say: Any) -> list[Chain]:
    """Chains until there are `num_kills`."""
    path = matrix(folder)
    (folder / "unkilled").mkdir()
    start_s = time.monotonic()
    run = start(path, folder / "unkilled" / "results", "unkilled", folder / "unkilled" / "log")
    if run.wait(timeout=600):
        raise RuntimeError((folder / "unkilled" / "log").read_text())
    seconds = time.monotonic() - start_s
    chains: list[Chain] = []

    def next_chain(own: Path, place: int) -> Chain:
        own.mkdir()
        found = chain(path, own, Random(f"{seed}/{place}"), 0.8 * seconds, KILLS_OF_A_RUN)
        found.wrong += differences(own / "results", folder / "unkilled" / "results")
        say(f"run {place}: {found.kills.total()} kills, resumed {found.resumed} times, {'; '.join(found.wrong) or 'equal'}")
        return found

    def work(_: int) -> None:
        """One run after the other while kills are wanted."""
        while sum(each.kills.total() for each in chains) < num_kills:
            place = next(places)
            chains.append(next_chain(folder / str(place), place))

    places = itertools.count()  # each is drawn by itself: which thread takes it does not matter
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, range(AT_ONCE)))
    return chains


def to_tables(chains: list[Chain]) -> tuple[str, str]:
    """Kills by kind and phase; what came of the runs."""
    kills = sum((each.kills for each in chains), Counter())
    phases = sorted({at for _, at in kills}, key=["start", "stages", "training and after"].index)
    rows = [[kind, *(str(kills[kind, at]) for at in phases)] for kind in KINDS]
    rows.append(["all", *(str(sum(kills[kind, at] for kind in KINDS)) for at in phases)])
    total = ["runs", "kills", "resumed in training", "orphans", "torn records", "other losses or values", "files left or missing", "other"]
    wrong = [line for each in chains for line in each.wrong]
    counts = [sum(sign in line for line in wrong) for sign in ("orphans:", "torn:", ": another ")]
    counts.append(sum(line.startswith(("left behind:", "missing:")) for line in wrong))
    numbers = [len(chains), kills.total(), sum(each.resumed for each in chains), *counts, len(wrong) - sum(counts)]
    return (
        markdown_table(["killed", *phases], rows, figures=range(1, 1 + len(phases))),
        markdown_table(total, [list(map(str, numbers))], figures=range(len(total))),
    )


def main() -> int:
    """Status 1 where anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for torture.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chains = torture(Path(folder), given.seed, given.kills, lambda line: print(line, flush=True))
    kills, runs = to_tables(chains)
    print(f"\n{kills}\n\n{runs}")
    if given.out:
        command = f"python -m tests.torture --kills {given.kills} --seed {given.seed} --out {given.out.as_posix()}"
        text = ABOUT.format(steps=NUM_STEPS, stopped=EXIT_STOPPED, kills=kills, runs=runs, command=command)
        write_text(given.out / "torture.md", text)
    return int(any(each.wrong for each in chains))


if __name__ == "__main__":
    sys.exit(main())
