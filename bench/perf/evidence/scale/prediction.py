"""What the simulator says of several processes on this machine, from one process, from bare collectives, and from how they slow each other.

Its input is spread.json: `rounds`, each of backbone -> way -> seconds and of collective -> seconds, and `counts`. Knows no torch.
"""

import math
import statistics
from typing import Any

import numpy as np

from bench.perf.evidence.scale.simulator import Cluster, Fabric, Link, Network, StepPlan, step
from bench.perf.evidence.scale.ways import ALONE, BACKBONES, BATCH, COLLECTIVES, SIZES, TOGETHER, TOLD_BYTES, Spreading

TOLD = 4  # numbers of a step: the leader's clock, whether to stop, the loss; which weights DDP did not use, or FSDP's gradient norm


class Prediction:
    """All predictions of one measurement."""

    def __init__(self, found: dict[str, Any]):
        self.found = found
        self.links = {(kind, num): self._link(kind, num) for kind in COLLECTIVES for num in TOGETHER}
        self.slowness = {num: self._slowness(num) for num in TOGETHER}

    def seconds(self, backbone: str, way: Spreading, one_s: float, hidden: float = 0.0) -> float:
        """A step of several processes where `one_s` is that of one on its part; `hidden`: share of it that hides communication.

        A process that tells or gathers does not compute: here the host is the device.
        """
        plan = StepPlan(kind=way.kind, devices=way.num, clips=BATCH // way.num)
        parts = step(self.network(backbone), plan, self._cluster(way.num, hidden), one_s * self.slowness[way.num])
        return parts.arithmetic_s + parts.host_s + parts.exposed_s

    def network(self, backbone: str) -> Network:
        """Its sizes; times are measured."""
        own = self.found["counts"][backbone]
        sizes = {"num_params": own["num_params"], "unit_params": tuple(own["unit_params"])}
        return Network(name=backbone, forward_flops=0, launches=0, clip_bytes=0, checkpointed_bytes=0, **sizes)

    def ratios(self, backbone: str, way: Spreading) -> list[float]:
        """Measured over predicted, of every round by its own step of one process."""
        rounds = [each[backbone] for each in self.found["rounds"]]
        return [each[way.key] / self.seconds(backbone, way, each[way.part.key]) for each in rounds]

    def fit(self, kind: str, num: int, size: int) -> float:
        """Seconds of a bare collective as its link has them, over what they were."""
        link = self.links[kind, num]
        return _passes(kind, num) * (link.latency_s + size / num / link.bytes_per_s) / self.collective_s(kind, num, size)

    def collective_s(self, kind: str, num: int, size: int) -> float:
        """Measured, the median of the rounds."""
        return statistics.median(each["collectives"][f"{kind} {num} {size}"] for each in self.found["rounds"])

    def tell_s(self, num: int) -> float:
        """Of a number that is told to all."""
        return self.collective_s("all_reduce", num, TOLD_BYTES)

    def _link(self, kind: str, num: int) -> Link:
        """What a ring of `num` would have as links: least squares over the sizes, each weighed by its own time."""
        times_s = np.array([self.collective_s(kind, num, size) for size in SIZES])
        terms = np.stack([np.ones(len(SIZES)), np.array(SIZES) / num], axis=1) * _passes(kind, num)
        latency_s, byte_s = np.linalg.lstsq(terms / times_s[:, None], np.ones(len(SIZES)), rcond=None)[0]
        return Link(bytes_per_s=float(1 / max(byte_s, 1e-15)), latency_s=float(max(latency_s, 0.0)))

    def _slowness(self, num: int) -> float:
        """A step of `num` processes that say nothing to each other over that of one on as many clips: one number for both backbones."""
        rounds = self.found["rounds"]
        own = [statistics.median(each[name][TOGETHER[num].key] / each[name][ALONE[num].key] for each in rounds) for name in BACKBONES]
        return math.exp(statistics.fmean(map(math.log, own)))

    def _cluster(self, num: int, hidden: float) -> Cluster:
        """This machine, as `num` processes find it. What the host does is in a step's time already."""
        here = Fabric(**{kind: self.links[kind, num] for kind in COLLECTIVES})
        return Cluster(
            node_devices=num, inside=here, between=here, flops=1.0, usable_bytes=math.inf, gathered_bytes=4, launch_s=0.0, unit_s=0.0,
            clip_s=0.0, tell_s=self.tell_s(num), told=TOLD, ddp_hidden=hidden, fsdp_hidden=hidden,
        )  # fmt: skip


def _passes(kind: str, num: int) -> int:
    """Messages of a ring, one after the other."""
    return (2 if kind == "all_reduce" else 1) * (num - 1)
