"""The machine and the software a number came from. Knows no torch."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psutil

from bench.data.frozen import Frozen

PACKAGES = ("torch", "diffusers", "accelerate", "torchmetrics", "numpy", "scipy", "pandas", "pymunk", "pillow", "av", "safetensors")
TIMEOUT_S = 30.0  # of a question to git or to a driver


class Environment(Frozen):
    """Where a cell ran. Bytes are bytes; an empty list of GPUs means none was seen."""

    machine: str  # architecture
    system: str
    python: str
    cpu: str  # model name, or the architecture where the system does not tell
    cpu_id: str = ""  # vendor, family, model, stepping, cache: tells two processors of one marketing name apart
    num_cpus: int  # that this process may use
    memory_bytes: int
    gpus: list[str]  # "name, memory, driver", as the driver reports them
    packages: dict[str, str]
    spins: bool | None = None  # whether its threads wait for each other by spinning; None: nothing says so
    num_threads: int | None = None  # torch's intra-op threads; fixed with the seed, the arithmetic repeats bit for bit
    device: str | None = None  # what the cell ran on: "cpu" or the GPU's name


def read_environment(num_threads: int | None = None, device: str | None = None) -> Environment:
    """The environment of this process; `num_threads` and `device` as the cell's process knows them."""
    return Environment(
        machine=platform.machine(),
        system=platform.system(),
        python=platform.python_version(),
        cpu=_first_cpu().get("model name") or platform.processor() or platform.machine(),
        cpu_id=cpu_id(),
        num_cpus=len(own_cpus()),
        memory_bytes=psutil.virtual_memory().total,
        gpus=list_gpus(),
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        spins=None if num_threads is None else os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE",
        num_threads=num_threads,
        device=device,
    )


def own_cpus() -> list[int]:
    """Processors that this process may use; all of them where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpu_id() -> str:
    """What tells two processors of one name apart, as far as the system says: a virtual machine often hides the name, not these."""
    fields = {"vendor_id": "", "cpu family": "family ", "model": "model ", "stepping": "stepping ", "cache size": "cache "}
    fields |= {"CPU implementer": "implementer ", "CPU part": "part ", "CPU variant": "variant "}  # ARM
    cpu = _first_cpu()
    return ", ".join(f"{prefix}{cpu[name]}" for name, prefix in fields.items() if name in cpu)


def _first_cpu() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return {}
    first = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def list_gpus() -> list[str]:
    """One line per NVIDIA GPU from its driver's tool; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return [line.strip() for line in (_output(query) or "").splitlines() if line.strip()]


def commit() -> str:
    """Commit of this checkout, "+dirty" appended where tracked files differ from it, or "unknown" outside one."""
    root = Path(__file__).resolve().parent
    revision = git(root, "rev-parse", "HEAD")
    if revision is None:
        return "unknown"
    return revision + ("" if git(root, "status", "--porcelain", "--untracked-files=no") == "" else "+dirty")


def git(folder: Path, *arguments: str, timeout_s: float | None = TIMEOUT_S) -> str | None:
    """What git prints, or None where it fails, takes longer or is not there. No limit where it writes a whole tree."""
    return _output(["git", "-C", str(folder), *arguments], timeout_s)


def _output(command: list[str], timeout_s: float | None = TIMEOUT_S) -> str | None:
    """What a command prints; None where it is not there, fails or hangs: no record is lost for want of a driver's answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
