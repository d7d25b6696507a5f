"""Tables of benchmarks: which rows they show, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.perf.speed import write
from bench.report.render.catalogue import DASH


def saved(path: Path, rows: list[dict[str, Any]], *, commit: str, processor: str = "A CPU", kind: str | None = None, **more: Any) -> Path:
    """A file as pytest-benchmark writes it, as far as tables read it."""
    told = {"torch": "2.0", **more} | ({"cpu_id": kind} if kind else {})
    benchmarks = [{"extra_info": {**told, "rows": [row]}} for row in rows]
    machine = {"cpu": {"brand_raw": processor}}
    path.write_text(json.dumps({"benchmarks": benchmarks, "machine_info": machine, "commit_info": {"id": commit * 9}}))
    return path


def row(table: str, case: str, ratio: float) -> dict[str, Any]:
    return {"table": table, "case": case, "ratio": ratio, "low": ratio - 0.1, "high": ratio + 0.1, "pairs": 9}


def test_a_table_measured_again_takes_the_place_of_the_earlier_one_and_no_other(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.json", [row("rivals", "DiT", 1.5), row("gains", "old", 1.1)], commit="a")
    again = saved(tmp_path / "b.json", [row("gains", "new", 1.25)], commit="b")
    written = write([first, again], tmp_path / "speed")
    assert [path.name for path in written] == ["speed.md", "rivals.csv", "gains.csv"]
    page = (tmp_path / "speed" / "speed.md").read_text()
    rivals, gains = page.split("## ")[1:]
    assert "Commit aaaaaaaaa." in rivals
    assert "1.500 [1.400, 1.600]" in rivals
    assert "Commit bbbbbbbbb." in gains
    assert "1.250 [1.150, 1.350]" in gains
    assert "old" not in gains
    assert (tmp_path / "speed" / "gains.csv").read_text() == "case,ratio,low,high,pairs\nnew,1.25,1.15,1.35,9\n"


def test_files_of_two_machines_are_refused(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.json", [row("rivals", "DiT", 1.5)], commit="a")
    other = saved(tmp_path / "b.json", [row("gains", "DiT", 1.5)], commit="a", processor="Another CPU")
    with pytest.raises(ValueError, match=r"b\.json is of Another CPU, torch 2\.0 and .*a\.json of A CPU, torch 2\.0"):
        write([first, other], tmp_path / "speed")
    assert not (tmp_path / "speed").exists()


def test_processors_of_one_name_are_told_apart_by_family_and_model(tmp_path: Path) -> None:
    rows, kinds = [row("rivals", "DiT", 1.5)], ("family 26, model 2", "family 25, model 17")
    first, other = (saved(tmp_path / f"{kind}.json", rows, commit="a", kind=kind) for kind in kinds)
    write([first], tmp_path / "speed")
    assert "on A CPU (family 26, model 2), torch 2.0." in (tmp_path / "speed" / "26-2" / "speed.md").read_text()
    write([other], tmp_path / "speed")
    assert (tmp_path / "speed" / "26-2" / "speed.md").exists() and (tmp_path / "speed" / "25-17" / "rivals.csv").exists()
    with pytest.raises(ValueError, match=r"is of A CPU \(family 25, model 17\)"):
        write([first, other], tmp_path / "speed")


def test_a_page_says_which_libraries_multiplied_and_of_a_gpu_no_processor(tmp_path: Path) -> None:
    rows = [row("rivals", "DiT", 1.5)]
    paths = [saved(tmp_path / f"{each}.json", rows, commit="a", kind="model 2", products={"forward": each}) for each in ("torch", "onednn")]
    page, _ = write(paths, tmp_path / "speed")
    assert "Libraries of float32 products in these runs: forward onednn; or forward torch.\n" in page.read_text()
    page, _ = write(
        [saved(tmp_path / "gpu.json", rows, commit="a", kind="model 2", gpu="A card", products={"forward": "torch"})], tmp_path / "gpu"
    )
    assert page == tmp_path / "gpu" / "gpu.md" and "on A card, torch 2.0." in page.read_text() and "Libraries" not in page.read_text()


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.json has no rows for a table"):
        write([saved(tmp_path / "a.json", [], commit="a")], tmp_path / "speed")


def test_what_a_row_lacks_is_a_dash(tmp_path: Path) -> None:
    rows = [row("peers", "a", 1.5) | {"flops": 2.0}, row("peers", "b", 1.5)]
    write([saved(tmp_path / "a.json", rows, commit="a")], tmp_path / "peers")
    assert f"| b | 1.500 [1.400, 1.600] | 9 | {DASH} |" in (tmp_path / "peers" / "peers.md").read_text(encoding="utf-8")
