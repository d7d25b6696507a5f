"""FVDs of others: sourced, on their page and beside a run on the same data, and never among what a run measured."""

from pathlib import Path

import pytest
from report_factory import pair, write_run

from bench.data.source import sources
from bench.report import build
from bench.report.load import Run, load_run
from bench.report.page import published
from bench.report.page.published import PublishedScore, published_table
from bench.report.render import catalogue as metrics
from bench.report.verdicts import findings

ROOT = Path(__file__).parents[1]
ONE = {
    "model": "Later", "value": 12.5, "spread": None, "data": "worlds", "frames": 16, "size": [64, 96],
    "conditioning": "class", "samples": 10_000, "source": "arXiv:0000.00000", "note": "invented",
}  # fmt: skip


def test_the_page_of_the_guide_is_current() -> None:
    text = (ROOT / "docs/published.md").read_text(encoding="utf-8")
    assert text == published.page(), "run `python -m bench.report.page.published > docs/published.md`"
    assert all(each.model in text and each.source in text for each in published.published())


def test_every_value_has_a_source_and_a_data_set_of_ours() -> None:
    found = published.published()
    assert len(found) > 10 and {each.data for each in found} <= set(sources()) & set(published.TITLES)
    assert all("arXiv:" in each.source or "#" in each.source for each in found)
    assert len({each.model_dump_json() for each in found}) == len(found)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Of moving shapes."""
    return load_run(write_run(tmp_path, pair(3), sheets=False))


def test_a_run_on_other_data_has_no_such_table(run: Run) -> None:
    assert not published_table(run).rows


def test_a_run_on_the_same_data_has_it_beside_its_numbers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = findings.find(run)
    monkeypatch.setattr(published, "published", lambda: (PublishedScore.model_validate(ONE),))
    table = published_table(run)
    assert table.rows == (("Later", "12.5", "16", f"64{metrics.TIMES}96", "class", "10,000", "arXiv:0000.00000", "invented"),)
    assert findings.find(run) == without and "Later" not in run.contenders
    build([tmp_path / "invented"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    shown = text.partition("## What others published, beside this")[2].partition("\n## ")[0]
    assert "Later" in shown and text.count("Later") == 1  # never among what was measured
    assert "None of them compares with a value of this suite" in shown
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "None of them compares with a value of this suite" in page and page.count("Later") == 1


def test_runs_on_two_data_sets_have_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "published", lambda: (PublishedScore.model_validate(ONE),))
    record = run.records[0]
    data = record.cell.data.model_copy(update={"source": "ucf101"})
    changed = record.model_copy(update={"cell": record.cell.model_copy(update={"data": data})})
    cells = (run.cells[0].model_copy(update={"record": changed}), *run.cells[1:])
    fields = {name: getattr(run, name) for name in Run.model_fields}  # and nothing that was computed from all cells
    assert not published_table(Run.model_validate(fields | {"cells": cells})).rows
