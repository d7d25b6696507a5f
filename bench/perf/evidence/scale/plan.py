"""What a training costs on a cluster: the plan of a step that is the fastest of those that fit, and its hours. Knows no torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from bench.commands.profile.cards import GPUCard, find_card
from bench.perf.evidence.scale.inputs import ScaleInputs
from bench.perf.evidence.scale.simulator import (
    WEIGHT_BYTES,
    Cluster,
    Fabric,
    Link,
    Network,
    Step,
    StepPlan,
    most_clips,
    peak_bytes,
    step,
    uneven,
)

GATHERED_BYTES = 2  # of a weight in bfloat16 (MixedPrecisionPolicy in bench/training/ranks.py)
TOLD = 2 + 1 / 20  # numbers in a step of a GPU: the leader's clock, whether to stop; the loss at every 20th (trainer.py)
LATENT_BYTES = WEIGHT_BYTES  # of a value that is read
KINDS: tuple[Literal["ddp", "fsdp"], ...] = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class PlannedTraining:
    """A number of clips, trained on by batches of which as much is taken at once as fits."""

    network: Network
    plan: StepPlan
    cluster: Cluster
    num_clips: float  # in all
    step: Step

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.num_clips / (self.plan.devices * self.plan.clips / (1 + self.plan.imbalance)) * self.step.seconds

    @property
    def peak_bytes(self) -> float:
        """Of a GPU."""
        return peak_bytes(self.network, self.plan)

    @property
    def way(self) -> str:
        """As a matrix would say it."""
        kind = "one GPU" if self.plan.kind == "none" else self.plan.kind
        return kind + ", blocks again" * self.plan.checkpointing


def cluster(inputs: ScaleInputs, values: dict[str, float], backbone: str, clip_values: int) -> Cluster:
    """The cluster as one backbone finds it; `clip_values`: of the latents of a clip."""
    card, share = card_of(inputs), values["link_share"]
    peak = card.peaks["bf16"]
    assert peak is not None
    mfu = values[inputs.networks[backbone]] * (values["unet_over_dit"] if backbone.startswith("baselines:") else 1)
    inside, between = (
        Link(bytes_per_s=share * values[f"{where}_peak"], latency_s=values[f"{where}_latency_s"]) for where in ("inside", "between")
    )
    return Cluster(
        node_devices=inputs.node_devices,
        inside=Fabric.even(inside),
        between=Fabric.even(between),
        flops=peak * mfu,
        usable_bytes=card.usable_bytes,
        gathered_bytes=GATHERED_BYTES,
        launch_s=values["launch_s"],
        unit_s=values["unit_s"],
        clip_s=values["draw_s"] + LATENT_BYTES * clip_values / values["read_rate"],
        tell_s=values["tell_s"],
        told=TOLD,
        ddp_hidden=values["ddp_hidden"],
        fsdp_hidden=values["fsdp_hidden"],
    )


def card_of(inputs: ScaleInputs) -> GPUCard:
    """The GPU that is planned for."""
    return find_card(inputs.card)


def fitting(network: Network, on: Cluster, devices: int, batch_size: int, num_clips: float) -> Iterator[PlannedTraining]:
    """Every way of spreading it that fits, with as many clips of the batch at once as fit."""
    asked = -(-batch_size // devices)
    for kind in KINDS if devices > 1 else ("none",):
        for checkpointing in (False, True):
            plan = StepPlan(kind=kind, devices=devices, clips=asked, checkpointing=checkpointing)  # type: ignore[arg-type]
            if clips := most_clips(network, plan, on):
                plan = replace(plan, clips=clips, imbalance=uneven(batch_size, devices) if clips == asked else 0.0)
                yield PlannedTraining(network=network, plan=plan, cluster=on, num_clips=num_clips, step=step(network, plan, on))


def fastest(network: Network, on: Cluster, devices: int, batch_size: int, num_clips: float) -> PlannedTraining:
    """The one of the least hours."""
    return min(fitting(network, on, devices, batch_size, num_clips), key=lambda training: training.seconds)


def again(training: PlannedTraining, on: Cluster) -> PlannedTraining:
    """The same plan on a cluster of other values."""
    return replace(training, cluster=on, step=step(training.network, training.plan, on))
