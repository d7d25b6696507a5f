"""The table of memory: what each contender's tensors are, what was predicted and measured of them, and of every process."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
from report_factory import MEANS, measurements, pair, record, training, write_run

from bench.records.record import PREDICTED, Measurement, Record
from bench.report import build
from bench.report.load import load_run
from bench.report.page.memory import memory_table
from bench.report.render import catalogue
from bench.report.render.table import Table

UNET, DIT = MEANS
MIB = 2**20
ON_CARD = {
    "peak_storage_bytes": 100 * MIB,
    "peak_storage_weights_bytes": 30 * MIB,
    "peak_storage_activations_bytes": 70 * MIB,
    PREDICTED: 101 * MIB,
    "peak_allocated_bytes": 120 * MIB,
    "peak_reserved_bytes": 160 * MIB,
    "unallocated_share": 0.25,
    "peak_inactive_split_bytes": 3 * MIB,
    "peak_process_bytes": 700 * MIB,
    "num_alloc_retries": 0,
    "num_ooms": 0,
}


def with_memory(backbone: str, seed: int, found: dict[str, float], by_process: Any = None, **changes: Any) -> Record:
    """A record that has these measurements of memory and no others."""
    others = [m for m in measurements(backbone, seed, 0.03) if catalogue.find(m.name).group != "memory"]
    own = [
        Measurement(name=name, value=value, unit="B" if name.endswith("bytes") else "1", better="lower") for name, value in found.items()
    ]
    course = training(backbone, seed).model_copy(update={"peaks_by_process": by_process or {}})
    return record(backbone, seed, measurements=[*others, *own], training=course, **changes)


def table_of(folder: Path, *made: Record) -> Table:
    return memory_table(load_run(write_run(folder, made, sheets=False)))


def test_a_gpu_s_numbers_stand_beside_what_was_predicted(tmp_path: Path) -> None:
    other = {**ON_CARD, PREDICTED: 95 * MIB, "num_alloc_retries": 3, "peak_allocated_bytes": 140 * MIB}
    table = table_of(tmp_path, with_memory(UNET, 0, ON_CARD), with_memory(UNET, 1, other), with_memory(DIT, 0, {"peak_storage_bytes": MIB}))
    assert table.header == ("Memory", "UNet-XS", "DiT-XS/2")
    assert dict(zip([row[0] for row in table.rows], [row[1:] for row in table.rows], strict=True)) == {
        "tensors of a step": ("100 MiB", "1.00 MiB"),
        "... weights": ("30.0 MiB", catalogue.DASH),
        "... activations": ("70.0 MiB", catalogue.DASH),
        "... all, as predicted": (f"98.0 MiB (0.98{catalogue.TIMES})", catalogue.DASH),
        "allocated, CUDA": ("130 MiB", catalogue.DASH),
        "reserved, CUDA": ("160 MiB", catalogue.DASH),
        "... of it beyond the allocated peak": ("25.0 %", catalogue.DASH),
        "... in gaps of split blocks, at most": ("3.00 MiB", catalogue.DASH),
        "of the process on the device, by its driver": ("700 MiB", catalogue.DASH),
        "allocations tried again on a full card": ("1.50", catalogue.DASH),
        "out-of-memory errors": ("0", catalogue.DASH),
    }
    assert table.data is not None
    raw = table.data.set_index("measurement")
    assert raw.loc[PREDICTED, "UNet-XS"] == 98 * MIB and pd.isna(raw.loc[PREDICTED, "DiT-XS/2"])


def test_a_cpu_has_storage_and_its_resident_set_and_nothing_it_cannot_have(tmp_path: Path) -> None:
    found = {"peak_storage_bytes": 100 * MIB, "peak_storage_weights_bytes": 30 * MIB, "peak_rss_bytes": 500 * MIB}
    table = table_of(tmp_path, *(with_memory(backbone, 0, found) for backbone in MEANS))
    assert [row[0] for row in table.rows] == ["tensors of a step", "... weights", "of the process on the host, resident"]


def test_every_process_is_told_its_own_highest_over_the_seeds(tmp_path: Path) -> None:
    seeds = [{"peak_allocated_bytes": [MIB, 4 * MIB]}, {"peak_allocated_bytes": [3 * MIB, 2 * MIB]}]
    many = {"peak_allocated_bytes": [MIB * (place + 1) for place in range(9)]}
    made = [with_memory(UNET, seed, ON_CARD, each) for seed, each in enumerate(seeds)]
    table = table_of(tmp_path, *made, with_memory(DIT, 0, ON_CARD, many))
    (row,) = (row for row in table.rows if "each process" in row[0])
    assert row == ("allocated, CUDA: each process", "3.00 MiB, 4.00 MiB", "1.00 MiB to 9.00 MiB, 9 processes")
    assert table.data is not None
    own = table.data[table.data["process"].notna()]
    assert own["UNet-XS"].dropna().tolist() == [3 * MIB, 4 * MIB] and own["DiT-XS/2"].tolist() == many["peak_allocated_bytes"]


def test_what_did_not_finish_is_in_no_mean(tmp_path: Path) -> None:
    full = with_memory(UNET, 1, {**ON_CARD, "peak_allocated_bytes": 10**12}, status="oom", reason="no room", artefacts={})
    table = table_of(tmp_path, with_memory(UNET, 0, ON_CARD), full, with_memory(DIT, 0, ON_CARD))
    assert next(row[1] for row in table.rows if row[0] == "allocated, CUDA") == "120 MiB"


def test_the_page_has_it_and_without_any_memory_has_not(tmp_path: Path) -> None:
    made = [with_memory(backbone, 0, ON_CARD) for backbone in MEANS]
    build([write_run(tmp_path / "with", made)], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert re.search(r'<section id="memory"><h2>Memory of training</h2>', text) and f"101 MiB (1.01{catalogue.TIMES})" in text
    assert "## Memory of training" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "tables" / "memory.csv").is_file()
    build([write_run(tmp_path / "without", [with_memory(backbone, 0, {}) for backbone in MEANS])], tmp_path / "none")
    assert "Memory of training" not in (tmp_path / "none" / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "none" / "tables" / "memory.csv").exists()


def test_a_record_of_before_is_read_and_shown(tmp_path: Path) -> None:
    """It knows no processes and no predictions."""
    fields = pair(1)[0].model_dump(mode="json")  # type: ignore[union-attr]
    del fields["training"]["peaks_by_process"]
    table = table_of(tmp_path, Record.model_validate(fields), record(DIT, 0))
    assert [row[0] for row in table.rows] == ["tensors of a step", "of the process on the host, resident"]
