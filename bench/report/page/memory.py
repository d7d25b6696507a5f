"""The memory of training, contender by contender: what its tensors are, and beside it what allocator, driver and system see."""

from collections.abc import Mapping, Sequence

import pandas as pd

from bench.records.record import PREDICTED, Training
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.render.table import NONE, Table

STORAGE = "peak_storage_bytes"
KINDS = ("weights", "gradients", "optimiser", "average", "activations", "buffers", "inputs")
# Measurement -> as a line of this table has it. Lines of which no contender has a value are left out.
LINES = {
    **{f"peak_storage_{kind}_bytes": f"... {kind}" for kind in KINDS},
    PREDICTED: "... all, as predicted",
    "peak_allocated_bytes": "allocated, CUDA",
    "peak_reserved_bytes": "reserved, CUDA",
    "unallocated_share": "... of it beyond the allocated peak",
    "peak_inactive_split_bytes": "... in gaps of split blocks, at most",
    "peak_process_bytes": "of the process on the device, by its driver",
    "peak_rss_bytes": "of the process on the host, resident",
    "num_alloc_retries": "allocations tried again on a full card",
    "num_ooms": "out-of-memory errors",
}
BY_PROCESS = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes", "peak_rss_bytes")
MOST_NAMED = 8  # processes; of more the range


def memory_table(run: Run) -> Table:
    """Means over the seeds of each contender, of finished cells; of several processes that train together the largest, then each one's."""
    found = {name: _means(run, name) for name in run.contenders}
    lines, data = [], []
    for name, title in {STORAGE: "tensors of a step", **LINES}.items():
        values = {contender: means.get(name) for contender, means in found.items()}
        if not any(value is not None for value in values.values()):
            continue
        texts = [NONE if value is None else _text(name, value) for value in values.values()]
        if name == PREDICTED:
            texts = [_beside(text, means) for text, means in zip(texts, found.values(), strict=True)]
        lines.append((title, *texts))
        data.append({"measurement": name, "process": None, **values})
    for name in BY_PROCESS:
        each = {contender: _by_process(run, contender, name) for contender in run.contenders}
        if any(each.values()):
            lines.append((f"{LINES[name]}: each process", *map(_processes_text, each.values())))
            for process in range(max(map(len, each.values()))):
                own = {contender: values[process] if process < len(values) else None for contender, values in each.items()}
                data.append({"measurement": name, "process": process, **own})
    caption = "Most at once in training, mean over seeds"
    return Table("memory", caption, ("Memory", *run.contenders), tuple(lines), data=pd.DataFrame(data))


def _means(run: Run, contender: str) -> dict[str, float]:
    """Measurement -> mean over the finished cells that have it."""
    records = [cell.record for cell in run.of(contender) if cell.record and cell.status == "ok"]
    found = {}
    for name in (STORAGE, *LINES):
        values = [measured.value for record in records if (measured := record.measurement(name)) is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found


def _text(name: str, value: float) -> str:
    if name.endswith("_share"):
        return f"{metrics.number(100 * value)} %"
    if not name.endswith("_bytes"):
        return metrics.count(value) if value == round(value) else metrics.number(value)
    return metrics.bytes_text(value)


def _beside(text: str, means: Mapping[str, float]) -> str:
    """A prediction, and what it is of what was measured."""
    storage = means.get(STORAGE)
    return f"{text} ({means[PREDICTED] / storage:.4g}{metrics.TIMES})" if storage and PREDICTED in means else text


def _by_process(run: Run, contender: str, name: str) -> list[int]:
    """The highest of each process over the seeds."""
    courses: list[Training] = [cell.record.training for cell in run.of(contender) if cell.record and cell.record.training]
    every = [values for course in courses if (values := course.peaks_by_process.get(name))]
    return [max(values) for values in zip(*every, strict=False)]


def _processes_text(values: Sequence[int]) -> str:
    texts = [metrics.bytes_text(value) for value in values]
    if len(texts) > MOST_NAMED:
        return f"{metrics.bytes_text(min(values))} to {metrics.bytes_text(max(values))}, {len(texts)} processes"
    return ", ".join(texts) or NONE
