"""The one peak of a study: measured once, kept, and measured anew where it was edited."""

from pathlib import Path

import pytest
import torch

from bench.data.sealed import DamagedCache
from bench.meters import peak
from bench.run.measure.peak import study_peak

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """What was measured: every time another rate, as a busy machine gives."""
    asked: list[torch.dtype] = []
    monkeypatch.setattr(peak, "matmul_peak", lambda device, dtype: [asked.append(dtype), 1e9 + len(asked)][1])
    return asked


def test_all_cells_of_a_study_have_one_peak(tmp_path: Path, measured: list[torch.dtype]) -> None:
    first = study_peak("quick", torch.float32, CPU, tmp_path)
    assert study_peak("quick", torch.float32, CPU, tmp_path) == first
    assert len(measured) == 1 and first.flop_per_s == 1e9 + 1


def test_another_study_precision_or_number_of_threads_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [study_peak("quick", torch.float32, CPU, tmp_path), study_peak("shapes", torch.float32, CPU, tmp_path)]
    found.append(study_peak("quick", torch.bfloat16, CPU, tmp_path))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    found.append(study_peak("quick", torch.float32, CPU, tmp_path))
    monkeypatch.setattr("bench.run.measure.peak.cpu_id", lambda: "another processor")
    found.append(study_peak("quick", torch.float32, CPU, tmp_path))
    assert len({one.key for one in found}) == len({one.flop_per_s for one in found}) == 5


def test_an_edited_peak_is_named_and_measured_anew(tmp_path: Path) -> None:
    first = study_peak("quick", torch.float32, CPU, tmp_path)
    path = tmp_path / "cache" / "peak" / f"{first.key}.json"
    path.write_text(path.read_text().replace("1000000001.0", "5.0"))
    with pytest.warns(DamagedCache, match=f"cached peak {path} is not what was written and is made again"):
        again = study_peak("quick", torch.float32, CPU, tmp_path)
    assert again.flop_per_s == 1e9 + 2
    assert study_peak("quick", torch.float32, CPU, tmp_path) == again
