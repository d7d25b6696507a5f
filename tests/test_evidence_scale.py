"""The plan past what can be run here: the simulator by hand, its inputs against their sources, the page as its script makes it."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.backbone import load_backbone
from bench.commands.profile.cards import find_card
from bench.perf.evidence.scale import plan
from bench.perf.evidence.scale.inputs import CASES, read_counts, read_inputs
from bench.perf.evidence.scale.inputs import network as counted
from bench.perf.evidence.scale.page import PAGE, TIMESTEPS, Planner, to_markdown
from bench.perf.evidence.scale.ranged import Ranged
from bench.perf.evidence.scale.simulator import (
    Cluster,
    Fabric,
    Link,
    Network,
    StepPlan,
    collective_s,
    kept_bytes,
    most_clips,
    peak_bytes,
    ring_s,
    saving_share,
    step,
    uneven,
)
from bench.study.cell import Optimizer
from bench.study.matrix import load_study
from bench.training.objective import VALIDATION_TIMESTEPS, mean_square
from bench.training.step import TrainStep
from tests.tiny import SPEC

ROOT = Path(__file__).parents[1]
FAST, SLOW = Link(bytes_per_s=100.0, latency_s=0.25), Link(bytes_per_s=10.0, latency_s=1.0)
NET = Network(
    name="x", num_params=100, forward_flops=30, launches=6, unit_params=(20, 40, 30), clip_bytes=1000, checkpointed_bytes=100
)  # fmt: skip
CLUSTER = Cluster(
    node_devices=4, inside=Fabric.even(FAST), between=Fabric.even(SLOW), flops=10.0, usable_bytes=5000, gathered_bytes=2, launch_s=0.1,
    unit_s=0.5, clip_s=0.01, tell_s=0.2, told=2, ddp_hidden=0.5, fsdp_hidden=0.5,
)  # fmt: skip


def test_a_ring_by_hand() -> None:
    """Four devices pass a quarter on three times, twice over where it is also reduced."""
    assert ring_s(4, 400.0, FAST, 1) == 3 * (100 / 100 + 0.25)
    assert ring_s(4, 400.0, FAST, 2) == 2 * ring_s(4, 400.0, FAST, 1)
    assert ring_s(1, 400.0, FAST, 2) == 0


def test_between_nodes_each_device_has_its_share() -> None:
    inside, between = ring_s(4, 400.0, FAST, 2), ring_s(3, 100.0, SLOW, 2)
    assert collective_s("all_reduce", 400.0, 4, CLUSTER) == inside
    assert collective_s("all_reduce", 400.0, 12, CLUSTER) == inside + between
    worse = replace(CLUSTER, inside=replace(CLUSTER.inside, all_gather=SLOW))
    assert collective_s("all_gather", 400.0, 4, worse) > collective_s("reduce_scatter", 400.0, 4, worse)


def test_alone_a_step_is_three_passes_or_what_the_host_takes() -> None:
    alone = step(NET, StepPlan(kind="none", devices=1, clips=2), CLUSTER)
    assert alone.arithmetic_s == pytest.approx(3 * 30 * 2 / 10) and alone.network_s == alone.telling_s == 0
    assert alone.seconds == alone.arithmetic_s and alone.bottleneck == "arithmetic"
    again = step(NET, StepPlan(kind="none", devices=1, clips=2, checkpointing=True), CLUSTER)
    assert again.arithmetic_s == pytest.approx(4 / 3 * alone.arithmetic_s) and again.launching_s == pytest.approx(4 / 3 * 0.6)
    slow = step(NET, StepPlan(kind="none", devices=1, clips=2), replace(CLUSTER, launch_s=10.0))
    assert slow.seconds == pytest.approx(60 + 0.02) and slow.bottleneck == "launches"
    assert step(NET, StepPlan(kind="none", devices=1, clips=2), replace(CLUSTER, clip_s=50.0)).bottleneck == "drawing"


def test_ddp_hides_a_part_of_the_backward_pass_alone() -> None:
    found = step(NET, StepPlan(kind="ddp", devices=4, clips=2), CLUSTER)
    assert found.network_s == pytest.approx(2 * 3 * (400 / 4 / 100 + 0.25))
    assert found.exposed_s == pytest.approx(max(0, found.network_s - 0.5 * 12))
    many = step(NET, StepPlan(kind="ddp", devices=12, clips=2), CLUSTER)
    assert many.exposed_s == pytest.approx(many.network_s - 0.5 * 12) and many.bottleneck == "network"
    assert many.seconds == pytest.approx(18 + many.exposed_s) and many.telling_s == pytest.approx(0.4)


def test_fsdp_gathers_units_twice_and_the_root_once() -> None:
    """10 weights are the root's: it is gathered once; three units twice, in half; all gradients are reduced in float32."""

    def gathered(num: int) -> float:
        return 3 * (2 * num / 4 / 100 + 0.25)

    def reduced(num: int) -> float:
        return 3 * (4 * num / 4 / 100 + 0.25)

    found = step(NET, StepPlan(kind="fsdp", devices=4, clips=2), CLUSTER)
    every = [10, 20, 40, 30]
    assert found.network_s == pytest.approx(gathered(10) + 2 * sum(map(gathered, every[1:])) + sum(map(reduced, every)))
    nothing = step(NET, StepPlan(kind="fsdp", devices=4, clips=2), replace(CLUSTER, fsdp_hidden=0.0))
    assert nothing.exposed_s == pytest.approx(found.network_s)
    everything = step(NET, StepPlan(kind="fsdp", devices=4, clips=200), replace(CLUSTER, fsdp_hidden=1.0))
    assert everything.exposed_s == pytest.approx(gathered(10) + gathered(20) + gathered(30))
    assert found.launching_s == pytest.approx(0.6 + 4 * 0.5)


def test_the_dearest_device_is_waited_for() -> None:
    plan = StepPlan(kind="ddp", devices=4, clips=2)
    late = step(NET, replace(plan, imbalance=0.25), CLUSTER)
    assert late.arithmetic_s == pytest.approx(1.25 * 18) and late.exposed_s == step(NET, plan, CLUSTER).exposed_s
    assert uneven(32, 8) == 0 and uneven(32, 24) == pytest.approx(2 * 24 / 32 - 1)


def test_memory_by_hand() -> None:
    few, many = (StepPlan(kind="none", devices=1, clips=clips) for clips in (0, 3))
    assert peak_bytes(NET, few) == 16 * 100 + 6 * 100 and peak_bytes(NET, many) == 16 * 100 + 2 * 100 + 3000
    assert peak_bytes(NET, replace(many, kind="ddp", devices=4)) == peak_bytes(NET, many) + 4 * 100
    assert peak_bytes(NET, replace(many, checkpointing=True)) == 16 * 100 + 6 * 100
    sharded = StepPlan(kind="fsdp", devices=4, clips=3)
    assert kept_bytes(NET, sharded) == 400 and peak_bytes(NET, sharded) == 400 + 100 + 8 * (2 * 40 + 10) + 3000
    assert most_clips(NET, replace(many, clips=9), CLUSTER) == 3 and most_clips(NET, replace(sharded, clips=9), CLUSTER) == 3
    assert most_clips(NET, many, replace(CLUSTER, usable_bytes=2000)) == 0


def test_checkpoints_take_a_twentieth_at_most() -> None:
    assert saving_share(0.3, 30, 1 / 20) == pytest.approx(0.01) and saving_share(60, 30, 1 / 20) == pytest.approx(0.05)


def test_what_does_not_fit_at_once_takes_more_steps() -> None:
    (one, again) = plan.fitting(NET, CLUSTER, 1, 8, 80.0)
    assert (one.plan.clips, again.plan.clips) == (3, 8) and one.seconds == pytest.approx(80 / 3 * one.step.seconds)
    assert plan.fastest(NET, CLUSTER, 1, 8, 80.0).way == "one GPU"
    assert again.way == "one GPU, blocks again" and again.seconds == pytest.approx(10 * again.step.seconds)
    [uneven_step] = [each for each in plan.fitting(NET, replace(CLUSTER, usable_bytes=10**6), 3, 8, 80.0) if each.way == "ddp"]
    assert uneven_step.seconds == pytest.approx(10 * uneven_step.step.seconds)  # nine places for eight clips


# --- what is committed


def test_the_page_is_what_its_script_makes() -> None:
    page = to_markdown(Planner(read_inputs(), read_counts()))
    assert (ROOT / PAGE).read_text() == page, "run `python -m bench.perf.evidence.scale.page`"
    assert len(page.splitlines()) <= 150


def test_every_input_has_a_range_in_order_and_a_source() -> None:
    for name, value in read_inputs().values.items():
        assert value.what and value.source, name
        assert value.best <= value.middle <= value.worst or value.best >= value.middle >= value.worst, name


def test_measured_rates_are_those_of_the_report() -> None:
    """MFU of the two backbones that a GPU has stepped: tokens a second, over tokens of a clip, times three forward passes."""
    inputs, counts = read_inputs(), read_counts()
    peak = find_card("H100-80GB").peaks["bf16"]
    assert peak is not None
    with (ROOT / "reports/speed-gpu/peers.csv").open() as file:
        rates = {
            row["case"].partition(",")[0]: float(row["our_tokens_per_s"])
            for row in csv.DictReader(file)
            if "clips of 8x16x16" in row["case"]
        }
    frames, height, width = counts["rated_shape"]
    tokens = frames * height * width / 4
    for name in inputs.rated:
        mfu = 3 * counts["rated_flops"][name] * rates[name.partition(":")[2]] / tokens / peak
        assert inputs.values[inputs.networks[name]].middle == pytest.approx(mfu, rel=0.01)


def test_memory_is_that_of_the_predictor() -> None:
    """Of one device, within a twentieth, whatever is alive at the peak."""
    counts = read_counts()
    for name, own in counts["networks"].items():
        for checkpointing, peaks in ((False, own["peaks"]), (True, own["checkpointed_peaks"])):
            for clips, peak in peaks.items():
                one = StepPlan(kind="none", devices=1, clips=int(clips), checkpointing=checkpointing)
                assert peak_bytes(counted(name, counts), one) == pytest.approx(peak, rel=0.05), (name, clips, checkpointing)


def test_counts_are_of_the_cells_of_paper_and_of_every_rung() -> None:
    inputs, counts = read_inputs(), read_counts()
    assert set(counts["networks"]) == set(inputs.networks)
    assert {named.cell.backbone for named in load_study("paper").cells} <= set(inputs.networks)
    assert len(VALIDATION_TIMESTEPS) == TIMESTEPS
    sizes = [own["num_params"] for own in counts["networks"].values()]
    assert sum(0.95e9 < size < 1.05e9 for size in sizes) == 2


@pytest.mark.parametrize(("half", "is_at_once"), [(None, False), (torch.bfloat16, True)])
def test_gradients_in_bf16_come_at_the_end_at_once(half: torch.dtype | None, is_at_once: bool) -> None:
    """Which is why DDP hides none of them: that of the last layer is there when the first layer's has been computed."""
    backbone: Any = load_backbone("tests.small:DiT-XXS/2", SPEC)
    order: list[str] = []
    backbone.final.weight.register_post_accumulate_grad_hook(lambda weight: order.append("last layer"))
    backbone.embed.register_forward_hook(lambda module, given, out: out.register_hook(lambda grad: order.append("first layer")) and None)
    train_step = TrainStep(backbone.train(), Optimizer(), torch.device("cpu"), half)
    latents = [torch.ones(4, 2, 4, 4) for _ in range(2)]
    times, labels = torch.ones(2), torch.zeros(2, dtype=torch.long)
    torch.nn.init.normal_(backbone.final.weight)
    train_step.backward(mean_square(train_step.predict(latents, times, labels), latents))
    assert order == (["first layer", "last layer"] if is_at_once else ["last layer", "first layer"])
    assert read_inputs().values["ddp_hidden"].best == 0


def test_a_price_moves_costs_alone() -> None:
    inputs, counts = read_inputs(), read_counts()
    dear, cheap = (Planner(inputs, counts, price) for price in (4.0, 1.0))
    hours = Ranged(1.0, 2.0, 3.0)
    assert dear.cost(hours) == Ranged(4.0, 8.0, 12.0) and cheap.cost(hours) == hours
    assert dear.ladder_table() != cheap.ladder_table() and dear.movers_table() == cheap.movers_table()


def test_the_ends_of_a_range_hold_the_middle() -> None:
    planner = Planner(read_inputs(), read_counts())
    for name in planner.networks:
        training = planner.training(name, 64, 512, 1e6)
        hours = planner.ranged(training, planner.saved_hours)
        assert hours.best < hours.middle < hours.worst
        assert training.peak_bytes <= training.cluster.usable_bytes and training.plan.clips <= 8
        assert math.isclose(planner.saved_hours(training, planner.inputs.of("middle")), hours.middle)
    assert set(CASES) == {"best", "middle", "worst"}
