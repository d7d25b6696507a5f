"""The process a job runs in: `python -m bench.worker JOB.json`. Turns signals and errors into exit statuses, and nothing else."""

import ctypes
import signal
import sys
from pathlib import Path
from typing import Any

from bench.launch import EXIT_BAD_INPUT, EXIT_STOPPED, Job
from bench.preflight import prepare
from bench.progress import Reporter
from bench.run_cell import CellRun, sample_more
from bench.store import StoreError
from bench.train import Interrupted


def main(job_path: str) -> int:
    """Run a job; the exit status tells the parent how it ended."""
    job = Job.model_validate_json(Path(job_path).read_text())
    _die_with_parent()
    stop = _catch_signals()
    with Reporter(job.label).live() as progress:
        try:
            if job.kind == "prepare":
                prepare(job, progress)
            elif job.kind == "sample":
                sample_more(job, progress)
            else:
                CellRun(job, progress, lambda: stop.requested).run()
        except Interrupted as stopped:
            print(f"{job.label}: {stopped}", file=sys.stderr)
            return EXIT_STOPPED
        except (ValueError, StoreError, OSError) as error:
            print(f"error: {job.label}: {' '.join(str(error).split())}", file=sys.stderr)
            return EXIT_BAD_INPUT
    return 0


class StopFlag:
    """Set by the first Ctrl-C or SIGTERM; the training loop looks at it after each step."""

    requested = False


def _catch_signals() -> StopFlag:
    flag = StopFlag()

    def request(signum: int, frame: Any) -> None:
        if flag.requested:  # asked twice: now
            raise KeyboardInterrupt
        flag.requested = True

    signal.signal(signal.SIGINT, request)
    signal.signal(signal.SIGTERM, request)
    return flag


def _die_with_parent() -> None:
    """A killed `run` must not leave a cell behind that goes on training (Linux; elsewhere it runs to its end)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
