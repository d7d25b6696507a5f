"""A process that hosts the performance suite of one source tree, spoken to a line at a time (see bench/perf/worker.py)."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bench.perf.gate.exits import CheckRefused, Exit
from bench.run.process import own_environment

START_TIMEOUT_S = 120.0
# One thread: a neighbour on a shared machine that holds one core holds up every barrier between threads. On two busy cores the spread
# of pairs was about 0.9 % on one thread and 3 % on two, and steps of this size are no faster on two.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
REPLY_TIMEOUT_S = 300.0  # the longest request opens a benchmark on a busy machine


class BenchmarkFailed(Exception):
    """A benchmark of one tree raised; the worker lives on."""


class Worker(contextlib.AbstractContextManager["Worker"]):
    """One long-lived process. CheckRefused with DOES_NOT_BUILD where it does not start, dies or hangs."""

    def __init__(self, tree: Path, label: str, blame: str = ""):
        """`label` names the tree in refusals; `blame` stands before the error of a benchmark."""
        self.label, self._blame = label, blame
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        environment = {**own_environment(), "PYTHONPATH": str(tree), **THREADS}
        command = [sys.executable, "-m", "bench.perf.worker"]
        # Neither the caller's folder nor Ctrl-C reaches it: its end is the end of its standard input.
        self._process = subprocess.Popen(
            command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True
        )
        self._buffer = b""
        try:
            self.hello = self._read(START_TIMEOUT_S)
            if (found := Path(self.hello["tree"]).resolve()) != tree.resolve():
                raise CheckRefused(Exit.DOES_NOT_BUILD, f"{label}: its packages are imported from {found} and not from {tree}")
        except CheckRefused:
            self.__exit__()
            raise

    def send(self, do: str, **fields: Any) -> None:
        """Send a request; its reply must be read before the next one."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise CheckRefused(Exit.DOES_NOT_BUILD, f"{self.label}: {self._last_words()}") from error

    def reply(self) -> dict[str, Any]:
        """The reply to the request sent last. BenchmarkFailed where the benchmark raises."""
        reply = self._read(REPLY_TIMEOUT_S)
        if "error" in reply:
            raise BenchmarkFailed(self._blame + reply["error"])
        return reply

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply."""
        self.send(do, **fields)
        return self.reply()

    def step(self, times_s: list[float], parts_s: dict[str, list[float]]) -> None:
        """Take a step; add its seconds, and those of each of its parts."""
        reply = self.ask("step")
        times_s.append(reply["s"])
        for part, seconds in reply["parts"].items():
            parts_s.setdefault(part, []).append(seconds)

    def pin(self, cpus: Collection[int]) -> None:
        """Let the process run on these processors only; nothing where the system has no such call."""
        if not hasattr(os, "sched_setaffinity"):
            return
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():  # the call is for one thread
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cpus)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline_s - time.monotonic())):
                    self._process.kill()
                    raise CheckRefused(Exit.DOES_NOT_BUILD, f"{self.label}: its worker said nothing for {timeout_s:.0f} s")
                part = os.read(pipe, 2**16)
                if not part:
                    raise CheckRefused(Exit.DOES_NOT_BUILD, f"{self.label}: its worker ended: {self._last_words()}")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        """The last line that the process printed, most often the error."""
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {code} without a word"
