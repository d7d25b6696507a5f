"""The gate over commits: verdicts, exit statuses, what it says, and that it cleans up. Times are invented (tests/fake_suite.py)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.perf.gate.exits import Exit, worst
from bench.perf.gate.gate import Decisions
from bench.perf.gate.policy import read_policy
from tests.commands import ROOT, here
from tests.fake_suite import FakeProject

A = {"ms": 20.0, "counters": {"operators": 100, "peak_storage_bytes": 10_000}, "parts": {"forward": 0.4, "backward": 0.6}}
B = {"ms": 5.0}


@pytest.fixture
def project(tmp_path: Path) -> FakeProject:
    return FakeProject(tmp_path / "project")


def check(project: FakeProject, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """`check` in the project's folder; its workers are processes of the project's own trees."""
    return here("check", *arguments, folder=project.root)


def check_alone(project: FakeProject, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """The same in a process of its own, by this checkout's code and not the project's, where that has the same packages."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-P", "-m", "bench", "check", *map(str, arguments)]
    return subprocess.run(command, cwd=project.root, env=env, capture_output=True, text=True, timeout=300)


def one_line(done: "subprocess.CompletedProcess[str]", status: Exit, said: str) -> None:
    assert done.returncode == status, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in done.stderr


def test_an_unchanged_revision_passes(project: FakeProject, tmp_path: Path) -> None:
    project.commit({"a": A, "b": B})
    project.commit({"a": A, "b": B})
    done = check(project, "--base", "HEAD~1", "--out", tmp_path / "out")
    assert done.returncode == Exit.UNCHANGED, done.stdout + done.stderr
    assert done.stdout.count("unchanged  ") == 2
    result = json.loads((tmp_path / "out" / "check.json").read_text())
    assert len(result["pairs"]) == 4  # stopped when it was clear
    assert len(result["pairs"][0]["rounds"]["a"]["base_s"]) in range(70, 81)  # 1.5 s of steps of about 20 ms
    assert project.git("worktree", "list").count("\n") == 0  # the work trees are gone


def test_a_slow_down_is_caught_and_told_where(project: FakeProject, tmp_path: Path) -> None:
    project.commit({"a": A, "b": B})
    project.commit({"a": {**A, "ms": 22.0, "parts": {"forward": 0.36, "backward": 0.64}}, "b": B})
    done = check(project, "--base", "HEAD~1", "--out", tmp_path / "out")
    assert done.returncode == Exit.REGRESSED, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("regressed"))
    assert " a " in line
    assert "most of it in backward" in line
    slow = next(verdict for verdict in json.loads((tmp_path / "out" / "check.json").read_text())["verdicts"] if verdict["name"] == "a")
    assert (slow["base_s"], slow["head_s"]) == (pytest.approx(0.020, rel=0.03), pytest.approx(0.022, rel=0.03))
    assert slow["parts"]["backward"] == [pytest.approx(0.6 * 0.020, rel=0.03), pytest.approx(0.64 * 0.022, rel=0.03)]
    markdown = (tmp_path / "out" / "check.md").read_text()
    assert "## Performance: slower" in markdown
    assert "Where `a` spends its step" in markdown


@pytest.mark.parametrize(("counter", "grown"), [("operators", 101), ("peak_storage_bytes", 10_001)])
def test_one_more_of_a_counter_is_caught(project: FakeProject, counter: str, grown: int) -> None:
    project.commit({"a": A})
    project.commit({"a": {**A, "counters": {**A["counters"], counter: grown}}})
    done = check(project, "--base", "HEAD~1")
    assert done.returncode == Exit.REGRESSED
    assert f"{counter} {A['counters'][counter]:,} -> {grown:,}" in done.stdout


def test_what_the_policy_accepts_passes_and_is_told(project: FakeProject, tmp_path: Path) -> None:
    project.commit({"a": A})
    project.commit({"a": {**A, "ms": 30.0, "counters": {**A["counters"], "operators": 120}}, "new": B})
    policy = tmp_path / "policy.yaml"
    policy.write_text("accept: [a time, a operators, new missing]\n")
    done = check(project, "--base", "HEAD~1", "--policy", policy)
    assert done.returncode == Exit.UNCHANGED, done.stdout + done.stderr
    assert "accepted by the policy: time, operators" in done.stdout
    assert "base lacks this benchmark, which the policy accepts" in done.stdout


def test_improvements_pass(project: FakeProject) -> None:
    project.commit({"a": A})
    project.commit({"a": {**A, "ms": 15.0, "counters": {**A["counters"], "operators": 90}}})
    done = check(project, "--base", "HEAD~1")
    assert done.returncode == Exit.UNCHANGED
    assert "improved" in done.stdout
    assert "% faster; operators 100 -> 90" in done.stdout


def test_a_machine_too_noisy_to_tell_is_not_a_pass(project: FakeProject, tmp_path: Path) -> None:
    project.commit({"a": A})
    project.commit({"a": A}, swing=0.3)  # its processes are now slower, now faster
    policy = tmp_path / "policy.yaml"
    policy.write_text("most_pairs: 4\n")
    done = check(project, "--base", "HEAD~1", "--policy", policy, "--out", tmp_path / "out")
    assert done.returncode == Exit.INCONCLUSIVE, done.stdout
    assert "too noisy" in done.stdout
    assert 'errors="1"' in (tmp_path / "out" / "junit.xml").read_text()


def test_no_time_for_a_verdict_is_not_a_pass(project: FakeProject, tmp_path: Path) -> None:
    project.commit({"a": A})
    project.commit({"a": A})
    policy = tmp_path / "policy.yaml"
    policy.write_text("max_seconds: 0.01\n")
    done = check(project, "--base", "HEAD~1", "--policy", policy)
    assert done.returncode == Exit.INCONCLUSIVE, done.stdout
    assert "pairs of workers in the time there was" in done.stdout


def test_refusals_have_a_line_and_a_status_each(project: FakeProject) -> None:
    one_line(check(project), Exit.BAD_INPUT, "needs one of --base REV")
    one_line(check(project, "--base", "x", "--save", "y"), Exit.BAD_INPUT, "got --base REV and --save FILE")
    project.commit({"a": A})
    one_line(check(project, "--base", "nowhere"), Exit.UNKNOWN_REVISION, "--base 'nowhere' is no revision")
    one_line(check(project, "--base", "HEAD", "--only", "z"), Exit.BAD_INPUT, "no benchmark is chosen; there are a")
    (project.root / "suite.json").write_text("{}")
    one_line(check(project, "--base", "HEAD"), Exit.DIRTY, "the work tree is dirty (suite.json)")
    one_line(check(project, "--base", "nowhere", "--head", "HEAD"), Exit.UNKNOWN_REVISION, "nowhere")  # the work tree is not measured


def test_a_folder_outside_any_repository(project: FakeProject, tmp_path: Path) -> None:
    project.root = tmp_path
    one_line(check(project, "--base", "HEAD"), Exit.UNKNOWN_REVISION, "is in no git repository")


def test_a_work_tree_that_git_cannot_compare_is_not_called_clean(project: FakeProject) -> None:
    one_line(check(project, "--base", "HEAD"), Exit.DIRTY, "git cannot tell whether the work tree of project is clean")


def test_a_base_that_does_not_build(project: FakeProject) -> None:
    project.commit({"a": A}, broken="no such thing")
    project.commit({"a": A})
    one_line(check(project, "--base", "HEAD~1"), Exit.DOES_NOT_BUILD, "ImportError: no such thing")
    assert project.git("worktree", "list").count("\n") == 0


def test_a_base_older_than_the_suite(project: FakeProject) -> None:
    (project.root / "bench" / "perf" / "worker.py").rename(project.root / "kept.py")
    project.commit({})
    (project.root / "kept.py").rename(project.root / "bench" / "perf" / "worker.py")
    project.commit({"a": A})
    one_line(check(project, "--base", "HEAD~1"), Exit.DOES_NOT_BUILD, "older than the performance suite")


def test_a_worker_that_dies_in_the_middle(project: FakeProject) -> None:
    project.commit({"a": A})
    project.commit({"a": {**A, "dies": True}})
    one_line(check(project, "--base", "HEAD~1"), Exit.DOES_NOT_BUILD, "head HEAD")


def test_a_benchmark_that_fails_leaves_the_others(project: FakeProject) -> None:
    project.commit({"a": A, "b": B})
    project.commit({"a": {**A, "error": "WeightsError: get them"}, "b": B})
    done = check(project, "--base", "HEAD~1")
    assert done.returncode == Exit.DOES_NOT_BUILD
    assert "head: WeightsError: get them" in done.stdout
    assert "unchanged" in done.stdout


def test_a_suite_of_another_version(project: FakeProject) -> None:
    project.commit({"a": A}, version=1)
    project.commit({"a": A}, version=2)
    one_line(check(project, "--base", "HEAD~1"), Exit.ANOTHER_SUITE, "version 1 in base")


@pytest.mark.parametrize(
    ("before", "after", "status", "said"),
    [
        ({"a": A}, {"a": A, "b": B}, Exit.LACKS_BENCHMARK, "base lacks this benchmark"),
        ({"a": A, "b": B}, {"a": A}, Exit.LACKS_BENCHMARK, "head lacks this benchmark"),
        (
            {"a": {**A, "definition": {"batch": {"size": 2}}}},
            {"a": {**A, "definition": {"batch": {"size": 4}}}},
            Exit.ANOTHER_SUITE,
            "batch.size 2 -> 4",
        ),
    ],
)
def test_what_cannot_be_compared_is_told(project: FakeProject, before: Any, after: Any, status: Exit, said: str) -> None:
    project.commit(before)
    project.commit(after)
    done = check(project, "--base", "HEAD~1")
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout


def test_changed_dependencies_are_noted(project: FakeProject) -> None:
    project.commit({"a": A})
    (project.root / "constraints.txt").write_text("torch==9\n")
    project.commit({"a": A})
    assert "note: constraints.txt differs between the two revisions" in check(project, "--base", "HEAD~1").stdout


def test_only_some_benchmarks(project: FakeProject) -> None:
    project.commit({"train/a": A, "train/b": B, "c": B})
    project.commit({"train/a": A, "train/b": B, "c": {**B, "ms": 50}})
    done = check(project, "--base", "HEAD~1", "--only", "train/*")
    assert done.returncode == Exit.UNCHANGED
    assert "c " not in done.stdout


def test_this_suite_catches_a_planted_slow_down_and_a_planted_leak(tmp_path: Path) -> None:
    """The project's own packages in a repository of their own: one commit that is twice as slow and keeps a tensor a step."""
    project = FakeProject(tmp_path / "project")
    (project.root / "bench" / "perf" / "worker.py").unlink()
    for package in ("bench", "dit", "baselines"):
        shutil.copytree(ROOT / package, project.root / package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    project.commit({})
    source = project.root / "bench" / "training" / "objective.py"
    honest = source.read_text()
    slow = honest.replace("    return torch.randn(shape", "    sum(range(3000))\n    return torch.randn(shape")
    both = slow.replace("    alphas, sigmas =", "    draw_noise.__dict__.setdefault('kept', []).append(noise[0] + 1)\n    alphas, sigmas =")
    assert len({honest, slow, both}) == 3
    source.write_text(both)
    project.git("commit", "-qam", "planted")
    policy = tmp_path / "policy.yaml"
    policy.write_text("{benchmarks: {draw: 0.5}, least_pairs: 2}\n")  # whatever this machine does, the planted one takes twice as long
    done = check_alone(project, "--base", "HEAD~1", "--only", "draw", "--policy", policy)
    assert done.returncode == Exit.REGRESSED, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("regressed"))
    assert "% slower" in line and "kept_bytes 0 -> " in line


def test_the_worse_status_wins() -> None:
    assert worst([Exit.UNCHANGED, Exit.INCONCLUSIVE, Exit.REGRESSED, Exit.LACKS_BENCHMARK]) == Exit.REGRESSED
    assert worst([Exit.UNCHANGED, Exit.INCONCLUSIVE]) == Exit.INCONCLUSIVE
    assert worst([]) == Exit.UNCHANGED


def test_a_clear_benchmark_leaves_and_an_open_one_stays() -> None:
    policy = read_policy(None)
    decisions = Decisions(policy, ["clear", "open"])
    steps_s = {"clear": 0.02, "open": 0.02}
    for index in range(policy.least_pairs):
        assert decisions.open() == ["clear", "open"]
        decisions.add({"clear": 0.001, "open": 0.3 if index % 2 else -0.3}, steps_s)
    assert decisions.open() == ["open"]
    assert decisions.estimates["clear"].outcome == "unchanged"
