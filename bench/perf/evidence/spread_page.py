"""The page of several processes for one cell: what was measured, what the simulator would have said, and how far it is off."""

import math
import statistics
from collections.abc import Iterator
from typing import Any

from bench.perf.evidence.scale.prediction import Prediction
from bench.perf.evidence.scale.simulator import StepPlan, kept_bytes
from bench.perf.evidence.scale.ways import ASKED, BACKBONES, BATCH, COLLECTIVES, NUMS, ONE, SIZES, SPREAD, Spreading
from bench.perf.speed import of_pairs
from bench.report.render.catalogue import DASH
from bench.report.render.markdown import markdown_table

SAME = 1e-5  # of losses
HEAD = ("backbone", "by", "ms a step", "clips/s of one", "each", "predicted, ms", "if all were hidden", "miss", "losses apart", "kept, MiB",
        "predicted")  # fmt: skip
PAGE = """# Several processes for one cell, measured and predicted

{rounds} rounds, in which every way takes {steps} steps in its turn, on {batch} clips with latents of 8x8x8; gloo, every process on one
thread. Numbers are medians over rounds; in brackets, of "ms a step" the least and the most, of others a 95 % interval of the
median (of fewer than six rounds, of all). "clips/s of one": the rate over that of one process in the same round; "each": its part
of an ideal in which every process gives as much as one alone. "miss": measured over predicted, less 1, of every round by its own
step of one process. "losses apart": the largest difference of any step's loss from that of one process, over the loss. "kept":
weights, Adam's means and the average of one process, as they lie in memory, and by arithmetic.

{table}

**The simulator was off by {least:+.0f} to {most:+.0f} %, by {mean:.0f} % on average.** It was given a step of one process on its
part of the clips; how much {nums} processes that say nothing to each other slow each other here ({slowness} times, one number for
both backbones); and these links. Communication is counted as hidden by nothing, since {cpus} processors are busy without it.

{links}

Latency is of one message of a ring, as bare collectives of {sizes} KiB fit it; "fit" is how far off the worst of them is. A number
that is told to all took {told} us by {nums} processes. FSDP in one process cost {unit} us more a unit (U-Net and DiT).

**Read it with care: {cpus} processors were there, and {last} processes share them**, so that more than {cpus} cannot be faster. The
check is of the simulator's form, that times add up so; nothing here is of a GPU or of a network. {losses}

One machine, `{cpu}`, commit {commit}.
What else it did falls on all ways, as they take turns, and widens the ranges: the step of one process moved by {swing:.1f} times between
rounds, where a machine with nothing else to do has near 1. Made by `python -m bench.perf.evidence.spread`.
"""


def to_markdown(found: dict[str, Any], steps: int) -> str:
    """The page, of spread.json alone; `steps`: of a turn."""
    prediction, environment = Prediction(found), found["environment"]
    off = [100 * (statistics.median(prediction.ratios(backbone, way)) - 1) for backbone in BACKBONES for way in SPREAD]
    apart = max(gap for own in found["counts"].values() for gap in own["losses_apart"].values())
    same = f"Losses are equal within {apart:.0e}." if apart < SAME else f"**Losses are not equal: they are {apart:.0e} apart.**"
    return PAGE.format(
        rounds=len(found["rounds"]),
        steps=steps,
        batch=BATCH,
        table=markdown_table(HEAD, [row for backbone in BACKBONES for row in _rows(prediction, backbone)], figures=range(2, len(HEAD))),
        least=min(off),
        most=max(off),
        mean=statistics.fmean(map(abs, off)),
        nums=" and ".join(map(str, NUMS)),
        slowness=" and ".join(f"{prediction.slowness[num]:.2f}" for num in NUMS),
        links=markdown_table(["collective", "by", "latency, us", "MB/s", "fit"], list(_links(prediction)), figures=range(1, 5)),
        sizes=", ".join(f"{size // 1024}" for size in SIZES),
        told=" and ".join(f"{1e6 * prediction.tell_s(num):.0f}" for num in NUMS),
        unit=" and ".join(f"{1e6 * _unit_s(found, backbone):.0f}" for backbone in BACKBONES),
        cpus=environment["num_cpus"],
        last=max(NUMS),
        losses=same,
        swing=max(max(times_s) / min(times_s) for times_s in ([each[name][ONE.key] for each in found["rounds"]] for name in BACKBONES)),
        cpu=environment["cpu_id"] or environment["cpu"],
        commit=found["commit"][:12],
    )


def _rows(prediction: Prediction, backbone: str) -> Iterator[list[str]]:
    counts, rounds = prediction.found["counts"][backbone], [each[backbone] for each in prediction.found["rounds"]]
    for way in ASKED:
        times_ms = [1e3 * each[way.key] for each in rounds]
        rates = [each[ONE.key] / each[way.key] for each in rounds]
        kept = counts["kept_bytes"][way.key], kept_bytes(prediction.network(backbone), StepPlan(kind=way.kind, devices=way.num, clips=0))
        yield [
            backbone.partition(":")[2] if way == ONE else "",
            "one process" if way == ONE else f"{way.kind}, {way.num}",
            f"{statistics.median(times_ms):.0f} [{min(times_ms):.0f}, {max(times_ms):.0f}]",
            "1" if way == ONE else _interval(rates, "{:.2f}"),
            f"{100 * statistics.median(rates) / way.num:.0f} %",
            *(_predicted(prediction, backbone, way) if way in SPREAD else [DASH] * 3),
            f"{counts['losses_apart'][way.key]:.0e}",
            *(f"{num_bytes / 2**20:.1f}" for num_bytes in kept),
        ]


def _predicted(prediction: Prediction, backbone: str, way: Spreading) -> list[str]:
    one_s = statistics.median(each[backbone][way.part.key] for each in prediction.found["rounds"])
    both = [f"{1e3 * prediction.seconds(backbone, way, one_s, hidden):.0f}" for hidden in (0.0, 1.0)]
    return [*both, _interval([100 * (ratio - 1) for ratio in prediction.ratios(backbone, way)], "{:+.0f}") + " %"]


def _links(prediction: Prediction) -> Iterator[list[str]]:
    for kind in COLLECTIVES:
        for num in NUMS:
            link, fits = prediction.links[kind, num], [prediction.fit(kind, num, size) for size in SIZES]
            worst = max(fits, key=lambda ratio: abs(math.log(ratio)))
            numbers = [f"{1e6 * link.latency_s:.0f}", f"{link.bytes_per_s / 1e6:.0f}", f"{100 * (worst - 1):+.0f} %"]
            yield [kind, str(num), *numbers]


def _interval(values: list[float], form: str) -> str:
    found = of_pairs(values)
    return f"{form.format(found['ratio'])} [{form.format(found['low'])}, {form.format(found['high'])}]"


def _unit_s(found: dict[str, Any], backbone: str) -> float:
    """What a step by FSDP in one process takes more than without, over its units and the root."""
    more_s = statistics.median(each[backbone][Spreading("fsdp", 1, BATCH).key] - each[backbone][ONE.key] for each in found["rounds"])
    return more_s / (len(found["counts"][backbone]["unit_params"]) + 1)
