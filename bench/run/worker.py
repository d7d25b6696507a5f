"""The process of a job, `python -m bench.run.worker PARENT`: a job on standard input; signals and errors into exit statuses.

What is heavy is imported late: from the first moment on, this process must not outlive a parent that was killed.
"""

import ctypes
import os
import signal
import sys
import traceback
from typing import Any

from bench.run.job import EXIT_BAD_INPUT, EXIT_STOPPED, TRACEBACK, CellJob, Job, MatchJob, PrepareJob, SampleJob, read_job
from bench.shapes import Refusal, lines_of


def main(parent: int) -> int:
    """Run a job for the process `parent`; the exit status tells it how the job ended."""
    die_with_parent(parent)
    job = read_job(sys.stdin.read())
    stop = StopFlag(at_once=job.kind != "cell")
    try:
        perform(job, stop)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    return 0


def perform(job: Job, stop: "StopFlag") -> None:
    """Do what a job says. Exits with a line on standard error for bad input and for a stop."""
    import torch

    from bench.data.progress import Reporter
    from bench.meters.process import keep_freed_memory, use_exact_float32
    from bench.run.cell_run import CellRun
    from bench.run.match.search import match_backbone
    from bench.run.preflight import prepare
    from bench.run.samples import sample_more
    from bench.training.trainer import Interrupted

    use_exact_float32()
    keep_freed_memory()
    with Reporter(job.label).live() as progress:
        try:
            match job:
                case PrepareJob():
                    prepare(job, progress)
                case CellJob():
                    CellRun(job, progress, lambda: stop.requested).run()
                case SampleJob():
                    sample_more(job, progress)
                case MatchJob():
                    match_backbone(job, progress)
        except Interrupted as stopped:
            print(f"{job.label}: {stopped}", file=sys.stderr)
            sys.exit(EXIT_STOPPED)
        except (Refusal, OSError, torch.OutOfMemoryError) as error:
            if os.environ.get(TRACEBACK):
                traceback.print_exc()
            for line in lines_of(error):
                print(f"error: {job.label}: {line}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)


class StopFlag:
    """Set by the first Ctrl-C or SIGTERM; the training loop looks at it after each step. The second one, or `at_once`, interrupts."""

    def __init__(self, *, at_once: bool):
        self.requested = False
        self._at_once = at_once
        signal.signal(signal.SIGINT, self._request)
        signal.signal(signal.SIGTERM, self._request)

    def _request(self, signum: int, frame: Any) -> None:
        if self.requested or self._at_once:
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
    sys.exit(main(int(sys.argv[1])))
