"""A Ray cluster of two nodes on this machine."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest


class RayCluster:
    """Two nodes: the head has no processors, so that any node with a task can be lost."""

    def __init__(self, cluster: Any, cpus: int):
        self._cluster, self._cpus = cluster, cpus
        self.arguments = ("--on", "ray", "--with", f"address={cluster.address}")
        self._nodes = [self._new(), self._new()]

    def _new(self) -> Any:
        return self._cluster.add_node(num_cpus=self._cpus)

    def replace_busy_node(self) -> None:
        """The node of a task is lost, as by a power cut; another comes."""
        import psutil

        busy = {parent.pid for process in psutil.process_iter() if "ray::perform" in process.name() for parent in process.parents()}
        for node in self._nodes:
            pids = {each.process.pid for found in node.all_processes.values() for each in found}
            if pids & busy:
                self._cluster.remove_node(node, allow_graceful=False)
                self._nodes.remove(node)
                self._nodes.append(self._new())
                return
        raise LookupError("no node has a task")


@contextlib.contextmanager
def ray_cluster(cpus: int = 1) -> Iterator[RayCluster]:
    """The cluster while the block runs. The test fails where Ray is not there: nobody asks for it but by its own environment of tox."""
    try:
        from ray.cluster_utils import Cluster
    except ModuleNotFoundError as error:
        pytest.fail(f"{error.name} is not installed; run `tox -e ray`")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would tell its makers
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield RayCluster(cluster, cpus)
    finally:
        cluster.shutdown()
