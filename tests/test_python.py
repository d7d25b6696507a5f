"""The suite from Python: the example of the page as it stands, the table of results, and what it needs."""

import inspect
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.data.files import StoreError
from bench.records.record import Canary, Measurement
from bench.records.store import read_run
from bench.report.load import load_run
from bench.shapes import Refusal
from tests.commands import ROOT, jobs_here, write_matrix
from tests.report_factory import pair, record, write_run

DIT, UNET = "dit:DiT-XS/2", "baselines:UNet-XS"


def test_the_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands in the page."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "reference").symlink_to(ROOT / "results" / "reference")
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    names: dict[str, Any] = {}
    with jobs_here():
        exec(compile(code, "docs/python.md", "exec"), names)
        assert [record.status for record in names["records"]] == ["ok"]
        assert bench.run(names["study"]) == names["records"]  # finished: nothing runs again
    assert "1 finished before, 0 to run" in capsys.readouterr().out
    assert list(names["means"].columns) == [("quick", "DiT-XS/2"), ("quick", "UNet-XS"), ("smoke", "DiT-XS/2")]
    assert names["means"].loc["val_loss", ("smoke", "DiT-XS/2")] == names["records"][0].measurement("val_loss").value
    assert names["page"] == Path("reports/smoke/report.html") and names["page"].is_file()
    assert read_run(Path("results/smoke")).command == "python -m bench run smoke backbone=dit:DiT-XS/2 budget.steps=8"


def test_the_command_of_a_run_elsewhere_names_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what a page and a refusal print goes on with the same cells."""
    said: list[Any] = []
    monkeypatch.setattr("bench.run.launch.run_all", lambda *arguments, launcher: said.append((*arguments, launcher)))
    bench.run(bench.load_study(str(write_matrix(tmp_path)), ["budget.steps=4"]), results=tmp_path / "my results")
    bench.run(bench.load_study("smoke"), devices="cpu,cpu")
    (study, results, _, command, _), (*_, several, launcher) = said
    assert (study.cells[0].cell.budget.amount, results) == (4, tmp_path / "my results")
    assert command == f"python -m bench run {tmp_path}/tiny.yaml budget.steps=4 --results '{tmp_path}/my results'"
    assert several == "python -m bench run smoke --devices cpu,cpu" and launcher.devices == ("cpu", "cpu")


def test_results_need_no_torch_and_import_takes_nothing() -> None:
    """In a process where torch cannot be imported."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'diffusers', 'torchmetrics', 'accelerate']))\n"
        "before = set(sys.modules)\n"
        "import bench\n"
        "assert not {'numpy', 'pandas', 'pydantic', 'bench.report', 'bench.study'} & (set(sys.modules) - before)\n"
        "table = bench.results('results/reference/quick')\n"
        "assert set(table['contender']) == {'UNet-XS', 'DiT-XS/2'} and len(bench.load_study('quick').cells) == 6\n"
        "assert callable(bench.run) and callable(bench.report)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_room_that_is_called_is_still_a_room() -> None:
    import bench.run.launch

    assert callable(bench.run) and bench.run.launch.run_all
    assert callable(bench.report) and bench.report.build is bench.report.called
    assert list(inspect.signature(bench.run).parameters) == ["study", "results", "on", "options"]
    assert set(bench.__all__) <= set(dir(bench))
    with pytest.raises(AttributeError, match="module 'bench' has no attribute 'score'"):
        bench.score  # type: ignore[attr-defined]  # noqa: B018


def test_one_row_a_cell_and_measurement(tmp_path: Path) -> None:
    whole = record(UNET, 0)
    canary = Canary(name="batch equals one at a time", passed=False, detail="0.3")
    lost = record(DIT, 0, status="oom", reason="no room", measurements=[], training=None)
    void = record(DIT, 1, canaries=[canary], measurements=[Measurement(name="kvd@64", value=1.5, unit="1", better="lower", floor=0.25)])
    table = bench.results(write_run(tmp_path, [whole, lost, void], not_run=[(UNET, 4)]))
    assert len(table) == len(whole.measurements) + 3
    rows = {name: part.iloc[0] for name, part in table.groupby("cell")}
    told = {
        name: (row["status"], row["reason"], row["measurement"], row["failed_canaries"]) for name, row in rows.items() if name != whole.name
    }
    missing = pytest.approx(math.nan, nan_ok=True)
    assert told == {
        "DiT-XS-2-seed0": ("oom", "no room", missing, missing),
        "DiT-XS-2-seed1": ("ok", missing, "kvd@64", canary.name),
        "UNet-XS-seed4": ("not run", "no attempt is stored", missing, missing),
    }
    assert rows["DiT-XS-2-seed1"][["value", "floor", "unit", "better", "subject"]].tolist() == [1.5, 0.25, "1", "lower", "trained"]
    own = table[table["cell"] == whole.name].reset_index(drop=True)
    assert own["value"].tolist() == [measurement.value for measurement in whole.measurements]  # unrounded, in their order
    assert own["protocol_fingerprint"].dropna().tolist() == [m.protocol_fingerprint for m in whole.measurements if m.protocol]
    assert set(table["backbone"]) == {UNET, DIT} and table["seed"].tolist() == [*[0] * (len(own) + 1), 1, 4]


def test_several_runs_are_one_table(tmp_path: Path) -> None:
    """Each with its axes."""
    one = write_run(tmp_path / "a", [record(DIT, 0)])
    made = record(DIT, 0, name="four")
    other = write_run(tmp_path / "b", [made])
    text = (other / "run.json").read_text().replace('"axes": {', '"axes": {"sampler.num_steps": 4,')
    (other / "run.json").write_text(text)
    table = bench.results([one, str(other)])
    assert list(dict.fromkeys(table["run"])) == [str(one), str(other)]
    assert table.groupby("run")["sampler.num_steps"].first().isna().tolist() == [True, False]
    assert list(table.columns).index("sampler.num_steps") < list(table.columns).index("measurement")
    assert table["value"].dtype == float


def test_a_page_and_a_table_have_the_same_numbers(tmp_path: Path) -> None:
    folder = write_run(tmp_path, pair(2))
    table, shown = bench.results(folder), load_run(folder).measurements
    assert table["measurement"].tolist() == shown["name"].tolist()
    assert table["value"].tolist() == shown["value"].tolist()
    assert set(shown.columns) - {"name"} <= set(table.columns)


def test_a_folder_without_records_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [record(DIT, 0)])
    shutil.rmtree(next(folder.glob("DiT*")))
    for path, expected in [
        (folder, f"no record in {folder}: 1 of 1 cells without a readable record .*; go on with `python -m bench run quick"),
        (tmp_path, f"no run in {tmp_path}: run.json is missing; name one that is in it: invented"),
        (tmp_path / "nowhere", "run.json is missing; start one with"),
    ]:
        with pytest.raises(StoreError, match=expected) as refused:
            bench.results(path)
        assert "\n" not in str(refused.value)
    with pytest.raises(Refusal, match="at least one run's folder is needed"):
        bench.results([])


def test_an_axis_that_is_no_field_is_refused(tmp_path: Path) -> None:
    """It would take the place of a column."""
    folder = write_run(tmp_path, [record(DIT, 0)])
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"axes": {', '"axes": {"value": 4,'))
    with pytest.raises(StoreError, match="has the axis 'value', which is no field of a cell"):
        bench.results(folder)


def test_a_report_lies_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [write_run(tmp_path / "results", [record(DIT, 0)], matrix=name, sheets=False) for name in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr("bench.report.page.page.write", lambda runs, out: asked.append(([run.matrix for run in runs], out)))
    bench.report(folders)
    bench.report(str(folders[0]), "here")
    assert asked == [(["a", "b"], Path("reports/a-b")), (["a"], Path("here"))]
    unfinished = write_run(tmp_path / "more", [record(DIT, 0)], not_run=[(UNET, 0)], sheets=False)
    with pytest.raises(Refusal, match="is unfinished"):
        bench.report(unfinished)
    bench.report(unfinished, unfinished=True)
