"""How the threads of a job wait for each other: by spinning where the machine is quiet, else calmly. Knows no torch.

A small step is hundreds of short parallel parts, and threads that sleep between them must be woken each time. On two idle cores that
halved the rate of a U-Net and a DiT and more: 11.9 against 32.4 clips/s, 39 against 113. Beside one other busy process it is the other
way round, 22 against 5.8: whoever spins takes the time that the thread waited for would need. So it is asked before a study begins.
"""

import psutil

from bench.records.environment import own_cpus

CALM = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # read when torch is loaded
LOOK_S = 1.0
MOST_BUSY = 0.2  # of one processor, taken by all others together


def is_quiet() -> bool:
    """Whether nobody uses the processors that this process may, while it looks."""
    busy = psutil.cpu_percent(interval=LOOK_S, percpu=True)
    return sum(busy[cpu] for cpu in own_cpus() if cpu < len(busy)) / 100 < MOST_BUSY


def waiting_as(environment: dict[str, str], *, spins: bool) -> dict[str, str]:
    """The environment of a job whose threads wait so."""
    return {name: value for name, value in environment.items() if name not in CALM} | ({} if spins else CALM)
