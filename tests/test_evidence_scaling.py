"""The evidence for intervals of scaling laws: its page is made from its table, says what was promised, and keeps it."""

from pathlib import Path

import pandas as pd
import pytest

from bench.perf.evidence.scaling import designs, main
from bench.perf.evidence.scaling_page import to_markdown

COMMITTED = Path(__file__).parents[1] / "reports/calibration"
STUDIES = 200


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.read_csv(COMMITTED / "scaling.csv")


def test_the_committed_page_is_that_of_its_table_and_keeps_its_promises(rows: pd.DataFrame) -> None:
    page = to_markdown(rows, STUDIES)
    assert (COMMITTED / "scaling.md").read_text() == page
    assert page.count("| yes |") == 5 and "**no**" not in page
    assert list(rows["name"]) == [design.name for design in designs()]


@pytest.mark.parametrize(
    ("column", "value"), [("exponents", 0.89), ("held-out losses", 0.99), ("steeper claimed", 0.06), ("steady claimed", 0.06), ("E", 0.8)]
)
def test_a_promise_that_is_broken_is_told(rows: pd.DataFrame, column: str, value: float) -> None:
    where = rows["name"].str.contains("nothing") if column == "steady claimed" else rows["equal"]
    rows.loc[where.idxmax(), column] = value
    assert to_markdown(rows, STUDIES).count("**no**") == 1


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.perf.evidence.scaling.designs", lambda: iter([next(designs())]))
    monkeypatch.setattr("bench.perf.evidence.scaling.to_markdown", lambda rows, studies: f"{studies} {len(rows)}")
    main(tmp_path, 2)
    assert (tmp_path / "scaling.md").read_text() == "2 1"
    assert {"exponents", "held-out losses", "steeper claimed"} <= set(pd.read_csv(tmp_path / "scaling.csv").columns)
