"""A borrowed quarter of an hour of a GPU: `python -m bench.perf.tour.tour`, what `tox -e gpu-tour` runs.

Parts run most valuable first, each with its own limit, until the minutes are used. What they find is written at once; the same command
goes on with what is missing. Needs no network. `--dry` runs all of it on a CPU, as small as it can be, and shows that it runs.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.data.files import StoreError, now, write_text
from bench.data.progress import Say, say
from bench.perf.tour import page, result
from bench.perf.tour.parts import TourPlan, plans
from bench.perf.tour.result import StepRow, Tour, TourPart
from bench.records.environment import commit, list_gpus, read_environment
from bench.run.threads import CALM
from bench.shapes import Refusal, visible

OUT, DRY_OUT = Path("reports/gpu-tour"), Path("reports/gpu-tour-dry")
MINUTES = 10.0
LEAST_S = 15.0  # with less left no part begins
GRACE_S = 20.0  # that a part has to write a checkpoint once it is told to stop
FEWEST_MINUTES = 0.5


def run(out: Path, *, dry: bool, minutes: float, tell: Say) -> Tour:
    """Take the tour, or what is left of it. Refusal where there is no GPU, or `out` holds another machine's."""
    if not dry and not list_gpus():
        raise Refusal("a tour needs a CUDA device, and the driver shows none; to see that all of it runs: --dry")
    if minutes < FEWEST_MINUTES:
        raise Refusal(f"--minutes {minutes:g} is too short for any part; give {FEWEST_MINUTES:g} or more")
    end_s = time.monotonic() + 60 * minutes
    tour = Tour(code=result.code_hash(), dry=dry, environment=read_environment())
    before = result.read(out)
    if before is not None and not before.goes_on_as(tour):
        raise Refusal(f"{out / result.FILE} is of other code or another machine; move it away, or give another --out")
    tour = before or tour
    every = plans(dry=dry)
    for number, plan in enumerate(every, 1):
        known = tour.parts.get(plan.name)
        if known is not None and known.status == "done":
            tell(f"[{number}/{len(every)}] {plan.name}: done before, {known.what}")
            continue
        left_s = end_s - time.monotonic()
        if left_s < LEAST_S:
            tell(f"[{number}/{len(every)}] {plan.name}: no time is left of {minutes:g} minutes; the same command goes on with it")
            continue
        limit_s = min(plan.limit_s, left_s - GRACE_S / 2)
        tell(f"[{number}/{len(every)}] {plan.name}, {plan.about}: at most {limit_s:.0f} s")
        part = _take(plan, limit_s, out)
        tour = tour.model_copy(update={"parts": {name: old for name, old in tour.parts.items() if name != plan.name} | {plan.name: part}})
        result.write(out, tour)
        write_text(out / page.FILE, page.markdown(tour, [each.name for each in every]))
        tell(f"[{number}/{len(every)}] {plan.name}: {part.status} in {part.wall_time_s:.0f} s, {part.what}")
    return tour


def _take(plan: TourPlan, limit_s: float, out: Path) -> TourPart:
    """A part, with what it printed beside the rest. One that does not end in its time is told to stop, then killed."""
    slug = plan.name.replace(" ", "-").replace(":", "-").replace("/", "-")
    log, rows = out / "logs" / f"{slug}.txt", out / "logs" / f"{slug}.jsonl"
    rows.parent.mkdir(parents=True, exist_ok=True)
    rows.unlink(missing_ok=True)
    start_s = time.monotonic()
    status = "done"
    with log.open("w", encoding="utf-8") as file:
        for command in plan.commands(out, rows):
            left_s = limit_s - (time.monotonic() - start_s)
            code = _run(command, max(left_s, 1.0), file.fileno())
            if code != 0:
                status = "out of time" if code is None else "failed"
                break
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    found = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    return TourPart(
        status=status,
        what=visible(lines[-1])[:300] if lines else "it printed nothing",
        limit_s=limit_s,
        wall_time_s=time.monotonic() - start_s,
        ended_at=now(),
        commit=commit(),
        rows=[StepRow.model_validate_json(line) for line in found if line.endswith("}")],
    )


def _run(command: tuple[str, ...], limit_s: float, log: int) -> int | None:
    """Exit status; None where it had to be ended. Nothing that it started is left."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=CALM | os.environ
    )
    try:
        try:
            return process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE_S)
            return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(
    out: Annotated[Path | None, typer.Option(help="Folder of records and pages; reports/gpu-tour by default.")] = None,
    dry: Annotated[bool, typer.Option("--dry", help="All of it on a CPU, as small as it can be.")] = False,
    minutes: Annotated[float, typer.Option(help="That all parts together may take.")] = MINUTES,
) -> None:
    """Measure what only a GPU can show, within minutes."""
    try:
        tour = run(out or (DRY_OUT if dry else OUT), dry=dry, minutes=minutes, tell=say)
    except (Refusal, StoreError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    missing = [plan.name for plan in plans(dry=dry) if plan.name not in tour.parts or tour.parts[plan.name].status != "done"]
    say(f"{(out or (DRY_OUT if dry else OUT)) / page.FILE}" + (f"; not done: {', '.join(missing)}" if missing else ""))
    raise SystemExit(1 if missing else 0)


if __name__ == "__main__":
    typer.run(main)
