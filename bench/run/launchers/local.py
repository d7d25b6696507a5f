"""Jobs on this machine: one at a time on a CPU, one a GPU where there are several. Knows no torch.

Where several run at once each has its own share of the processors, so that what one does to another's timings is little; what is left is
measured as any neighbour's work is, and marked.
"""

import os
import tempfile
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bench.data.frozen import Frozen
from bench.records.environment import list_gpus, own_cpus
from bench.run.job import Job
from bench.run.launchers.contract import Launcher, LauncherKind, Placed
from bench.run.process import JobProcess
from bench.run.watch import Ended
from bench.shapes import Refusal
from bench.study.matrix import Study

CPU = "cpu"


def split_devices(value: Any) -> Any:
    """'0,1' and [0, 1] alike -> ("0", "1")."""
    if isinstance(value, str | int):
        value = str(value).split(",")
    return tuple(str(each).strip() for each in value) if isinstance(value, list | tuple) else value


class LocalOptions(Frozen):
    """Of this machine."""

    devices: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, BeforeValidator(split_devices)] = (
        None  # a job at once on each: numbers of GPUs, or cpu; by default every GPU, without one a CPU
    )


class Local:
    """A device each for as many jobs as there are devices."""

    name = "local"
    machine = ""
    spins: bool | None = None
    leaves = False
    patience_s = 0.0

    def __init__(self, options: LocalOptions):
        """Refusal for devices that are none, or are named twice."""
        self.devices = named = options.devices or ()
        gpus = [each for each in named if each != CPU]
        if gpus and CPU in named:
            raise Refusal(f"--devices {','.join(named)} mixes cpu and GPUs, and times of the two are never compared; name one kind")
        for gpu in gpus:
            if not gpu.isdecimal():
                raise Refusal(f"--devices {gpu!r} is no device; give numbers of GPUs, such as 0,1, or cpu")
            if gpus.count(gpu) > 1:
                raise Refusal(f"--devices names GPU {gpu} {gpus.count(gpu)} times: two cells on one GPU disturb each other; name each once")
        self.device: Literal["cpu", "cuda"] | None = None if not named else "cuda" if gpus else "cpu"
        self._free: list[int] = []  # places among them

    def check(self, study: Study) -> None:
        """Refusal for a GPU that is not there, or that a cell of the study would not use."""
        there = _gpus_here()
        if self.device == "cuda" and (missing := [gpu for gpu in self.devices if gpu not in there]):
            raise Refusal(f"--devices {','.join(missing)}: there is no such GPU here; there are: {','.join(there) or 'none'}")
        apart = next((named for named in study.cells if self.device not in (None, named.cell.device)), None)
        if apart is not None:
            raise Refusal(f"--devices {','.join(self.devices)}: cell {apart.name} has device={apart.cell.device}; leave out one of the two")
        asked = max((named.cell.parallel.processes for named in study.cells if named.cell.device == "cuda"), default=1)
        if asked > max(1, most := len(self.devices or there)):
            raise Refusal(f"parallel.processes {asked} need a GPU each, and there are {most}; lower it, or add --devices")
        if not self.devices:  # cells of a CPU one at a time, whatever GPUs there are
            self.devices = (all(named.cell.device == "cuda" for named in study.cells) and there) or (CPU,)
        self._free = list(range(len(self.devices)))

    def start(self, jobs: Sequence[Job], lock: int | None) -> list[Placed]:
        """One on each device that is free; one over several GPUs waits for as many, and those behind it with it."""
        started: list[Placed] = []
        for job in jobs:
            num = num_devices(job)
            if num > len(self._free):
                break
            places, self._free = self._free[:num], self._free[num:]
            started.append(_OnDevices(self, places, job, lock))
        return started

    def attached(self, job: Job) -> Placed | None:
        """Nothing: a job on this machine ends with the run that started it."""
        return None

    def freed(self, places: Sequence[int]) -> None:
        """The job on those devices has ended."""
        self._free = sorted([*self._free, *places])

    def share(self, places: Sequence[int]) -> list[int]:
        """Processors of the jobs on these devices; none named where there is one alone, or fewer processors than devices."""
        cpus, num = own_cpus(), len(self.devices)
        if num == 1 or len(cpus) < num:
            return []
        return [cpu for place in places for cpu in cpus[place * len(cpus) // num : (place + 1) * len(cpus) // num]]


def num_devices(job: Job) -> int:
    """That a job takes: on GPUs one for each of its processes."""
    return job.cell.cell.parallel.processes if job.kind == "cell" and job.cell.cell.device == "cuda" else 1


class _OnDevices:
    """A job on one or more of several devices."""

    def __init__(self, launcher: Local, places: Sequence[int], job: Job, lock: int | None):
        self._launcher, self._places, self._freed = launcher, places, False
        devices, several = [launcher.devices[place] for place in places], len(launcher.devices) > 1
        self.where = f"device {', '.join(devices)}" if several else ""
        environment = {} if CPU in devices else {"CUDA_VISIBLE_DEVICES": ",".join(map(_as_visible, devices))}
        # Of several at once no bar can be drawn: they print lines, which are told one after the other.
        self._output = tempfile.TemporaryFile() if several else None  # noqa: SIM115  as long as the job
        self._read = 0
        self._process = JobProcess(job, lock=lock, cpus=launcher.share(places), environment=environment, output=self._output)

    def ended(self) -> Ended | None:
        ended = self._process.ended()
        if ended is not None and not self._freed:
            self._freed = True
            self._launcher.freed(self._places)
        return ended

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    def output(self) -> str:
        if self._output is None:
            return ""
        text = b""
        while part := os.pread(self._output.fileno(), 1 << 20, self._read + len(text)):
            text += part
        self._read += len(text)
        if self._freed:  # there will be no more
            self._output.close()
            self._output = None
        return text.decode(errors="replace")


def _gpus_here() -> tuple[str, ...]:
    """Numbers of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    num = len(list_gpus()) if visible is None else len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
    return tuple(map(str, range(num)))


def _as_visible(device: str) -> str:
    """What a GPU of that number is called for a process of its own: numbers count those that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return device if visible is None else visible.split(",")[int(device)].strip()


def make(options: LocalOptions) -> Launcher:
    """The launcher of this machine."""
    return Local(options)


LOCAL = LauncherKind(name=Local.name, options=LocalOptions, make=make)
