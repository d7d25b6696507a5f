"""The agent of a cell over several processes: `python -m bench.run.agent PARENT FILE`, a job on standard input, as bench/run/worker.py.

It starts the workers of this machine by torchrun's own launcher, passes on what it is told, and ends as they do. On several machines each
has an agent; they meet at the first one's address.
"""

import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from bench.records.environment import own_cpus
from bench.run.job import CellJob, read_job
from bench.run.worker import die_with_parent

# In the environment: how many machines, which one this is, and where they meet.
NODES, NODE, MEET = "UNET_VS_DIT_NODES", "UNET_VS_DIT_NODE", "UNET_VS_DIT_MEET"
LOOK_S = 0.1  # between two looks at the workers


def main(parent: int, number: int) -> int:
    """Start this machine's workers; 0 where all end well, else what theirs was."""
    die_with_parent(parent)
    text = sys.stdin.read()
    job = read_job(text)
    assert isinstance(job, CellJob)
    nodes, node = int(os.environ.get(NODES, "1")), int(os.environ.get(NODE, "0"))
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for which in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(which, _pass_on)
    here = job.cell.cell.parallel.processes // nodes
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(own_cpus()) // here)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each worker advises against what a cell may need
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_text(text)
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=here,
            run_id=job.cell.folder,
            rdzv_backend="static" if nodes > 1 else "c10d",
            rdzv_endpoint=os.environ.get(MEET, "127.0.0.1:0"),
            rdzv_configs={"rank": node, "timeout": 900},
            max_restarts=0,
            monitor_interval=LOOK_S,
            start_method="spawn",
            signals_to_handle="SIGUSR1",  # they write their checkpoints first, however long that takes
        )
        try:
            elastic_launch(config, sys.executable)(
                "-m", "bench.run.worker", str(os.getpid()), f"/proc/{os.getpid()}/fd/{number}", str(file)
            )
        except ChildFailedError as error:
            first = next(iter(error.failures.values()))
            return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0


def _pass_on(signum: int, frame: Any) -> None:
    """To every worker, which then writes its checkpoint; the agent waits."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, OSError):
            child.terminate()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
