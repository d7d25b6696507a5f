"""Jobs in the queue of a SLURM cluster, by submitit: an array of cells; where time is up or others come first, checkpoint and requeue.

The scheduler's state is a hint: that a job has ended is told by its files, and of one that the scheduler has forgotten nothing more is
expected after a while. Knows no torch.
"""

import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bench.data.files import write_text
from bench.data.frozen import Count, Frozen
from bench.run.agent import MEET, NODE, NODES
from bench.run.job import Job
from bench.run.launchers.contract import Launcher, LauncherKind, Placed
from bench.run.launchers.remote import JobFiles, NodeWork, Output, folder_of, handed_out, machine_of
from bench.run.process import GRACE_S
from bench.run.watch import Ended
from bench.shapes import Refusal
from bench.study.matrix import Study

NAME = "slurm"
ASK_S = 5.0  # between two questions to the scheduler
ANSWER_S = 60.0  # that it may take
GONE_S = 60.0  # that a job may be unknown to it, or over without a word, before it counts as lost
SIGNAL_S = GRACE_S + 60  # before its time is up, a job is told to write its checkpoint
MOST_REQUEUES = 10_000
MEET_S = 300.0  # that the nodes of a cell wait for the first one
USUAL = {"", "None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit"}  # reasons of a job that waits for its turn
ENDS = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED"}


class SlurmOptions(Frozen):
    """Of each job; what is not given is as the cluster has it."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None  # quality of service
    time: Count = 24 * 60  # minutes, after which a cell writes its checkpoint and waits in the queue again
    gpus: int = Field(0, ge=0, le=64)  # of a node
    cpus: Count | None = None  # of a node
    memory_gb: float | None = Field(None, gt=0)  # of a node
    nodes: Count = 1  # of a cell, over which its processes are spread
    at_once: Count = 256  # cells of the array that may run at the same time
    setup: tuple[str, ...] = ()  # lines of shell before a job, as "module load cuda"
    further: dict[str, Annotated[str | int | bool, Field()]] = Field(default_factory=dict)  # any other option of sbatch, by its long name


class Slurm:
    """The queue."""

    name = NAME
    spins: bool | None = True  # its processors are its own
    leaves = True
    patience_s = 30.0

    def __init__(self, options: SlurmOptions):
        """Refusal where SLURM is not there."""
        if shutil.which("sbatch") is None:
            raise Refusal("--on slurm needs sbatch on the path; run it on a machine that submits to the cluster")
        self.options = options
        self.device: Literal["cpu", "cuda"] | None = "cuda" if options.gpus else "cpu"
        self.machine = machine_of(NAME, options)
        self._queue = Queue()

    def check(self, study: Study) -> None:
        """Refusal for a partition that is not there, and for processes that the nodes of a cell do not divide."""
        nodes = self.options.nodes
        for named in study.cells:
            processes = named.cell.parallel.processes
            if named.cell.parallel.kind != "none" and processes % nodes:
                raise Refusal(
                    f"cell {named.name} has parallel.processes={processes}, which --with nodes={nodes} does not divide; change one"
                )
        asked = self.options.partition
        there = sorted(set(self._queue.ask("sinfo", "--noheader", "--format=%R").split()))
        if asked is not None and (missing := set(asked.split(",")) - set(there)):
            raise Refusal(f"partition {', '.join(sorted(missing))}: the cluster has none of that name; there are {', '.join(there)}")

    def start(self, jobs: Sequence[Job], lock: int | None) -> list[Placed]:
        """All of them, as one array; cells over several nodes as another. Refusal, in the scheduler's words, where it takes none."""
        apart = [[job for job in jobs if job.is_spread == spread] for spread in (False, True)]
        placed = {id(job): at for part in apart if part for job, at in zip(part, self._submitted(part), strict=True)}
        return [placed[id(job)] for job in jobs]

    def _submitted(self, jobs: Sequence[Job]) -> list[Placed]:
        """Of one array."""
        import submitit
        from submitit.core.utils import FailedJobError

        files = [JobFiles.written(job) for job in jobs]
        logs = folder_of(jobs[0]).parent / NAME
        logs.mkdir(parents=True, exist_ok=True)
        logs.chmod(0o700)  # what lies there is run by the nodes
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=MOST_REQUEUES)
        executor.update_parameters(**self._parameters(jobs))
        work = [SlurmWork(str(each.folder), each.token, str(Path.cwd())) for each in files]
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what sbatch says, and then raises it
                # Of the two, only an array has a number a job; one job alone is none.
                submitted = executor.map_array(_perform, work) if len(work) > 1 else [executor.submit(_perform, work[0])]
        except FailedJobError as error:
            raise Refusal(f"slurm takes no job: {_said(error)}") from error
        placed: list[Placed] = []
        for own, each in zip(files, submitted, strict=True):
            own.put(NAME, each.job_id)
            placed.append(InQueue(own, each.job_id, self._queue))
        return placed

    def attached(self, job: Job) -> Placed | None:
        """The newest that the scheduler still knows, or has told of its end in the last minute."""
        for files, number in handed_out(job, NAME):
            if self._queue.state(number) is not None:
                return InQueue(files, number, self._queue)
        return None

    def _parameters(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Of sbatch, in submitit's words."""
        options = self.options
        asked: dict[str, Any] = {
            "job_name": re.sub(r"[^\w.-]", "-", jobs[0].matrix)[:60],
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "time": options.time,
            "gpus_per_node": options.gpus or None,
            "cpus_per_task": options.cpus,
            "mem": None if options.memory_gb is None else f"{round(options.memory_gb * 1024)}M",
            "nodes": options.nodes if jobs[0].is_spread else 1,
            "ntasks_per_node": 1,
            "array_parallelism": options.at_once,
            "setup": list(options.setup) or None,
            "signal_delay_s": int(SIGNAL_S),
            "additional_parameters": {"requeue": True, **options.further},
        }
        return {name: value for name, value in asked.items() if value is not None}


class SlurmWork:
    """What a node is handed: where the files of a job are. A method of submitit's is called where the job has to go."""

    def __init__(self, folder: str, token: str, where: str):
        self.folder, self.token, self.where = folder, token, where
        self._worker: NodeWork | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_worker": None}

    def run(self) -> None:
        """The job, by the processors that the scheduler gave."""
        self._worker = NodeWork(JobFiles(Path(self.folder), self.token), Path(self.where))
        cpus, environment, node = os.environ.get("SLURM_CPUS_PER_TASK"), {}, int(os.environ.get("SLURM_PROCID", "0"))
        if cpus is not None and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = cpus
        if (nodes := int(os.environ.get("SLURM_NTASKS", "1"))) > 1:
            environment |= {NODES: str(nodes), NODE: str(node), MEET: self._meeting(node)}
        ended = self._worker.run(environment, node)
        if ended.word == "refused":
            print(ended.reason, flush=True)

    def _meeting(self, node: int) -> str:
        """Where the nodes of a job meet: an address that the first one tells the others by a file, anew each time it is started."""
        files = JobFiles(Path(self.folder), self.token)
        path = files.path(f"meet{os.environ.get('SLURM_RESTART_COUNT', '0')}")
        if node == 0:
            with socket.socket() as free:
                free.bind(("", 0))
                write_text(path, f"{os.environ['SLURM_LAUNCH_NODE_IPADDR']}:{free.getsockname()[1]}")
        deadline_s = time.monotonic() + MEET_S
        while not path.is_file():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the first node has not told where to meet: {path}")
            time.sleep(0.2)
        return path.read_text()

    def checkpoint(self) -> None:
        """Let the job write its own."""
        if self._worker is not None:
            self._worker.stop()


class _Perform:
    """A function for submitit that can write its checkpoint: `checkpoint` is called with the arguments of the call."""

    def __call__(self, work: SlurmWork) -> None:
        work.run()

    def checkpoint(self, work: SlurmWork) -> Any:
        """The same once more, later."""
        from submitit.helpers import DelayedSubmission

        work.checkpoint()
        return DelayedSubmission(self, work)


_perform = _Perform()


class InQueue:
    """A job of the queue, as the head sees it."""

    def __init__(self, files: JobFiles, number: str, queue: "Queue"):
        self.files, self.number, self._queue = files, number, queue
        self.where = f"slurm job {number}"
        self._output = Output(files.path("txt"))
        self._waits_for = ""
        self._silent_since_s: float | None = None  # that the scheduler knows of no job that runs or waits

    def ended(self) -> Ended | None:
        """By its own word; by the scheduler's only where that is all there will be."""
        state, ended = self._queue.state(self.number), self.files.ended()
        if ended is not None and (ended.word != "stopped" or state is None or state in ENDS):
            return ended  # one that was stopped may be in the queue again, and go on
        if self._queue.silent or (state is not None and state not in ENDS):
            self._silent_since_s = None
            return None
        now_s = time.monotonic()
        self._silent_since_s = now_s if self._silent_since_s is None else self._silent_since_s
        if state == "CANCELLED":
            return Ended(word="stopped") if now_s > self._silent_since_s + 2 * ASK_S else None
        if now_s < self._silent_since_s + GONE_S:
            return None
        if state == "OUT_OF_MEMORY" or (state == "FAILED" and not self.files.path("txt").exists()):
            logs = self.files.folder.parent / NAME
            why = f"; where {logs} has no log of it, the nodes do not see the results folder: give one that they share with --results"
            return Ended(code=1, what=f"{self.where} ({state}{why if state == 'FAILED' else ''})")
        known = f"ended as {state}" if state else "is not known to the scheduler any more"
        return Ended(word="lost", what=f"{self.where} {known}")

    def stop(self) -> None:
        """As `scancel` does: by SIGTERM, and in a while by SIGKILL."""
        self._queue.cancel(self.number)

    kill = stop

    def output(self) -> str:
        text, why = self._output.more(), self._queue.waits_for(self.number)
        if why != self._waits_for:
            self._waits_for = why
            text += f"{self.where} waits in the queue: {why}\n" if why else ""
        return text


class Queue:
    """The scheduler, asked once in a while about all jobs at once."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._asked: set[str] = set()
        self._asked_s = float("-inf")
        self.silent = False  # it did not answer when it was asked last: nothing follows for any job

    def state(self, number: str) -> str | None:
        """PENDING, RUNNING, COMPLETED, ...; None where the scheduler does not know the job."""
        new = number not in self._asked
        self._asked.add(number)
        if new or time.monotonic() > self._asked_s + ASK_S:
            self._asked_s = time.monotonic()
            try:
                self._states = self._read()
                self.silent = False
            except Refusal:
                self.silent = True
        return self._states.get(number)

    def waits_for(self, number: str) -> str:
        """Why a job is not running yet, in the scheduler's word, such as PartitionConfig; "" for the usual reasons, and where none is."""
        return "" if (reason := self._reasons.get(number, "")) in USUAL else reason

    def cancel(self, number: str) -> None:
        """End a job."""
        with contextlib.suppress(Refusal):
            self.ask("scancel", number)

    def _read(self) -> dict[str, str]:
        """Of all jobs of this user, those that ended a few minutes ago too."""
        lines = self.ask("squeue", "--me", "--states=all", "--array", "--noheader", "--format=%i|%F_%K|%T|%r").splitlines()
        states: dict[str, str] = {}
        for line in lines:
            own, of_array, state, reason = [*line.strip().split("|"), "", "", ""][:4]
            if state:
                states |= {own: state, of_array: state}
                self._reasons |= dict.fromkeys((own, of_array), reason if state == "PENDING" else "")
        return states

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints. Refusal where it fails or does not answer."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
            raise Refusal(f"slurm does not answer {command[0]} ({' '.join(said)}); see whether the cluster is up") from error
        return done.stdout


def _said(error: Exception) -> str:
    """The scheduler's own line of a submission that failed."""
    text = " ".join(str(error).split())
    found = re.search(r"(?:sbatch: )?error: (?!Batch job submission failed: )(.*?)(?= sbatch:|$)", text) or re.search(r"failed: (.*)", text)
    return (found[1] if found else text)[:300]


def make(options: SlurmOptions) -> Launcher:
    """The launcher of this cluster."""
    return Slurm(options)


SLURM = LauncherKind(name=NAME, options=SlurmOptions, make=make)
