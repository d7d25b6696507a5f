"""Stored references: of this machine, or refused. Times are invented (tests/fake_suite.py)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.reference import read_reference, refuse_other
from tests.fake_suite import FakeProject
from tests.test_check_gate import A, B, check, one_line


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a project and the reference of its first commit, which nobody changes."""
    folder = tmp_path_factory.mktemp("saved")
    project = FakeProject(folder / "project")
    project.commit({"a": A, "b": B})
    done = check(project, "--save", folder / "reference.json")
    assert done.returncode == Exit.UNCHANGED, done.stderr
    assert "2 benchmarks" in done.stdout
    return folder


@pytest.fixture
def stored(saved: Path, tmp_path: Path) -> tuple[FakeProject, Path]:
    """A project and the reference of its first commit."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return FakeProject.at(tmp_path / "project"), tmp_path / "reference.json"


def changed(path: Path, **fields: Any) -> Path:
    """The reference with fields of its environment changed."""
    content = json.loads(path.read_text())
    content["environment"] |= fields
    path.write_text(json.dumps(content))
    return path


def test_the_same_revision_passes_and_a_slower_one_does_not(stored: tuple[FakeProject, Path], tmp_path: Path) -> None:
    project, path = stored
    assert check(project, "--against", path).returncode == Exit.UNCHANGED
    project.commit({"a": {**A, "ms": 30}, "b": B})
    done = check(project, "--against", path, "--out", tmp_path / "out")
    assert done.returncode == Exit.REGRESSED, done.stdout
    assert "promise is coarse" in done.stdout
    assert len(json.loads((tmp_path / "out" / "check.json").read_text())["pairs"]) == 6


def test_counters_are_exact_here_too(stored: tuple[FakeProject, Path]) -> None:
    project, path = stored
    project.commit({"a": {**A, "counters": {**A["counters"], "operators": 101}}, "b": B})
    done = check(project, "--against", path)
    assert done.returncode == Exit.REGRESSED
    assert "operators 100 -> 101" in done.stdout


def test_what_is_missing_is_told(stored: tuple[FakeProject, Path]) -> None:
    project, path = stored
    project.commit({"a": A, "c": B})
    done = check(project, "--against", path)
    assert done.returncode == Exit.LACKS_BENCHMARK
    assert "base lacks this benchmark" in done.stdout
    assert "head lacks this benchmark" in done.stdout


def test_no_reference_is_told_before_minutes_are_spent(stored: tuple[FakeProject, Path], tmp_path: Path) -> None:
    project, path = stored
    one_line(check(project, "--against", tmp_path / "none.json"), Exit.NO_REFERENCE, "store one on this machine with `check --save")
    path.write_text("{")
    one_line(check(project, "--against", path), Exit.NO_REFERENCE, "cannot be read")


@pytest.mark.parametrize(
    ("field", "value"), [("cpu", "Another 9000"), ("cpu_id", "family 1"), ("num_cpus", 999), ("gpus", ["H900"]), ("python", "2.7")]
)
def test_another_machine_is_refused_by_name(stored: tuple[FakeProject, Path], field: str, value: Any) -> None:
    _, path = stored
    current = read_reference(path)
    with pytest.raises(CheckRefused, match=f"another machine: {field} ") as refused:
        refuse_other(read_reference(changed(path, **{field: value})), current)
    assert refused.value.exit == Exit.ANOTHER_MACHINE
    assert "check --save" in str(refused.value)


def test_another_machine_end_to_end(stored: tuple[FakeProject, Path]) -> None:
    project, path = stored
    one_line(check(project, "--against", changed(path, cpu="Another 9000")), Exit.ANOTHER_MACHINE, "cpu 'Another 9000' there")


def test_another_suite_version(stored: tuple[FakeProject, Path]) -> None:
    project, path = stored
    project.commit({"a": A, "b": B}, version=2)
    one_line(check(project, "--against", path), Exit.ANOTHER_SUITE, "suite version 1")
