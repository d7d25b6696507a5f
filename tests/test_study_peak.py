"""The one peak of a study: measured once, kept, and measured anew where it was edited."""

import json
from pathlib import Path

import pytest
import torch

from bench.data.sealed import DamagedCache
from bench.meters import peak
from bench.run.measure.peak import StudyPeak, study_peak

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


@pytest.mark.parametrize("damage", ["value", "zero", "infinite", "half", "bytes", "of another"])
def test_an_edited_peak_is_named_and_measured_anew(tmp_path: Path, damage: str) -> None:
    first = study_peak("quick", torch.float32, CPU, tmp_path)
    path = tmp_path / "cache" / "peak" / f"{first.key}.json"
    stored = json.loads(path.read_text())
    changes = {"value": {"flop_per_s": 5.0}, "zero": {"flop_per_s": 0}, "infinite": {"flop_per_s": "Infinity"}}
    content = json.dumps(stored | changes.get(damage, {})).encode()
    if damage == "of another":
        content = StudyPeak.model_validate(stored | {"key": "another"}).sealed().model_dump_json().encode()
    path.write_bytes({"half": content[:20], "bytes": b"\xff\xfe"}.get(damage, content))
    with pytest.warns(DamagedCache, match=f"cached peak {path} is not what was written and is measured anew"):
        again = study_peak("quick", torch.float32, CPU, tmp_path)
    assert again.flop_per_s == 1e9 + 2
    assert study_peak("quick", torch.float32, CPU, tmp_path) == again
