"""Faults stay where they are: a bad plug-in is a record of its own cells and the others run; nothing is written through a link."""

from pathlib import Path

import pytest

from bench.data.sources import worlds
from bench.records.store import read_run
from tests.commands import cell_folder, command, here, record_of, write_matrix
from tests.tiny import cell_fields

FEW_STEPS = cell_fields(budget={"steps": 3}, evaluation={"extractors": ["random3d"], "num_samples": 4, "untrained": False})
del FEW_STEPS["backbone"]


def check_records(results: Path, expected: dict[str, tuple[str, str]]) -> None:
    """Status of each cell, what is in its reason, and a traceback beside the record where the reason says so."""
    for name, (status, reason) in expected.items():
        record = record_of(results, name)
        assert record.status == status and reason in str(record.reason), record.reason
        traced = (cell_folder(results, name) / "traceback.txt").is_file()
        assert traced == ("traceback.txt beside" in str(record.reason))
        if status == "ok":
            assert record.measurement("fd_random3d@4") and record.artefacts["sheet"] and record.canaries


def test_bad_contenders_are_records_and_the_good_ones_run(tmp_path: Path) -> None:
    bad = ["tests.exits:Exits", *(f"tests.bad:{name}" for name in ("Raises", "NoModule", "Cuts", "NotANumber"))]
    backbones = {"backbone": [*bad, "tests.small:UNet-XXS", "tests.small:DiT-XXS/2"]}
    path = write_matrix(tmp_path, axes=backbones, defaults=FEW_STEPS, match={"by": "params", "tolerance": 1e6})
    done = here("run", path, "--results", tmp_path / "results")
    assert done.returncode == 1, done.stderr
    beside = " (traceback.txt beside this record)"
    expected = {
        "UNet-XXS-seed0": ("ok", "None"),
        "DiT-XXS_2-seed0": ("ok", "None"),
        "Exits-seed0": ("failed", f"importing module 'tests.exits' raised SystemExit: 0; mend it{beside}"),
        "Raises-seed0": ("failed", f"RuntimeError: no layers for 4 channels{beside}"),
        "NoModule-seed0": ("failed", "'str' object has no attribute"),
        "Cuts-seed0": ("failed", "backbone 'tests.bad:Cuts' gave [(4, 1, 4, 4)] for a clip of latents (4, 4, 4, 4); give one of its shape"),
        "NotANumber-seed0": ("diverged", "loss is nan"),
    }
    check_records(tmp_path / "results", expected)
    assert "prepare: cell Raises-seed0: RuntimeError: no layers for 4 channels; the other cells run" in done.stderr
    assert "Traceback" not in done.stderr
    validated = here("validate", path, "--results", tmp_path / "results")
    assert validated.returncode == 2 and "error: validate: cell Cuts-seed0: backbone 'tests.bad:Cuts' gave" in validated.stderr


def test_contenders_that_end_or_hold_up_the_process_are_records_and_the_good_one_runs(tmp_path: Path) -> None:
    """Processes that end have to be real ones."""
    backbones = {"backbone": ["tests.bad:Leaves", "tests.small:DiT-XXS/2"]}
    sleeper = [{"backbone": "tests.bad:Sleeps", "timeout_s": 2.0}]
    done = command(
        "run", write_matrix(tmp_path, axes=backbones, include=sleeper, defaults=FEW_STEPS, match=None), "--results", tmp_path / "results"
    )
    assert done.returncode == 1, done.stderr
    expected = {
        "DiT-XXS_2-seed0": ("ok", "None"),
        "Leaves-seed0": ("failed", "a check of the backbone at these shapes ended with status 0 before it was done"),
        "Sleeps-timeout_s=2.0-seed0": ("timeout", "ran over timeout_s = 2 (traceback.txt beside this record)"),
    }
    check_records(tmp_path / "results", expected)
    stack = (cell_folder(tmp_path / "results", "Sleeps-timeout_s=2.0-seed0") / "traceback.txt").read_text()
    assert stack.startswith("Timeout") and "most recent call first" in stack  # of bad.py, unless the machine took two seconds to get there
    assert "Traceback" not in done.stderr


def test_a_bad_source_is_a_record_and_the_other_cells_run(tmp_path: Path) -> None:
    own = {"source": "tests.bad_source", "num_frames": 4, "height": 16, "width": 16, "num_val": 4, "num_test": 4}
    axes = {"backbone": ["tests.small:DiT-XXS/2"], "data": [FEW_STEPS["data"], own]}
    path = write_matrix(tmp_path, axes=axes, defaults=FEW_STEPS, match=None)
    done = here("run", path, "--results", tmp_path / "results")
    assert done.returncode == 1, done.stderr
    ok, bad = (cell.name for cell in read_run(tmp_path / "results" / "tiny").cells)
    check_records(tmp_path / "results", {ok: ("ok", "None"), bad: ("failed", "ZeroDivisionError: no clips (traceback.txt beside this")})
    assert done.stderr.count("ZeroDivisionError: no clips; the other cells run") == 1


def test_a_source_that_breaks_later_takes_nothing_from_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_matrix(tmp_path, axes={"backbone": ["tests.small:DiT-XXS/2"]}, defaults=FEW_STEPS, match=None)
    assert here("run", path, "--results", tmp_path / "results").returncode == 0

    def breaks(config: object) -> str:
        raise ZeroDivisionError("no clips any more")

    monkeypatch.setattr(worlds, "digest", breaks)
    again = here("run", path, "--results", tmp_path / "results")
    assert again.returncode == 0 and "1 finished before, 0 to run" in again.stdout, again.stderr
    assert record_of(tmp_path / "results", "DiT-XXS_2-seed0").attempt == 1


@pytest.mark.parametrize("place", ["tiny", "tiny/.lock", "tiny/run.json", "cache", "cache/clips"])
def test_a_run_writes_through_no_link(tmp_path: Path, place: str) -> None:
    outside, link = tmp_path / "outside", tmp_path / "results" / place
    outside.mkdir() if place in ("tiny", "cache", "cache/clips") else outside.write_text("precious")
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    done = here("run", write_matrix(tmp_path), "--results", tmp_path / "results")
    assert done.returncode == 2
    assert done.stderr.endswith(f"error: cannot write {link}: it is a symbolic link to {outside}; remove it\n"), done.stderr
    assert done.stderr.count("error") == 1
    assert list(outside.iterdir()) == [] if outside.is_dir() else outside.read_text() == "precious"
