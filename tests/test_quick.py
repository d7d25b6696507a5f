"""The promises of the `quick` matrix, kept for real: a quarter of an hour, so `tox -e slow`."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from bench.records.record import Record
from bench.records.store import latest, read_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    results = tmp_path_factory.mktemp("quick")
    subprocess.run([sys.executable, "-m", "bench", "run", "quick", "--results", str(results)], check=True, cwd=ROOT, env={**os.environ})
    found = [latest(results / "quick" / cell.folder) for cell in read_run(results / "quick").cells]
    return [record for record in found if record is not None]


def value(record: Record, name: str, subject: str = "trained") -> float:
    measurement = record.measurement(name, subject)
    assert measurement is not None
    return measurement.value


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_quick_learns_what_its_world_shows(records: list[Record]) -> None:
    assert [record.status for record in records] == ["ok"] * 6
    assert all(record.tuning and not record.tuning.differs for record in records)  # at this data, size and budget
    first = [record for record in records if record.cell.seed == 0]
    for record in first:  # of whom the untrained weights are scored too
        assert record.canaries and all(canary.passed for canary in record.canaries)
        assert value(record, "fd_motion_excess_ratio@64") >= 20, record.name
        assert value(record, "fvd_excess_ratio@64") >= 3, record.name
    for record in records:
        assert value(record, "psnr_db", "reconstruction") >= 30
        assert value(record, "steady_rate", "real") == value(record, "steady_rate", "reconstruction") == 1.0
        assert value(record, "peak_rss_bytes") < 4e9
    # Exactly one object, steady in hue and size, in every frame.
    steady = {name: [value(record, "steady_rate") for record in records if name in record.cell.backbone] for name in ("UNet", "DiT")}
    assert min(steady["UNet"]) >= 0.6
    assert max(map(mean, steady.values())) >= 0.9
