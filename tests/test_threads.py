"""How a job's threads wait: spinning where nobody else is at work, the same for all cells of a study, and told by records."""

from pathlib import Path

import psutil
import pytest

from bench.records.environment import own_cpus, read_environment
from bench.run import launch
from bench.run.job import CellJob, Job
from bench.run.threads import CALM, is_quiet, waiting_as
from bench.run.watch import Ended
from bench.study.matrix import load_study
from tests.commands import here, record_of, write_matrix
from tests.fake_launcher import FakeLauncher


def test_calm_threads_are_told_so_and_spinning_ones_are_left_to_the_library() -> None:
    inherited = {"PATH": "/bin", **CALM}
    assert waiting_as({"PATH": "/bin"}, spins=False) == inherited
    assert waiting_as(inherited, spins=True) == {"PATH": "/bin"}


@pytest.mark.parametrize(("busy", "quiet"), [(0.0, True), (15.0, True), (30.0, False), (100.0, False)])
def test_a_machine_is_quiet_where_others_take_little_of_our_processors(monkeypatch: pytest.MonkeyPatch, busy: float, quiet: bool) -> None:
    cpus = max(own_cpus()) + 2
    shares = [busy if cpu == own_cpus()[0] else 0.0 if cpu in own_cpus() else 100.0 for cpu in range(cpus)]
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: shares)
    assert is_quiet() is quiet


def test_records_say_how_their_threads_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert read_environment(num_threads=2).spins is False
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert read_environment(num_threads=2).spins is True
    assert read_environment().spins is None  # of a process that trains nothing


def test_all_cells_of_a_study_wait_as_its_first_one_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked once, and not again where some have finished: how threads wait is part of how fast they are."""
    asked: list[bool] = [True]
    seen: list[bool] = []
    monkeypatch.setattr(launch, "is_quiet", lambda: asked.pop())

    def do(job: Job) -> Ended:
        seen.append(job.spins)
        return Ended(word="done")

    launcher = FakeLauncher(do)
    launcher.spins = None
    study = load_study(str(write_matrix(tmp_path)))
    records = launch.run_study(study, tmp_path / "results", lambda line: None, "c", launcher)
    assert [record.status for record in records] == ["failed", "failed"]  # nothing ran
    assert seen == [True] * 3  # what they share, and each


def test_cells_run_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a slower hour of the machine is one of all contenders."""
    ran: list[tuple[str, int]] = []

    def do(job: Job) -> Ended:
        ran.extend([(job.cell.cell.backbone, job.cell.cell.seed)] if isinstance(job, CellJob) else [])
        return Ended(word="done")

    study = load_study(str(write_matrix(tmp_path, seeds=[0, 1])))
    records = launch.run_study(study, tmp_path / "results", lambda line: None, "c", FakeLauncher(do))
    both = ["tests.small:UNet-XXS", "tests.small:DiT-XXS/2"]
    assert ran == [(backbone, seed) for seed in (0, 1) for backbone in both]
    assert [record.name for record in records] == [cell.name for cell in study.cells]  # in the order of the matrix


def test_a_run_goes_on_as_its_finished_cells_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    matrix = write_matrix(tmp_path, axes={"backbone": ["tests.small:DiT-XXS/2"]}, match=None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert here("run", matrix, "--results", results).returncode == 0
    assert record_of(results, "DiT-XXS_2-seed0").environment.spins is False
    monkeypatch.setattr(launch, "is_quiet", lambda: pytest.fail("it is known"))
    assert here("run", matrix, "seeds=[0,1]", "--results", results).returncode == 0
