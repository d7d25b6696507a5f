"""Groups of processes that take turns: a group steps together while the others wait for a line, so that all see the same machine."""

import json
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Any

from bench.run.threads import CALM


class Group:
    """Some processes on one thread each, that know each other by gloo."""

    def __init__(self, num: int) -> None:
        """Starts them; `ask` waits until they are there."""
        self.num = num
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        shared |= CALM | {"TORCH_CPP_LOG_LEVEL": "ERROR", "CUDA_VISIBLE_DEVICES": ""}
        self._members = []
        for rank in range(num):
            environment = os.environ | {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
            words = [sys.executable, "-m", "bench.perf.evidence.scale.member"]
            self._members.append(subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    def ask(self, do: str, **asked: Any) -> list[Any]:
        """What every process answers. RuntimeError where one has ended; what it said is on the console."""
        for member in self._members:
            assert member.stdin is not None
            member.stdin.write(json.dumps({"do": do, **asked}) + "\n")
            member.stdin.flush()
        answers = []
        for rank, member in enumerate(self._members):
            assert member.stdout is not None
            if not (line := member.stdout.readline()):
                raise RuntimeError(f"process {rank} of {self.num} ended at {do} {asked}")
            answers.append(json.loads(line))
        return answers

    def seconds(self, do: str, **asked: Any) -> float:
        """Of the slowest process."""
        return float(max(self.ask(do, **asked)))

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for member in self._members:
            if error is not None:
                member.kill()
        for member in self._members:
            with member:  # which closes its pipes, and so ends it, and waits
                pass
