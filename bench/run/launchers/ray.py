"""Jobs on the machines of a Ray cluster: one task a cell, with the resources it asks for. Knows no torch.

A machine that is lost costs what was trained since the last checkpoint: the same cell is handed out again.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bench.data.files import StoreError
from bench.data.frozen import Count, Frozen
from bench.run.extra import needs
from bench.run.job import Job
from bench.run.launchers.contract import Launcher, LauncherKind, Placed
from bench.run.launchers.remote import JobFiles, NodeWork, Output, machine_of
from bench.run.watch import Ended
from bench.shapes import Refusal
from bench.study.matrix import Study

NAME = "ray"
KNOCK_S = 10.0  # that a cluster may take to answer


class RayOptions(Frozen):
    """Of the cluster and of each job."""

    address: str = "auto"  # of the cluster; auto: the one of this machine, or of RAY_ADDRESS
    gpus: int = Field(0, ge=0, le=64)  # of a cell
    cpus: Count = 1  # of a cell: its threads too
    memory_gb: float | None = Field(None, gt=0)  # of a cell


class Ray:
    """The cluster."""

    name = NAME
    spins: bool | None = False  # Ray counts processors and keeps nobody off them
    leaves = False
    patience_s = 30.0

    def __init__(self, options: RayOptions):
        """Refusal where Ray is not installed."""
        needs("ray", extra=NAME, asked="--on ray")
        self.options = options
        self.device: Literal["cpu", "cuda"] | None = "cuda" if options.gpus else "cpu"
        self.machine = machine_of(NAME, options)
        self._ray: Any = None
        self._perform: Any = None

    def check(self, study: Study) -> None:
        """Refusal where there is no cluster, or no machine of it has what a cell asks for."""
        import ray

        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if not ray.is_initialized():
            try:
                self._knock()
                before = signal.getsignal(signal.SIGTERM)
                ray.init(address=self.options.address, log_to_driver=False, logging_level=logging.ERROR)
                signal.signal(signal.SIGTERM, before)  # Ray's own ends the process, whose cells are still to write checkpoints
            except (ConnectionError, ValueError, RuntimeError) as error:
                why = " ".join(str(error).split())[:200]
                raise Refusal(
                    f"--on ray finds no cluster at {self.options.address!r} ({why}); start one with `ray start --head`, or name it: "
                    "--with address=HOST:PORT"
                ) from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for resource, asked in (("CPU", self.options.cpus), ("GPU", self.options.gpus)):
            most = max((node.get(resource, 0.0) for node in nodes), default=0.0)
            if asked > most:
                raise Refusal(f"--with {resource.lower()}s={asked}: no machine of this Ray cluster has more than {most:g}; ask for less")
        self._ray, self._perform = ray, ray.remote(max_retries=0, num_cpus=self.options.cpus, num_gpus=self.options.gpus)(perform)
        if self.options.memory_gb is not None:
            self._perform = self._perform.options(memory=int(self.options.memory_gb * 2**30))

    def _knock(self) -> None:
        """ConnectionError where nobody listens at the address: Ray itself would try for minutes."""
        host, _, port = self.options.address.rpartition(":")
        if host and port.isdecimal() and "//" not in host:
            try:
                socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
            except OSError as error:
                raise ConnectionError(error.strerror or str(error)) from error

    def start(self, jobs: Sequence[Job], lock: int | None) -> list[Placed]:
        """All of them: Ray lets wait what has no room."""
        placed: list[Placed] = []
        for job in jobs:
            files = JobFiles.written(job)
            reference = self._perform.remote(str(files.folder), files.token, str(Path.cwd()), self.options.cpus)
            placed.append(_Task(files, reference, self._ray))
        return placed

    def attached(self, job: Job) -> Placed | None:
        """Nothing: Ray ends the tasks of a `run` that ended."""
        return None


class _Task:
    """A task of Ray, as the head sees it."""

    def __init__(self, files: JobFiles, reference: Any, ray: Any):
        self.files, self._reference, self._ray = files, reference, ray
        self.where = f"ray task {reference.hex()[:8]}"
        self._output = Output(files.path("txt"))

    def ended(self) -> Ended | None:
        ready, _ = self._ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            return Ended.model_validate_json(self._ray.get(self._reference))
        except (self._ray.exceptions.TaskCancelledError, self._ray.exceptions.RayTaskError) as error:
            if isinstance(error, self._ray.exceptions.TaskCancelledError) or "KeyboardInterrupt" in str(error):
                return Ended(word="stopped")
            return Ended(word="lost", what=f"{self.where} failed ({str(error).strip().splitlines()[-1][:200]})")
        except self._ray.exceptions.RayError as error:  # its machine or its process died
            return Ended(word="lost", what=f"{self.where} was lost ({type(error).__name__})")

    def stop(self) -> None:
        """Its machine tells the job, and waits for it; a task that has not begun never does."""
        with contextlib.suppress(StoreError):
            self.files.ask_to_stop()
        with contextlib.suppress(Exception):
            self._ray.cancel(self._reference)

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.cancel(self._reference, force=True)

    def output(self) -> str:
        return self._output.more()


def perform(folder: str, token: str, where: str, cpus: int) -> str:
    """What a machine of the cluster does: a job, by its files; how it ended, in JSON."""
    worker = NodeWork(JobFiles(Path(folder), token), Path(where))
    environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(cpus)}
    assert threading.current_thread() is threading.main_thread()  # where Ray raises what `cancel` asks for
    try:
        return worker.run(environment).model_dump_json()
    except KeyboardInterrupt:
        while True:
            try:
                worker.stop()
            except KeyboardInterrupt:  # once more: the process has been told, and is waited for
                continue
            return Ended(word="stopped").model_dump_json()


def make(options: RayOptions) -> Launcher:
    """The launcher of a cluster."""
    return Ray(options)


RAY = LauncherKind(name=NAME, options=RayOptions, make=make)
