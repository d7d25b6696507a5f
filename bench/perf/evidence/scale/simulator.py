"""A training step of one cell over many devices, by arithmetic alone: its time, its memory, and what it waits for. Knows no torch.

Every formula names its source. What goes in is measured, published or assumed elsewhere (`inputs.yaml`); here are numbers. Bytes and
FLOPs of a backbone are counted (`counts.json`). A device is a GPU, or on this machine, where the check is made, a process.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

WEIGHT_BYTES = 4  # float32, as gradients and averages are
KEPT_BYTES = 16  # of a parameter between steps: weight, Adam's two means (Kingma & Ba, 1412.6980), the average of the weights
COPY_BYTES = 2  # of its bfloat16 copy
GRADIENT_BYTES = COPY_BYTES + WEIGHT_BYTES  # in both precisions, where one is made of the other
BACKWARD = 2  # backward over forward FLOPs, as `train_flops` counts them (Kaplan et al., 2001.08361, section 2.1)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A backbone on clips of one shape."""

    name: str
    num_params: int
    forward_flops: int  # of a clip
    launches: int  # operators of a training step
    unit_params: tuple[int, ...]  # of each unit that FSDP gathers, without what an inner unit has
    clip_bytes: int  # that a clip holds between forward and backward
    checkpointed_bytes: int  # the same where blocks are computed again

    @property
    def rest_params(self) -> int:
        """Those of no unit, which the root gathers and keeps."""
        return self.num_params - sum(self.unit_params)


@dataclass(frozen=True, kw_only=True)
class Link:
    """What a message costs: latency + bytes / rate (Hockney, Parallel Computing 20, 1994)."""

    bytes_per_s: float  # of one device, in one direction
    latency_s: float


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """The links of devices to each other, as a collective of each kind finds them: libraries do some of them worse."""

    all_reduce: Link
    all_gather: Link
    reduce_scatter: Link

    @classmethod
    def even(cls, link: Link) -> "Fabric":
        """All kinds alike."""
        return cls(all_reduce=link, all_gather=link, reduce_scatter=link)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of some devices each, and the host of each device."""

    node_devices: int
    inside: Fabric  # a node
    between: Fabric  # nodes
    flops: float  # FLOP/s that a device gives to this backbone: peak x MFU (Chowdhery et al., 2204.02311, appendix B)
    usable_bytes: float  # of a device's memory
    gathered_bytes: int  # of a weight as FSDP gathers it
    launch_s: float  # of the host, to launch an operator
    unit_s: float  # of the host, to gather a unit and let go of it, forward and backward
    clip_s: float  # of the host, to read and draw a clip
    tell_s: float  # of the host, to tell a number to all processes
    told: float  # numbers that are told in a step
    ddp_hidden: float  # share of the backward pass behind which gradients travel (Li et al., 2006.15704, section 3.2)
    fsdp_hidden: float  # share of compute behind which units are gathered and reduced (Zhao et al., 2304.11277, section 3.3)


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """How a step is spread."""

    kind: Literal["none", "ddp", "fsdp"]
    devices: int
    clips: int  # of a device
    checkpointing: bool = False
    imbalance: float = 0.0  # the dearest device's load over the mean, less 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of a step and where they are."""

    arithmetic_s: float  # of the dearest device
    launching_s: float  # of the host
    drawing_s: float
    telling_s: float
    network_s: float  # of all collectives
    exposed_s: float  # the part of it that nothing hides

    @property
    def host_s(self) -> float:
        """Of the host, which runs beside the device."""
        return self.launching_s + self.drawing_s + self.telling_s

    @property
    def seconds(self) -> float:
        """A device waits for its host or the host for it, and both for the network."""
        return max(self.arithmetic_s, self.host_s) + self.exposed_s

    @property
    def bottleneck(self) -> str:
        """What the largest part of the step is spent on."""
        host = max(("launches", self.launching_s), ("drawing", self.drawing_s), ("telling", self.telling_s), key=lambda part: part[1])[0]
        busy = "arithmetic" if self.arithmetic_s >= self.host_s else host
        return "network" if self.exposed_s > max(self.arithmetic_s, self.host_s) else busy


def ring_s(num: int, num_bytes: float, link: Link, passes: int) -> float:
    """Seconds of a ring over `num` devices: passes (num - 1) (bytes / num / rate + latency); 2 passes reduce and spread, 1 does either.

    Patarasuk & Yuan, J. Parallel Distrib. Comput. 69 (2009), section 3; Thakur et al., IJHPCA 19 (2005), sections 4.1 and 4.4.

    >>> ring_s(4, 8.0, Link(bytes_per_s=2.0, latency_s=0.5), 2)
    9.0
    """
    return passes * (num - 1) * (num_bytes / num / link.bytes_per_s + link.latency_s)


def collective_s(kind: Literal["all_reduce", "all_gather", "reduce_scatter"], num_bytes: float, devices: int, cluster: Cluster) -> float:
    """Seconds of one over all devices: inside nodes a ring of all bytes, between them, at once, one for each device's share.

    Three phases as in Goyal et al., 1706.02677, section 4, with every device's own link to the network in use.
    """
    passes = 2 if kind == "all_reduce" else 1
    here = min(devices, cluster.node_devices)
    nodes = math.ceil(devices / here)
    inside, between = getattr(cluster.inside, kind), getattr(cluster.between, kind)
    return ring_s(here, num_bytes, inside, passes) + ring_s(nodes, num_bytes / here, between, passes)


def compute_s(network: Network, plan: StepPlan, cluster: Cluster) -> float:
    """Seconds of the arithmetic of a device's clips: forward, backward, and forward again where blocks are checkpointed.

    Chen et al., 1604.06174, section 4: one more forward pass.
    """
    passes = 1 + BACKWARD + plan.checkpointing
    return passes * network.forward_flops * plan.clips / cluster.flops


def step(network: Network, plan: StepPlan, cluster: Cluster, arithmetic_s: float | None = None) -> Step:
    """A training step; `arithmetic_s`: of a device without its neighbours' imbalance, where it was measured."""
    arithmetic_s = compute_s(network, plan, cluster) if arithmetic_s is None else arithmetic_s
    passes, num_units = 1 + BACKWARD + plan.checkpointing, (len(network.unit_params) + 1) * (plan.kind == "fsdp")
    backward_s = arithmetic_s * (passes - 1) / passes
    network_s, exposed_s = SPREADS[plan.kind](network, plan, cluster, arithmetic_s - backward_s, backward_s)
    is_several = plan.devices > 1
    return Step(
        arithmetic_s=arithmetic_s * (1 + plan.imbalance),
        launching_s=network.launches * passes / (1 + BACKWARD) * cluster.launch_s + num_units * cluster.unit_s,
        drawing_s=plan.clips * cluster.clip_s,
        telling_s=is_several * cluster.told * cluster.tell_s,
        network_s=network_s,
        exposed_s=exposed_s,
    )


def _alone(network: Network, plan: StepPlan, cluster: Cluster, forward_s: float, backward_s: float) -> tuple[float, float]:
    return 0.0, 0.0


def _ddp(network: Network, plan: StepPlan, cluster: Cluster, forward_s: float, backward_s: float) -> tuple[float, float]:
    """Gradients in buckets that travel while the backward pass goes on, as far as they are there (Li et al., 2006.15704)."""
    network_s = collective_s("all_reduce", WEIGHT_BYTES * network.num_params, plan.devices, cluster)
    return network_s, max(0.0, network_s - cluster.ddp_hidden * backward_s)


def _fsdp(network: Network, plan: StepPlan, cluster: Cluster, forward_s: float, backward_s: float) -> tuple[float, float]:
    """Each unit gathered before forward and again before backward, its gradient reduced after: 3 passes of the weights.

    Rajbhandari et al., 1910.02054, section 7.3; the order of prefetching, Zhao et al., 2304.11277, section 3.3. The first unit of either
    pass is waited for; the root, which is kept, is gathered once.
    """
    parts = (network.rest_params, *network.unit_params)
    gathers = [collective_s("all_gather", cluster.gathered_bytes * num, plan.devices, cluster) for num in parts]
    reduces = [collective_s("reduce_scatter", WEIGHT_BYTES * num, plan.devices, cluster) for num in parts]
    root_s, first_s, last_s = gathers[0], gathers[1], gathers[-1]
    ahead_s, back_s = sum(gathers[2:]), sum(gathers[1:-1]) + sum(reduces)
    exposed_s = root_s + first_s + max(0.0, ahead_s - cluster.fsdp_hidden * forward_s)
    exposed_s += last_s + max(0.0, back_s - cluster.fsdp_hidden * backward_s)
    return root_s + first_s + ahead_s + last_s + back_s, exposed_s


SPREADS = {"none": _alone, "ddp": _ddp, "fsdp": _fsdp}


def kept_bytes(network: Network, plan: StepPlan) -> float:
    """Of a device between steps: all of it, or its part (Rajbhandari et al., 1910.02054, section 3.1, for this optimiser)."""
    return KEPT_BYTES * network.num_params / (plan.devices if plan.kind == "fsdp" else 1)


def peak_bytes(network: Network, plan: StepPlan) -> float:
    """Of a device in a step: what is kept, and the most of two moments, activations in full or gradients in full.

    DDP has its buckets beside the gradients (Li et al., 2006.15704, section 4.2); FSDP two units and the root at a time, with gradients.
    """
    num, activations = network.num_params, plan.clips * (network.checkpointed_bytes if plan.checkpointing else network.clip_bytes)
    kept = kept_bytes(network, plan)
    if plan.kind == "fsdp":
        at_once = 2 * max(network.unit_params) + network.rest_params
        return kept + WEIGHT_BYTES * num / plan.devices + (COPY_BYTES + GRADIENT_BYTES) * at_once + activations
    buckets = WEIGHT_BYTES * num * (plan.kind == "ddp")
    return kept + buckets + max(COPY_BYTES * num + activations, GRADIENT_BYTES * num)


def most_clips(network: Network, plan: StepPlan, cluster: Cluster) -> int:
    """Clips of a device, up to those of the plan, of which a step fits; 0 where none does."""
    fitting = [clips for clips in range(1, plan.clips + 1) if peak_bytes(network, replace(plan, clips=clips)) <= cluster.usable_bytes]
    return max(fitting, default=0)


def uneven(batch_size: int, devices: int) -> float:
    """The dearest device's clips over the mean, less 1, of equal clips.

    >>> uneven(32, 8), uneven(8, 3)
    (0.0, 0.125)
    """
    return math.ceil(batch_size / devices) * devices / batch_size - 1


def saving_share(save_s: float, interval_s: float, most: float) -> float:
    """Seconds of writing checkpoints over those of training: at intervals, and never over a part `most` of the time (trainer.py)."""
    return save_s / max(interval_s, save_s / most)
