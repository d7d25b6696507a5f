"""The page of a tour: steps against diffusers', what keeps them from the peak, memory, and what did not run. Knows no torch."""

import statistics
from collections.abc import Sequence

from bench.backbone import short_name
from bench.perf.speed import of_pairs
from bench.perf.tour.result import StepRow, Tour
from bench.report.render.catalogue import DASH
from bench.report.render.markdown import markdown_table

FILE = "tour.md"
ABOUT = """# A tour of a GPU

{dry}`python -m bench.perf.tour.tour{flag}`
on {device}, torch {torch}. The order is that of worth, each part has its own limit, and a part that did not end is named. Of the study: its
own page, `gpu-quick/`; of memory: `profile/`.

{parts}
"""
STEPS = """
## Training steps

Forward, mean square, backward, clipping, AdamW and the average of the weights, bfloat16. "of diffusers'" is the time of a plain loop around
diffusers' network of the same size, eager, its data on the device, over the time of the suite's own trainer: medians of pairs of windows in
turn, in brackets a 95 % interval of that median. MFU: three times the forward pass's FLOPs over the time, as a share of a large matrix
product's rate measured in the same process. "busy": the part of a step in which any kernel runs, by the profiler's times over the step's
own time without it; the rest is waiting for launches. Memory: the allocator's peak beyond what was there before.

{table}

{left_out}
"""


def markdown(tour: Tour, order: Sequence[str]) -> str:
    """All of it."""
    environment = tour.environment
    rows = [[name, *_ended(tour, name)] for name in order]
    text = ABOUT.format(
        dry="**Dry: on a CPU, as small as it can be. No number here is of a GPU; it shows that everything runs.** " if tour.dry else "",
        flag=" --dry" if tour.dry else "",
        device="; ".join(environment.gpus) if not tour.dry and environment.gpus else environment.cpu_id or environment.cpu,
        torch=environment.packages.get("torch", "unknown"),
        parts=markdown_table(["part", "ended", "s", "of at most", "last line", "commit"], rows, figures=(2, 3)),
    )
    steps = [row for name in order if name in tour.parts for row in tour.parts[name].rows]
    if steps:
        head = ["backbone", "by", "clips", "ms", "of diffusers'", "MFU", "busy", "kernels", "launches", "MiB", "trial, s"]
        left = [f"`{short_name(row.backbone)}`, {way}: {why}." for row in steps for way, why in row.left_out.items()]
        text += STEPS.format(table=markdown_table(head, [_row(row) for row in steps], figures=range(2, 11)), left_out="\n".join(left))
    return text.rstrip() + "\n"


def _ended(tour: Tour, name: str) -> list[str]:
    part = tour.parts.get(name)
    if part is None:
        return ["not begun", DASH, DASH, DASH, DASH]
    return [part.status, f"{part.wall_time_s:.0f}", f"{part.limit_s:.0f}", part.what, part.commit[:9]]


def _row(row: StepRow) -> list[str]:
    step_s = statistics.median(row.step_s)
    pairs = of_pairs(row.against) if row.against else None
    of_theirs = f"{pairs['ratio']:.2f} [{pairs['low']:.2f}, {pairs['high']:.2f}]" if pairs else DASH
    return [
        short_name(row.backbone) if row.way == "eager" else "",
        {"eager": "the suite, eager", "diffusers": "diffusers", "auto": f"the suite, auto: {row.chosen}"}[row.way],
        str(row.batch_size),
        f"{1000 * step_s:.1f}",
        of_theirs,
        f"{row.flops / step_s / row.peak_flop_per_s:.3f}",
        DASH if row.busy_share is None else f"{row.busy_share:.0%}",
        DASH if row.num_kernels is None else str(row.num_kernels),
        str(row.num_launches),
        DASH if row.peak_allocated_bytes is None else f"{row.peak_allocated_bytes / 2**20:.0f}",
        DASH if row.trial_s is None else f"{row.trial_s:.0f}",
    ]
