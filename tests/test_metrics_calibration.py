"""The calibration script runs, says what it counts, and its committed table meets the goals it states."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bench.metrics.distances import calibration
from bench.metrics.distances.calibration import COLUMNS, GOAL, MOST_DIFFERENT, ROWS, binomial_interval, main, populations

COMMITTED = Path("reports/calibration/table.csv")


def test_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loose: of 12 runs a 95 % interval covers at least 8, and an A/A verdict is wrong at most 4 times."""
    main(["--quick", "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert {row["column"] for row in rows} == set(COLUMNS)
    for row in rows:
        count, low, high = int(row["count"]), *({"different": (0, 4), "bootstrap": (0, 6)}.get(row["column"], (8, 12)))
        assert row["runs"] == "12"
        assert low <= count <= high, row
    text = (tmp_path / "table.md").read_text()
    assert "calibration --quick" in text
    assert all(f"`{column}`" in text for column in COLUMNS)
    assert "table.md written" in capsys.readouterr().out


def test_the_committed_table_meets_its_goals() -> None:
    """Every row of the script is in it, and meets what it promises as far as its number of runs can tell."""
    rows = list(csv.DictReader(COMMITTED.read_text().splitlines()))
    assert {(row["family"], row["spectrum"], int(row["n"]), int(row["d"]), row["models"]) for row in rows} == {
        (row.family, row.spectrum, row.n, row.d, row.models) for row in ROWS
    }
    for row in rows:
        count, runs = int(row["count"]), int(row["runs"])
        low, high = binomial_interval(count, runs)
        if row["column"] == "different":
            assert count / runs <= MOST_DIFFERENT, row
        elif row["column"] == "bootstrap":
            assert high < GOAL[0], row
        else:
            assert low <= GOAL[1], row
            assert high >= GOAL[0], row


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_populations_have_the_moments_they_say(row: calibration.CoverageRow) -> None:
    row = dataclasses.replace(row, d=min(row.d, 16))
    for population in populations(row):
        sample = population.sample(np.random.default_rng(0), 100_000)
        mean, covariance = population.moments()
        size = np.sqrt(np.diag(covariance))
        assert np.abs((sample.mean(axis=0) - mean) / size).max() < 0.025
        error = (np.cov(sample, rowvar=False) - covariance) / np.outer(size, size)
        assert np.abs(error).max() < (0.1 if row.family == "t5" else 0.04)


def test_cells_and_their_intervals() -> None:
    counts = {"frechet": (95, 100), "kernel": (99, 100), "different": (15, 200), "infinite_n": (89, 100)}
    table = calibration.tidy([(ROWS[0], counts), (ROWS[1], {"different": (16, 200)})])
    assert table["met"].tolist() == [True, False, True, False, False] and table["row"].tolist() == [0, 0, 0, 0, 1]
    low, high = binomial_interval(95, 100)
    assert low < 0.9 < 0.95 < high < 0.98  # textbook: 0.888 to 0.978
    assert binomial_interval(0, 10)[0] == pytest.approx(0, abs=1e-12)
