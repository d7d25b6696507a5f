"""A Ray cluster on the loopback: a matrix, a worker and a node that are lost, a run that is stopped, and bad input."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.commands import ROOT, command, write_matrix
from tests.fan_out import differences, matrix, one, processes, records
from tests.ray_cluster import RayCluster, ray_cluster
from tests.slurm_cluster import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]
ONE = ("seeds=[0]", "backbone=tests.small:DiT-XXS/2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    os.environ["OMP_NUM_THREADS"] = "1"
    with ray_cluster() as found:
        yield found


def head(path: Path, results: Path, cluster: RayCluster) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "bench", "run", str(path), "--results", str(results), *ONE, *cluster.arguments]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def one_cell(folder: Path, steps: int = 1500) -> Path:
    path = matrix(folder)
    path.write_text(path.read_text().replace("steps: 120", f"steps: {steps}"))
    return path


def checkpoint(results: Path) -> None:
    wait_for(lambda: any(results.glob("*/*/checkpoint.pt")), "checkpoint", 300)


def test_a_matrix_by_ray_is_as_one_by_one(cluster: RayCluster, tmp_path: Path) -> None:
    path = matrix(tmp_path)
    assert command("run", path, "--results", tmp_path / "one", "seeds=[0,1]").returncode == 0
    done = command("run", path, "--results", tmp_path / "ray", "seeds=[0,1]", *cluster.arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(differences(tmp_path / "ray", records(tmp_path / "one"))) == []
    assert "ray task" in done.stdout and "step 120" in done.stderr  # what machines print is told here


def test_a_lost_process_costs_no_more_than_what_followed_the_last_checkpoint(cluster: RayCluster, tmp_path: Path) -> None:
    path, results = one_cell(tmp_path), tmp_path / "results"
    run = head(path, results, cluster)
    checkpoint(results)
    assert one(Random(0), processes(r"^ray::perform"))
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 0 and "was lost (WorkerCrashedError); it is handed out again" in out and "resumed at step" in out, out[-2000:]


def test_a_lost_machine_too(cluster: RayCluster, tmp_path: Path) -> None:
    path, results = one_cell(tmp_path), tmp_path / "results"
    run = head(path, results, cluster)
    checkpoint(results)
    cluster.replace_busy_node()
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 0 and "it is handed out again" in out and "resumed at step" in out, out[-2000:]


def test_a_run_that_is_stopped_lets_cells_write_their_checkpoints(cluster: RayCluster, tmp_path: Path) -> None:
    path, results = one_cell(tmp_path, 20000), tmp_path / "results"
    run = head(path, results, cluster)
    checkpoint(results)
    run.terminate()  # as Ctrl-C, which a shell may keep from what it starts in the background
    out, _ = run.communicate(timeout=200)
    assert run.returncode == 130 and "run the same command again to go on" in out
    assert "stopped at step" in next(results.glob("fan/.jobs/DiT*/*.txt")).read_text()
    assert processes(r"-m bench\.run\.worker") == []


def test_bad_input_is_one_line(cluster: RayCluster, tmp_path: Path) -> None:
    path = write_matrix(tmp_path)
    for asked, told in (
        ("cpus=64", "--with cpus=64: no machine of this Ray cluster has more than 1; ask for less"),
        ("gpus=1", "--with gpus=1: no machine of this Ray cluster has more than 0; ask for less"),
    ):
        done = command("run", path, "--results", tmp_path / "r", *cluster.arguments, "--with", asked)
        assert done.returncode == 2 and done.stderr.strip() == f"error: {told}"
    done = command("run", path, "--results", tmp_path / "r", "--on", "ray", "--with", "address=127.0.0.1:1")
    assert done.returncode == 2 and "--on ray finds no cluster at '127.0.0.1:1'" in done.stderr and done.stderr.count("\n") == 1
