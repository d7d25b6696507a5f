"""A SLURM cluster of two nodes on this machine's loopback, by Debian's packages slurm-wlm and munge; as root, without systemd."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo")
START_S = 60.0
CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ctld}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
JobRequeue=1
EnforcePartLimits=ALL
ReturnToService=2
SlurmdTimeout=20
KillWait=30
MinJobAge=300
InactiveLimit=0
SchedulerParameters=sched_interval=2,batch_sched_delay=1,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostName={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostName={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=first Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
"""


class SlurmCluster:
    """Daemons of a cluster, in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """All daemons; returns once both nodes are idle."""
        folder, host = self.folder, socket.gethostname().partition(".")[0]
        (folder / "state").mkdir(parents=True)
        ctld, n1, n2 = free_ports(3)
        conf = CONF.format(folder=folder, host=host, ctld=ctld, n1=n1, n2=n2)
        (folder / "slurm.conf").write_text(conf)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        munge = [f"--socket={folder}/munge.socket", f"--key-file={key}", f"--pid-file={folder}/munged.pid"]
        munge += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed", "--foreground", "--force"]
        self._run("munged", "munged", *munge)
        wait_for(lambda: (folder / "munge.socket").exists(), "munged")
        self._run("slurmctld", "slurmctld", "-D", "-i")
        for node in ("n1", "n2"):
            self.start_node(node)
        wait_for(lambda: self.states() == ["idle", "idle"], "two idle nodes")

    def start_node(self, node: str) -> None:
        """The daemon of a node."""
        self._run(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """As a machine that loses its power: the daemon, what it started, and the jobs of the node."""
        jobs = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("SLURMD_NODENAME") == node:
                    jobs.append(process)
        steps = [parent for job in jobs for parent in job.parents() if parent.name().startswith("slurmstepd")]
        daemon = self._daemons.pop(node)
        for process in (daemon, *steps, *jobs):
            with contextlib.suppress(psutil.Error):
                process.kill()
        daemon.wait()

    def states(self) -> list[str]:
        """Of the nodes."""
        done = subprocess.run(["sinfo", "-h", "-N", "-p", "main", "-o", "%t"], capture_output=True, text=True, check=False)
        return done.stdout.split()

    def stop(self) -> None:
        """All jobs and daemons."""
        subprocess.run(["scancel", "--me"], capture_output=True, check=False)
        for daemon in reversed(list(self._daemons.values())):
            daemon.terminate()
        for daemon in self._daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=10)
            daemon.kill()
            daemon.wait()

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """The cluster while the block runs. The test fails where it cannot be had: nobody asks for it but by its own environment of tox."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]:
        pytest.fail(f"{', '.join(missing)} not found; as root: apt-get install slurm-wlm munge")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    cluster, before = SlurmCluster(folder), os.environ.get("SLURM_CONF")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


def free_ports(num: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(num)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(what: Callable[[], object], name: str, seconds: float = START_S) -> None:
    """Until `what()` is true."""
    deadline_s = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no {name} after {seconds:.0f} s")
        time.sleep(0.2)
