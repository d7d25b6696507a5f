"""A SLURM cluster on the loopback: a matrix, a time that is up, a lost node, a run that is left and picked up, and bad input."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.records.store import latest, read_run
from tests.commands import ROOT, command, write_matrix
from tests.fan_out import differences, matrix, records
from tests.slurm_cluster import SlurmCluster, slurm_cluster, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]
ON = ("--on", "slurm", "--with", "cpus=1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    os.environ["OMP_NUM_THREADS"] = "1"
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def one_cell(folder: Path, name: str, steps: int) -> Path:
    """A cell that trains for a while and writes a checkpoint whenever there is time."""
    path = matrix(folder)
    text = path.read_text().replace("steps: 120", f"steps: {steps}")
    own = folder / f"{name}.yaml"
    own.write_text(text)
    return own


def head(path: Path, results: Path, *arguments: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "bench", "run", str(path), "--results", str(results), *ON, *arguments]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def jobs() -> list[list[str]]:
    """(number, state, node) of every job that has not ended."""
    done = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%i %T %N"], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def only_attempt(results: Path, name: str) -> bool:
    """Whether the one cell of a run has one record, that says ok."""
    (cell,) = read_run(results / name).cells
    record = latest(results / name / cell.folder)
    return record is not None and (record.attempt, record.status) == (1, "ok")


ONE = ("seeds=[0]", "backbone=tests.small:DiT-XXS/2")


def trained(results: Path) -> bool:
    """Whether any cell has written a checkpoint."""
    return any(results.glob("*/*/checkpoint.pt"))


def test_a_matrix_by_the_queue_is_as_one_by_one(cluster: SlurmCluster, tmp_path: Path) -> None:
    path = matrix(tmp_path)
    assert command("run", path, "--results", tmp_path / "one", "seeds=[0,1]").returncode == 0
    done = command("run", path, "--results", tmp_path / "queue", "seeds=[0,1]", *ON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(differences(tmp_path / "queue", records(tmp_path / "one"))) == []
    assert "slurm job" in done.stdout and "step 120" in done.stderr  # what nodes print is told here


def test_a_run_that_is_left_is_picked_up(cluster: SlurmCluster, tmp_path: Path) -> None:
    path, results = one_cell(tmp_path, "long", 3000), tmp_path / "results"
    run = head(path, results, *ONE)
    wait_for(lambda: trained(results), "checkpoint", 300)
    run.terminate()
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 130 and "go on by themselves; the same command waits for them again" in out
    before = jobs()
    assert len(before) == 1
    again = head(path, results, *ONE)
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0 and f"slurm job {before[0][0]}, handed out before" in out
    assert only_attempt(results, "long")


def test_a_job_that_is_told_to_go_writes_its_checkpoint_and_comes_again(cluster: SlurmCluster, tmp_path: Path) -> None:
    """As the scheduler tells it before its time is up, and before others take its place."""
    path, results = one_cell(tmp_path, "requeued", 1500), tmp_path / "results"
    run = head(path, results, *ONE)
    wait_for(lambda: trained(results), "checkpoint", 300)
    number = jobs()[0][0]
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    out, _ = run.communicate(timeout=900)
    assert run.returncode == 0 and "resumed at step" in out, out[-2000:]
    assert only_attempt(results, "requeued")


def test_a_cancelled_cell_goes_on_with_the_next_run(cluster: SlurmCluster, tmp_path: Path) -> None:
    path, results = one_cell(tmp_path, "cancelled", 1500), tmp_path / "results"
    run = head(path, results, *ONE)
    wait_for(lambda: trained(results), "checkpoint", 300)
    subprocess.run(["scancel", jobs()[0][0]], check=True)
    out, _ = run.communicate(timeout=300)
    assert run.returncode == 130 and "cancelled by the scheduler, what was done is kept; run the same command again to go on" in out
    again = head(path, results, *ONE)
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0 and "resumed at step" in out


def test_a_lost_node_costs_no_more_than_what_followed_the_last_checkpoint(cluster: SlurmCluster, tmp_path: Path) -> None:
    path, results = one_cell(tmp_path, "lost", 1500), tmp_path / "results"
    run = head(path, results, *ONE)
    wait_for(lambda: trained(results), "checkpoint", 300)
    node = jobs()[0][2]
    cluster.kill_node(node)
    try:
        out, _ = run.communicate(timeout=900)
    finally:
        cluster.start_node(node)
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)
    assert run.returncode == 0 and "resumed at step" in out, out[-2000:]
    assert only_attempt(results, "lost")


def test_a_cell_over_two_nodes_comes_to_what_one_process_comes_to(cluster: SlurmCluster, tmp_path: Path) -> None:
    path = matrix(tmp_path)
    assert command("run", path, "--results", tmp_path / "one", *ONE).returncode == 0
    done = command("run", path, "--results", tmp_path / "two", *ONE, "parallel={kind: ddp, processes: 2}", *ON, "--with", "nodes=2")
    assert done.returncode == 0, done.stdout + done.stderr
    (one,), (two,) = (records(tmp_path / name).values() for name in ("one", "two"))
    assert one.training and two.training and two.training.loss == pytest.approx(one.training.loss, rel=1e-5)
    assert two.training.imbalance == [0.0] * 120
    done = command("run", path, "--results", tmp_path / "r", *ONE, "parallel={kind: ddp, processes: 2}", *ON, "--with", "nodes=3")
    assert done.returncode == 2 and "parallel.processes=2, which --with nodes=3 does not divide" in done.stderr


def test_bad_input_is_one_line(cluster: SlurmCluster, tmp_path: Path) -> None:
    path = write_matrix(tmp_path)
    done = command("run", path, "--results", tmp_path / "r", "--on", "slurm", "--with", "partition=gpus")
    assert done.returncode == 2 and done.stderr.strip() == (
        "error: partition gpus: the cluster has none of that name; there are first, main"
    )
    done = command("run", path, "--results", tmp_path / "r", "--on", "slurm", "--with", "cpus=64")
    assert done.returncode == 2 and done.stderr.startswith("error: slurm takes no job: ") and done.stderr.count("\n") == 1
