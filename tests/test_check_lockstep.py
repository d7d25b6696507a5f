"""Steps of a pair: whose turn it is, on which processor, how many. Times are invented (tests/fake_suite.py)."""

import os
from pathlib import Path

import pytest

from bench.perf.gate.lockstep import LEAST_ROUNDS, MOST_ROUNDS, num_rounds, run_pair
from bench.perf.gate.revisions import checked_out
from tests.fake_suite import FakeProject


@pytest.mark.parametrize("index", [0, 1, 2, 4])
def test_steps_alternate_in_one_order_on_one_processor(tmp_path: Path, index: int) -> None:
    log = tmp_path / "log"
    project = FakeProject(tmp_path / "project")
    project.commit({"a": {"ms": 50.0}}, log=str(log))
    project.commit({"a": {"ms": 50.0}}, log=str(log))
    with checked_out(project.root, {"base": "HEAD~1", "head": "HEAD"}) as revisions:
        pair = run_pair(revisions, ["a"], index=index, count=False, say=lambda what: None)
    cpus = sorted(os.sched_getaffinity(0))
    steps = log.read_text().splitlines()
    rounds = len(pair.rounds["a"].base_s)
    assert 25 <= rounds <= 36
    assert len(steps) == 2 * 2 + 2 * rounds
    first, second = ("base", "head") if index % 2 == 0 else ("head", "base")
    cpu = cpus[index // 2 % len(cpus)]
    assert set(steps[4::2]) == {f"{first} [{cpu}]"}
    assert set(steps[5::2]) == {f"{second} [{cpu}]"}


def test_long_steps_get_fewer_rounds() -> None:
    assert num_rounds(1e-4) == MOST_ROUNDS
    assert num_rounds(60) == LEAST_ROUNDS
    assert num_rounds(0.03) == 50
