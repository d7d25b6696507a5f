"""The process of a job, `python -m bench.run.worker PARENT FILE`: a job on standard input; signals and errors into exit statuses.

Of several processes that do one together (bench/run/agent.py) each is told where the job is: PARENT FILE JOB.

What is heavy is imported late: from the first moment on, this process must not outlive a parent that was killed.
"""

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from bench.data.sealed import show_in_one_line
from bench.run.checks import check_all, check_cell, tell_broken
from bench.run.job import EXIT_BAD_INPUT, EXIT_STOPPED, TRACEBACK, CellJob, Job, MatchJob, PaceJob, PrepareJob, SampleJob, SizeJob, read_job
from bench.run.watch import Watch, opened
from bench.shapes import Refusal, lines_of


def main(parent: int, file: str, job_file: str | None = None) -> int:
    """Run a job for the process `parent`; the exit status and the word in that file tell it how the job ended."""
    die_with_parent(parent)
    show_in_one_line()
    job = read_job(sys.stdin.read() if job_file is None else Path(job_file).read_text())
    # Of several the leading one has the word.
    watch = opened(file) if os.environ.get("RANK", "0") == "0" else Watch()
    stop = StopFlag(at_once=job.kind != "cell")
    try:
        perform(job, stop, watch)
    except KeyboardInterrupt:
        watch.end("stopped")
        return EXIT_STOPPED
    watch.end("done")
    return 0


def perform(job: Job, stop: "StopFlag", watch: Watch) -> None:
    """Do what a job says. Exits with a line on standard error for bad input and for a stop."""
    broken: dict[str, BaseException] = {}
    if job.kind == "prepare":
        try:
            check_all(job.study.cells, check_cell, broken, watch)
            if job.until == "named" and broken:
                raise Refusal(*tell_broken(broken))
        except Refusal as error:
            _refuse(job, watch, error)
        if job.until == "named":
            return
    import torch

    from bench.data.progress import Reporter
    from bench.meters.process import keep_freed_memory, leave_out_imports, use_exact_float32
    from bench.run.cell_run import run_cell
    from bench.run.expected.measure import measure_paces
    from bench.run.match.search import match_backbone
    from bench.run.preflight import prepare
    from bench.run.samples import sample_more
    from bench.run.size.count import count_sizes
    from bench.training.trainer import Interrupted

    use_exact_float32()
    keep_freed_memory()
    leave_out_imports()
    with Reporter(job.label).live() as progress:
        try:
            match job:
                case PrepareJob():
                    prepare(job, progress, watch, broken)
                case CellJob():
                    run_cell(job, progress, lambda: stop.requested)
                case SampleJob():
                    sample_more(job, progress)
                case MatchJob():
                    match_backbone(job, progress)
                case SizeJob():
                    count_sizes(job, progress)
                case PaceJob():
                    measure_paces(job, progress)
        except Interrupted as stopped:
            if os.environ.get("RANK", "0") == "0":
                print(f"{job.label}: {stopped}", file=sys.stderr)
            watch.end("stopped")
            sys.exit(EXIT_STOPPED)
        except (Refusal, OSError, torch.OutOfMemoryError) as error:
            _refuse(job, watch, error)


def _refuse(job: Job, watch: Watch, error: Exception) -> NoReturn:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    for line in lines_of(error):
        print(f"error: {job.label}: {line}", file=sys.stderr)
    watch.end("refused")
    sys.exit(EXIT_BAD_INPUT)


class StopFlag:
    """Set by Ctrl-C or SIGTERM, which may come twice, from a scheduler and from the parent; training looks at it after each step.

    `at_once`: they interrupt.
    """

    def __init__(self, *, at_once: bool):
        self.requested = False
        self._at_once = at_once
        signal.signal(signal.SIGINT, self._request)
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGUSR2, self._request)  # of SLURM, some time before it ends a job

    def _request(self, signum: int, frame: Any) -> None:
        if self._at_once:
            raise KeyboardInterrupt
        self.requested = True


def die_with_parent(parent: int) -> None:
    """A killed `run` must not leave a cell behind that goes on training (Linux; elsewhere it runs to its end)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
