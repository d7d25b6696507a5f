"""What `device: auto` is on this machine: a cell that trained on a CPU is not the one that a GPU machine asks for.

Settled before a cell has a fingerprint, in a process that knows no torch. Without a GPU's driver there is nothing to ask; where there is
one, only torch knows whether it can use it, and is asked in a process of its own.
"""

import ctypes
import functools
import subprocess
import sys
from pathlib import Path
from typing import Literal

from bench.run.process import own_environment
from bench.shapes import Refusal
from bench.study.cell import Cell
from bench.study.matrix import Study

DeviceKind = Literal["cpu", "cuda"]
DRIVERS = ("libcuda.so.1", "nvcuda.dll")  # NVIDIA's
AMD = Path("/dev/kfd")  # there where AMD's driver is
ASK = "import torch; print(torch.cuda.is_available())"
TIMEOUT_S = 300.0  # torch is imported in seconds, from a cold disk in a minute


def on_this_machine(study: Study, device: DeviceKind | None = None) -> Study:
    """The study with `device`, or this machine's own, in the place of every `auto`. Refusal where two of its cells are then one."""
    cells = tuple(named.model_copy(update={"cell": settled(named.cell, device)}) for named in study.cells)
    seen: dict[str, str] = {}
    for named in cells:
        if (other := seen.setdefault(named.cell.fingerprint(), named.name)) != named.name:
            why = f"are one cell here, where device auto is {device or device_here()}; name devices that differ"
            raise Refusal(f"cells {other} and {named.name} {why}")
    return study.model_copy(update={"cells": cells})


def settled(cell: Cell, device: DeviceKind | None = None) -> Cell:
    """The cell with `device`, or this machine's own, in the place of `auto`."""
    return cell.model_copy(update={"device": device or device_here()}) if cell.device == "auto" else cell


@functools.cache
def device_here() -> DeviceKind:
    """What torch would choose. Refusal where it does not answer."""
    if not has_driver():
        return "cpu"
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK], capture_output=True, text=True, env=own_environment(), timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise Refusal(f"torch does not say whether there is a GPU ({' '.join(said)}); give device=cpu or device=cuda") from error
    return "cuda" if done.stdout.split()[-1:] == ["True"] else "cpu"


def has_driver() -> bool:
    """Whether any GPU's driver is installed."""
    for name in DRIVERS:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return AMD.exists()
