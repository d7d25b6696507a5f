"""The report says what the records say, no more, and opens anywhere."""

import csv
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_factory import EXACT, PROTOCOL, environment, measurements, pair, record, renamed, write_run
from rich.console import Console

from bench.data.files import StoreError
from bench.records.record import Canary, Record
from bench.report import build
from bench.report.load import Run, load_run
from bench.report.page import figures, page, sheets
from bench.report.render import catalogue as metrics
from bench.report.render.console import summary
from bench.report.render.table import Table
from bench.report.sheet import Sheet, load_sheet
from bench.report.verdicts import answer, compare
from bench.report.verdicts.findings import find
from bench.shapes import Refusal
from tests.commands import here

UNET, DIT = "baselines:UNet-XS", "dit:DiT-XS/2"
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both contenders at three clearly separated seeds, and its report."""
    folder = tmp_path_factory.mktemp("three")
    build([write_run(folder, pair(3))], folder / "out")
    return folder


def rows_of(folder: Path) -> tuple[Run, dict[str, compare.MeasureRow]]:
    run = load_run(folder)
    return run, {row.name: row for row in find(run).rows if row.subject == "trained"}


def said(folder: Path) -> tuple[str, ...]:
    """The sentences of a run's answer."""
    run = load_run(folder)
    return answer.answer(run, find(run)).sentences


def quality_of(folder: Path) -> str:
    return said(folder)[1]


def verdict_of(folder: Path, name: str) -> Any:
    verdict = rows_of(folder)[1][name].verdict
    assert verdict is not None
    return verdict


def best_of(row: compare.MeasureRow) -> list[str]:
    return [entry.contender for entry in row.entries if entry.best]


def text_of(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def changed(made: Record, **fields: dict[str, Any]) -> Record:
    """A record whose measurements of the given names are changed."""
    names = {name.replace("_at_", "@"): change for name, change in fields.items()}
    return made.model_copy(update={"measurements": [m.model_copy(update=names.get(m.name, {})) for m in made.measurements]})


# --- the page


def test_page_is_one_small_file_without_outside_resources(three: Path) -> None:
    page = three / "out" / "report.html"
    text = text_of(three / "out")
    assert page.stat().st_size < 5_000_000
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"url\((?!#)|@import", text)
    assert "<script" not in text


def test_page_stays_small_with_many_noisy_clips(tmp_path: Path) -> None:
    run = write_run(tmp_path, pair(1))
    rng = np.random.default_rng(0)
    clips: dict[str, Any] = {
        name: rng.integers(0, 255, (8, 6, 96, 96, 3), dtype=np.uint8) for name in ("real", "reconstruction", "generated", "untrained")
    }
    for folder in run.glob("*-seed0-*"):
        np.savez(folder / "sheet.npz", **clips, labels_real=np.zeros(8, int), labels_generated=np.zeros(8, int), fps=8.0)
    build([run], tmp_path / "out")
    assert (tmp_path / "out" / "report.html").stat().st_size < 5_000_000


def test_ids_are_unique_with_several_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / part, pair(1)) for part in "ab"]  # the same matrix name twice
    build(runs, tmp_path / "out")
    ids = re.findall(r'\bid="([^"]*)"', text_of(tmp_path / "out"))
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]*)"', text_of(tmp_path / "out")):
        assert target in ids
    assert (tmp_path / "out" / "tables" / "invented-2-comparison.csv").exists()


def test_text_from_records_is_escaped(tmp_path: Path) -> None:
    failed = record(DIT, 1, status="failed", reason=EVIL, measurements=[], training=None)
    noted = record(UNET, 0, canaries=[Canary(name=EVIL, passed=True, detail=EVIL)])
    run = write_run(tmp_path, [noted, record(DIT, 0), failed], description=EVIL, command=EVIL)
    written = build([run], tmp_path / "out")
    for path in written:
        if path.suffix in (".html", ".svg") or path.suffix == ".md":
            text = path.read_text(encoding="utf-8").replace(f"```\n{EVIL}\n```", "")  # a fenced block is text already
            assert "<script" not in text, path
    assert "&lt;script&gt;" in text_of(tmp_path / "out")


def test_markup_in_a_contender_name_is_text(tmp_path: Path) -> None:
    made = record(UNET, 0)
    evil = made.model_copy(update={"cell": renamed(made, "x:$_<b>&_\\{a: 1}")})
    run = write_run(tmp_path, [evil, record(DIT, 0)])
    for path in build([run], tmp_path / "out"):
        if path.suffix == ".svg":
            ElementTree.parse(path)
        if path.suffix in (".html", ".svg"):
            assert "_<b>" not in path.read_text(encoding="utf-8")
        if path.suffix == ".tex":
            text = path.read_text(encoding="utf-8")
            assert "$_" not in text and ("<b>" not in text or r"\_\textbackslash{}\{a" in text)


HOSTILE = "\x1b[2J\u202e\x9b=1"


def test_controls_and_formulas_of_names_reach_no_page(tmp_path: Path) -> None:
    made = record(UNET, 0, canaries=[Canary(name=HOSTILE, passed=True, detail=HOSTILE)])
    found = [m.model_copy(update={"name": f"=SUM(A1){HOSTILE}"}) if m.name == "hue_drift" else m for m in made.measurements]
    odd = made.model_copy(update={"cell": renamed(made, f"x:@{HOSTILE}"), "measurements": found})
    run = write_run(tmp_path, [odd, record(DIT, 0)], sheets=False, description=HOSTILE, command=f"run {HOSTILE}")
    for path in build([run], tmp_path / "out"):
        text = path.read_text(encoding="utf-8")
        assert not set(HOSTILE[:1] + "\u202e\x9b") & set(text), path
        if path.suffix == ".svg":
            ElementTree.fromstring(text)
        if path.suffix == ".csv":
            for row in csv.reader(io.StringIO(text)):
                assert not [cell for cell in row if cell.startswith(("=", "+", "@"))], path
    assert (tmp_path / "out" / "tables" / "measurements.csv").read_text().count("'=SUM(A1)") == 1
    summary_text = io.StringIO()
    Console(file=summary_text, width=200).print(summary([odd.model_copy(update={"name": HOSTILE})]))
    assert "\x1b" not in summary_text.getvalue() and r"\x1b[2J\u202e\x9b=1" in summary_text.getvalue()


def test_numbers_are_no_formulas() -> None:
    data = pd.DataFrame({"-a": ["-1.5 2e-3", "-x", "- 1", " =1", "x"], "b": [-1.0, 2.0, float("nan"), -3e-9, 0.1]})
    again = pd.read_csv(io.StringIO(Table("t", "", ("-a", "b"), (), data=data).to_csv()))
    assert list(again.columns) == ["'-a", "b"] and again["'-a"].tolist() == ["-1.5 2e-3", "'-x", "'- 1", "' =1", "x"]
    assert again["b"].equals(data["b"])


def test_the_data_and_every_file_left_out_are_told(tmp_path: Path) -> None:
    skipped = [{"name": "a.mp4", "reason": "cannot be read"}, {"name": "b.gif", "reason": "has 3 frames, a clip needs 10"}]
    facts = {"digest": "1" * 32, "num_clips": {"train": 7, "val": 2}, "label_names": [], "fps": 8.0}
    facts |= {"skipped": skipped, "lost": {"frames in gaps between splits": 12}, "notes": ["3 files split by time"]}
    run = write_run(tmp_path, [record(UNET, 0, data=facts), record(DIT, 0)], sheets=False)
    build([run], tmp_path / "out")
    page, text = text_of(tmp_path / "out"), (tmp_path / "out" / "report.md").read_text()
    said = "2 files of the data gave no clip: a.mp4, b.gif."
    assert said in page and page.index(said) < page.index('<div class="answer') and f"**Warning.** {said}" in text
    for said in (
        "cannot be read",
        "has 3 frames, a clip needs 10",
        "frames in gaps between splits",
        "3 files split by time",
        "7 train, 2 val",
    ):
        assert said in page and said in text
    assert "| a.mp4 | cannot be read | UNet-XS |" in text
    assert "The matrix says of itself: “Invented records, to test the report.” Changed in this run: budget.seconds=120." in page


def test_an_odd_run_is_told_and_ends_in_no_traceback(tmp_path: Path) -> None:
    made = json.loads(record(DIT, 0).model_dump_json())
    run = write_run(tmp_path, [record(UNET, 0), record(DIT, 0)], sheets=False, command='"')
    path = next(run.glob("DiT*/attempt-1.json"))
    for change, reason in (
        ({"time_split_s": {"training": float("nan")}}, "time_split_s.training"),
        ({"time_split_s": {"training": -1}}, "time_split_s.training"),
        ({"data": made["data"] | {"fps": 0}}, "data.fps"),
        ({"measurements": [made["measurements"][0] | {"protocol": {"a": float("inf")}}]}, "holds inf, which is no finite number"),
        ({"measurements": [made["measurements"][0] | {"value": 1e200}]}, "more than 1e+100 in size"),
        ({"measurements": [made["measurements"][0] | {"protocol": nested(30)}]}, "is nested deeper than 16 levels"),
    ):
        path.write_text(json.dumps(made | change))
        found = load_run(run).cells[1]
        assert found.status == "unreadable" and reason in str(found.reason) and load_run(run).cells[0].status == "ok"
    course = made["training"] | {"step_end_s": [1.0], "loss": [1e308, -1e308, *made["training"]["loss"][2:]]}
    huge = [m | {"value": 1e99} if m["name"] in ("train_flops", "peak_storage_bytes") else m for m in made["measurements"]]
    endless = {"low": float("-inf"), "high": float("inf")}
    huge = [m | endless if m["name"] in ("train_steps", "fd_random3d@64") else m for m in huge]
    path.write_text(json.dumps(made | {"training": course, "measurements": huge}))
    assert figures.training_curves(found := load_run(run)) and figures.quality_course(found, compare.compare(found))
    assert page.chapter(found, "", 1)


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels else {}


def test_output_depends_on_the_records_alone(three: Path, tmp_path: Path) -> None:
    again = build([three / "invented"], tmp_path)
    assert {path.relative_to(tmp_path) for path in again} == {
        path.relative_to(three / "out") for path in (three / "out").rglob("*") if path.is_file()
    }
    for path in again:
        assert path.read_bytes() == (three / "out" / path.relative_to(tmp_path)).read_bytes(), path


def test_report_needs_no_torch(three: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from bench.report import build
import bench.report.render.console
build([Path({str(three / "invented")!r})], Path({str(tmp_path)!r}))
heavy = {{"torch", "diffusers", "torchmetrics", "accelerate"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- verdicts and best values


def test_one_seed_is_inconclusive_except_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path, pair(1))
    assert verdict_of(run, "fd_random3d@64").outcome == "inconclusive"
    assert verdict_of(run, "train_clips_per_s").outcome == "inconclusive"
    assert verdict_of(run, "flops_per_clip").outcome == "exact"
    assert verdict_of(run, "peak_storage_bytes").leader == "DiT-XS/2"
    assert verdict_of(run, "train_clips_per_s").word == "large, but one run"  # 97 against 25
    assert verdict_of(run, "fd_random3d@64").word == "one run"  # no study recorded how far this one drifts
    build([run], tmp_path / "out")
    assert '<span class="tag open">large, but one run</span>' in text_of(tmp_path / "out")
    assert "| large, but one run (DiT-XS/2 ahead) |" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert quality_of(run) == "Which makes better clips, one seed cannot tell: DiT-XS/2's are nearer to real ones."


def test_one_seed_shows_the_interval_over_its_clips(tmp_path: Path) -> None:
    run, rows = rows_of(write_run(tmp_path, pair(1)))
    row, made = rows["fd_random3d@64"], run.cells[0].record
    found = made.measurement("fd_random3d@64") if made else None
    assert found is not None and found.low is not None and found.high is not None
    assert row.bounds(row.entries[0]) == f"[{row.text(found.low)}, {row.text(found.high)}]"
    assert row.bounds(rows["val_loss"].entries[0]) == ""


def test_three_separated_seeds_lead(three: Path) -> None:
    verdict = verdict_of(three / "invented", "fd_random3d@64")
    assert (verdict.outcome, verdict.leader) == ("leads", "DiT-XS/2")
    assert quality_of(three / "invented").startswith("DiT-XS/2 makes the better clips: they are nearer to real ones (p = ")


def test_overlapping_seeds_are_inconclusive(tmp_path: Path) -> None:
    run = write_run(tmp_path, pair(3, spread=0.6))
    assert verdict_of(run, "fd_random3d@64").outcome == "inconclusive"


def test_other_measures_cannot_turn_the_headline(tmp_path: Path) -> None:
    worse = [changed(record(DIT, seed), val_loss={"value": 0.9 + 0.001 * seed}) for seed in range(3)]
    run = write_run(tmp_path, [*(record(UNET, seed) for seed in range(3)), *worse])
    assert quality_of(run).startswith("DiT-XS/2 makes the better clips")
    assert (verdict_of(run, "val_loss").outcome, verdict_of(run, "val_loss").leader) == ("leads", "UNet-XS")


def test_without_a_primary_measure_there_is_no_headline(tmp_path: Path) -> None:
    unknown = "Who makes the better clips is not known: "
    assert quality_of(write_run(tmp_path, pair(3), primary=None)) == f"{unknown}the study names no measure that decides."
    assert quality_of(write_run(tmp_path / "b", pair(3), primary="fvd")) == f"{unknown}fvd was not measured."


def test_best_follows_the_direction(three: Path) -> None:
    rows = rows_of(three / "invented")[1]
    assert best_of(rows["fd_random3d@64"]) == ["DiT-XS/2"]  # lower
    assert best_of(rows["train_clips_per_s"]) == ["DiT-XS/2"]  # higher
    assert best_of(rows["train_steps"]) == []  # no direction
    assert best_of(rows["num_params"]) == []  # matched by the matrix
    assert best_of(rows["train_wall_time_s"]) == []  # fixed by the budget


def test_ties(tmp_path: Path) -> None:
    same = [changed(made, val_loss={"value": 0.5}) for made in pair(1) if made]
    run = write_run(tmp_path, same)
    assert best_of(rows_of(run)[1]["val_loss"]) == []  # all equal: none is best
    third = record(DIT, 0)
    third = third.model_copy(update={"cell": renamed(third, "other:Third"), "name": "third", "fingerprint": "9" * 64})
    run = write_run(tmp_path / "more", [*same, changed(third, val_loss={"value": 0.7})])
    assert best_of(rows_of(run)[1]["val_loss"]) == ["UNet-XS", "DiT-XS/2"]


def test_different_protocols_are_not_compared(tmp_path: Path) -> None:
    protocol = {"protocol": {**PROTOCOL, "dtype": "bf16"}}
    other = [changed(record(DIT, seed), fd_random3d_at_64=protocol) for seed in range(3)]
    run = write_run(tmp_path, [*(record(UNET, seed) for seed in range(3)), *other])
    row = rows_of(run)[1]["fd_random3d@64"]
    assert row.verdict is not None
    assert row.verdict.outcome == "not compared"
    assert best_of(row) == []
    build([run], tmp_path / "out")
    assert "different protocols (dtype: float32 and bf16)" in text_of(tmp_path / "out")


def test_different_machines_compare_quality_and_counts_only(tmp_path: Path) -> None:
    elsewhere = record(DIT, 0, environment=environment(cpu="Another CPU"))
    run = write_run(tmp_path, [record(UNET, 0), elsewhere])
    assert verdict_of(run, "train_clips_per_s").outcome == "not compared"
    assert verdict_of(run, "val_loss").outcome == "inconclusive"
    assert verdict_of(run, "flops_per_clip").outcome == "exact"


def test_a_rate_taken_beside_another_process_is_no_value(tmp_path: Path) -> None:
    disturbed = [
        m.model_copy(update={"invalid": "2 other processes were on the device"}) if m.name == "train_clips_per_s" else m
        for m in measurements(DIT, 2, 0.03)
    ]
    run = write_run(tmp_path, [*pair(3)[:-1], record(DIT, 2, measurements=disturbed)])
    verdict = verdict_of(run, "train_clips_per_s")
    assert verdict.outcome == "inconclusive"
    assert "seed 2 not valid: 2 other processes were on the device" in verdict.reason
    assert [seed for seed, _ in rows_of(run)[1]["train_clips_per_s"].entry("DiT-XS/2").by_seed] == [0, 1]
    assert verdict_of(run, "val_loss").carried


def test_a_failed_canary_takes_every_verdict_away(tmp_path: Path) -> None:
    broken = record(DIT, 0, canaries=[Canary(name="batch equals one at a time", passed=False, detail="0.3")])
    run = write_run(tmp_path, [record(UNET, 0), broken])
    rows = rows_of(run)[1]
    assert all(row.verdict is None or not row.verdict.carried for row in rows.values())
    assert not any(best_of(row) for row in rows.values())
    build([run], tmp_path / "out")
    assert said(run) == ("Nothing here is to be believed: a self-check failed (batch equals one at a time of DiT-XS/2).",)
    assert 'class="first no-verdict"' in text_of(tmp_path / "out") and not (tmp_path / "out" / "pictures" / "ratios.svg").exists()
    assert "FAILED" in text_of(tmp_path / "out")


def test_a_canary_that_did_not_run_is_said(tmp_path: Path) -> None:
    """One that ran with one seed of a backbone and not with another; what other backbones check of themselves is no matter."""
    twin = [*record(UNET, 0).canaries, Canary(name="one frame equals the image twin", passed=True, detail="0")]
    build([write_run(tmp_path / "all", [record(UNET, 0, canaries=twin), record(DIT, 0)])], tmp_path / "all" / "out")
    assert "did not run" not in text_of(tmp_path / "all" / "out")
    build([write_run(tmp_path / "one", [record(UNET, 0, canaries=twin), record(UNET, 1), record(DIT, 0)])], tmp_path / "one" / "out")
    assert "did not run" in text_of(tmp_path / "one" / "out")


# --- failures


def test_failed_cells_are_shown_and_forbid_a_claim(tmp_path: Path) -> None:
    partial = [m for m in measurements(DIT, 2, 0.03) if m.name in ("num_params", "flops_per_clip")]
    oom = record(DIT, 2, status="oom", reason="CUDA out of memory: 4 GiB", measurements=partial, training=None, artefacts={})
    run = write_run(tmp_path, [*(record(UNET, seed) for seed in range(3)), record(DIT, 0), record(DIT, 1), oom], not_run=[(DIT, 3)])
    verdict = verdict_of(run, "fd_random3d@64")
    assert verdict.outcome == "inconclusive"
    assert "seed 2 oom, seed 3 not run" in verdict.reason
    assert verdict_of(run, "flops_per_clip").outcome == "exact"
    build([run], tmp_path / "out", unfinished=True)
    text = text_of(tmp_path / "out")
    assert "CUDA out of memory: 4 GiB" in text
    assert "2 of 7 cells did not finish" in text
    failures = pd.read_csv(tmp_path / "out" / "tables" / "failures.csv")
    assert failures["Status"].tolist() == ["oom", "not run"]


def test_seeds_that_lack_a_value_for_one_reason_are_named_together(tmp_path: Path) -> None:
    """As those of what is measured once a contender, of its first seed."""
    untrained = [[m for m in measurements(DIT, seed, 0.03) if seed in (0, 2) or m.subject != "untrained"] for seed in range(4)]
    cells = [record(DIT, seed, measurements=own) for seed, own in enumerate(untrained)]
    run = load_run(write_run(tmp_path, [*cells, record(DIT, 4, status="oom", measurements=[], training=None, artefacts={})]))
    assert run.missing("DiT-XS/2", "fd_random3d@64", "untrained") == "seeds 1 and 3 not measured, seed 4 oom"


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    """Unless asked for: the page then opens with it. What failed is a result."""
    failed = record(DIT, 0, status="failed", reason="no", measurements=[], training=None, artefacts={})
    build([write_run(tmp_path / "a", [record(UNET, 0), failed])], tmp_path / "done")
    assert "Unfinished" not in text_of(tmp_path / "done")
    run = write_run(tmp_path / "b", [record(UNET, 0)], not_run=[(DIT, 0), (DIT, 1)])
    told = (
        "2 of 3 cells without a readable record (first DiT-XS-2-seed0: not run); go on with `python -m bench run quick budget.seconds=120`"
    )
    done = here("report", run, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, f"error: invented is unfinished: {told}, or report what there is with --unfinished\n")
    assert not (tmp_path / "out").exists()
    assert here("report", run, "--out", tmp_path / "out", "--unfinished").returncode == 0
    text = text_of(tmp_path / "out")
    assert text.index(f"Unfinished: {told}.") < text.index('<div class="answer">')
    lines = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").split("\n\n")
    assert lines[1].startswith("**Unfinished: 2 of 3 cells without a readable record")


def test_all_seeds_of_a_contender_failed(tmp_path: Path) -> None:
    failed = record(DIT, 0, status="failed", reason="no", measurements=[], training=None, time_split_s={}, artefacts={})
    run = write_run(tmp_path, [record(UNET, 0), failed])
    assert verdict_of(run, "fd_random3d@64").outcome == "not compared"
    build([run], tmp_path / "out")
    assert "only UNet-XS has a value" in text_of(tmp_path / "out")


def test_unreadable_record_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path, pair(1))
    next(run.glob("DiT*/attempt-1.json")).write_text("{")
    with pytest.raises(
        Refusal, match=r"1 of 2 cells without a readable record \(first DiT-XS-2-seed0: DiT.*/attempt-1.json cannot be read"
    ):
        build([run], tmp_path / "out")
    build([run], tmp_path / "out", unfinished=True)
    assert "unreadable" in text_of(tmp_path / "out")
    assert str(tmp_path) not in text_of(tmp_path / "out")


@pytest.mark.parametrize(
    "damage", ["missing", "garbage", "float", "pickled", "labels", "class", "words", "rate", "untrained", "bomb", "untold", "numbers"]
)
def test_damaged_sheet_is_a_note(tmp_path: Path, damage: str) -> None:
    run = write_run(tmp_path, pair(1))
    path = next(run.glob("DiT*/sheet.npz"))
    with np.load(path) as arrays:
        content: dict[str, Any] = dict(arrays)
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"PK\x03\x04 not a zip")
    elif damage != "missing":
        change = {
            "float": {"generated": content["generated"] / 255.0},
            "pickled": {"real": np.array([{"a": 1}], dtype=object)},
            "labels": {"labels_real": content["labels_real"][:3]},
            "class": {"labels_generated": content["labels_generated"] + 1},
            "words": {"labels_generated": content["labels_generated"].astype(str)},
            "rate": {"fps": np.array(np.nan)},
            "untold": {"told": np.array(["a disc"])},
            "numbers": {"told": content["labels_real"]},
            "untrained": {"untrained": content["untrained"][:, :, :5]},
            "bomb": {"real": np.zeros((2, 2000, 8, 8, 3), np.uint8)},
        }
        np.savez(path, **{**content, **change[damage]})
    found, told = load_run(run), [load_sheet(cell) for cell in load_run(run).cells]
    assert isinstance(told[0], Sheet) and str(told[1]).startswith("sheet.npz ")
    if damage == "missing":
        assert "DiT-XS/2 has no clips to show" in "".join(sheets.draw(found, 10**6)[1])


def test_an_artefact_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, [record(UNET, 0, artefacts={"sheet": "../sheet.npz"})]))
    assert run.cells[0].artefact("sheet") is None


def test_a_run_of_nothing_still_has_a_page(tmp_path: Path) -> None:
    for place, run in enumerate([write_run(tmp_path / "a", []), write_run(tmp_path / "b", [], not_run=[(UNET, 0), (DIT, 0)])]):
        build([run], tmp_path / str(place), unfinished=True)
        assert "No cell got as far as a measurement" in text_of(tmp_path / str(place))


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run in"):
        build([tmp_path], tmp_path / "out")
    (tmp_path / "run.json").write_text('{"cells": [1]}')
    with pytest.raises(StoreError, match="not a run's snapshot"):
        build([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="at least one"):
        build([], tmp_path / "out")


# --- tables


def test_csv_holds_the_records_values(three: Path) -> None:
    run = load_run(three / "invented")
    table = pd.read_csv(three / "out" / "tables" / "comparison.csv").set_index(["measurement", "subject"])
    long = pd.read_csv(three / "out" / "tables" / "measurements.csv")
    assert len(long) == sum(len(made.measurements) for made in run.records)
    for contender in run.contenders:
        for name in ("fd_random3d@64", "train_clips_per_s", "peak_rss_bytes", "num_params", "hue_drift"):
            values = [cell.record.measurement(name).value for cell in run.of(contender)]  # type: ignore[union-attr]
            assert table.loc[(name, "trained"), f"{contender} mean"] == pytest.approx(np.mean(values), rel=1e-14)
            assert [float(v) for v in str(table.loc[(name, "trained"), f"{contender} values"]).split()] == values
            assert (
                long[(long["contender"] == contender) & (long["name"] == name) & (long["subject"] == "trained")]["value"].tolist() == values
            )


def test_markdown_and_latex_agree_with_the_records(three: Path) -> None:
    run, rows = rows_of(three / "invented")
    markdown = (three / "out" / "tables" / "comparison.md").read_text(encoding="utf-8")
    latex = (three / "out" / "tables" / "comparison.tex").read_text(encoding="utf-8")
    for row in rows.values():
        if not row.entries[0].interval:
            continue
        title = row.titled().partition(" [")[0].replace("_", r"\_")
        line = next(line for line in markdown.splitlines() if line.startswith(f"| {title}"))
        tex = next(line for line in latex.splitlines() if line.startswith(title))
        for place, contender in enumerate(run.contenders):
            mean = np.mean([cell.record.measurement(row.name).value for cell in run.of(contender)])  # type: ignore[union-attr]
            for cell, strong in ((line.split(" | ")[1 + place], "**"), (tex.split(" & ")[1 + place], r"\textbf")):
                shown = float(re.findall(r"-?[\d,.]+(?:e-?\d+)?", cell)[0].replace(",", ""))
                assert shown * row.divisor == pytest.approx(mean, rel=5e-3)
                assert (strong in cell) == row.entry(contender).best
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert latex.count("{") == latex.count("}")


def test_units_are_rendered_in_the_report_only(three: Path) -> None:
    rows = rows_of(three / "invented")[1]
    storage = rows["peak_storage_bytes"]
    assert (storage.divisor, storage.unit) == (2**20, "MiB")
    assert storage.text(EXACT[DIT]["peak_storage_bytes"]) == "222.3"
    assert (rows["step_time_s"].unit, rows["flops_per_clip"].unit) == ("ms", "GFLOP")


def test_unknown_measurements_are_shown(three: Path) -> None:
    assert metrics.find("hue_drift").group == "other"
    assert "hue_drift" in text_of(three / "out")


def test_names_of_metrics() -> None:
    assert metrics.find("fvd@64").title == "FVD, n = 64"
    assert metrics.find("fd_random3d@256").title == "Fréchet distance, random3d, n = 256"
    assert metrics.find("fd_random3d_excess_ratio@64").title == "Improvement over untrained, fd_random3d, n = 64"
    assert not metrics.find("kd_random3d_excess_ratio@64").distance


def test_differences_and_mismatch(three: Path) -> None:
    differences = pd.read_csv(three / "out" / "tables" / "differences.csv")
    assert differences.to_numpy().tolist() == [["backbone", UNET, DIT]]
    settings = pd.read_csv(three / "out" / "tables" / "settings.csv", index_col=0)["Value"]
    assert settings["sampler.solver"] == "euler"
    assert not {"backbone", "seed"} & set(settings.index)
    mismatch = pd.read_csv(three / "out" / "tables" / "mismatch.csv").set_index("measurement")
    assert mismatch.loc["num_params", "largest / least"] == pytest.approx(1_335_940 / 1_312_772)
    assert mismatch.loc["num_params", "within"] == True  # noqa: E712


def test_a_broken_match_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path, pair(1), match={"by": "params", "tolerance": 0.01})
    assert "NOT matched" in verdict_of(run, "num_params").reason
    build([run], tmp_path / "out")
    assert "BEYOND the tolerance of 1 %" in text_of(tmp_path / "out")


# --- pictures and console


def test_sheets(three: Path) -> None:
    with Image.open(three / "out" / "pictures" / "samples.webp") as moving:
        assert moving.n_frames == 10  # type: ignore[attr-defined]
        assert moving.info["loop"] == 0
    with Image.open(three / "out" / "pictures" / "samples.png") as still:
        assert still.width > 800
    text = text_of(three / "out")
    for label in ("Real", "Reconstructed", "UNet-XS, seed 0", "DiT-XS/2, untrained", "triangle"):
        assert f"<span>{label}</span>" in text


def test_real_clips_stand_under_their_own_label(three: Path) -> None:
    assert "and the real ones have it" in text_of(three / "out")  # the factory lists real labels backwards


def test_pictures_are_svg_with_labels_and_both_colour_schemes(three: Path) -> None:
    for name, words in {"training": ["training step", "loss"], "quality": ["fd_random3d@64"], "time": ["training set"]}.items():
        path = three / "out" / "pictures" / f"{name}.svg"
        ElementTree.parse(path)
        text = path.read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in text
        assert all(word in text for word in words)


def test_console_summary() -> None:
    failed = record(DIT, 0, status="oom", reason="CUDA out of memory [/bold]", measurements=[], training=None)
    broken = record(DIT, 1, canaries=[Canary(name="batch equals one at a time", passed=False, detail="")])
    buffer = io.StringIO()
    Console(file=buffer, width=200).print(summary([record(UNET, 0), failed, broken]))
    text = buffer.getvalue()
    assert "UNet-XS-seed0" in text
    assert "oom" in text
    assert "canary failed" in text
    assert "fd_random3d@64" in text


def test_every_unit_is_worth_what_it_says() -> None:
    """A value over its divisor, times what the unit means, is the value."""
    worth = {
        "%": 0.01, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "h": 3600, "s": 1, "ms": 1e-3, "µs": 1e-6,
        "FLOP": 1, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "EFLOP": 1e18, "": 1, "million": 1e6, "billion": 1e9,
    }  # fmt: skip
    for steps in metrics.SCALES.values():
        assert all(divisor == worth[unit] for divisor, unit in steps)
