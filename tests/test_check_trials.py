"""The gate's evidence: the replay over invented recordings, what is planted in live checks, and that stopped trials go on."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.perf.evidence import planted, replay
from bench.perf.evidence.evidence import power, to_markdown
from bench.perf.evidence.planted import CODE, STATEMENTS, TRIALS, Trial, run_trials
from bench.perf.evidence.replay import Recording, read_recording, replayed, spread
from bench.perf.gate.policy import read_policy
from tests.fake_suite import FakeProject


def recording(pair_spread: float, process_spread: float = 0.05, others: int = 0) -> Recording:
    """Two training steps of 20 and 30 ms and others, 40 pairs: what a whole pair shares, and what sets its two workers apart."""
    generator = np.random.default_rng(3)
    times = {}
    for benchmark, step_s in (("train/a", 0.02), ("train/b", 0.03), *((f"other/{index}", 0.01) for index in range(others))):
        shared = generator.normal(0, process_spread, (40, 1, 1))
        apart = generator.normal(0, pair_spread, (40, 1, 1)) * np.array([0.5, -0.5])[:, None]
        times[benchmark] = step_s * np.exp(shared + apart + generator.normal(0, 0.02, (40, 2, 60)))
    return Recording(name="idle", times_s=times)


@pytest.fixture(scope="module")
def quiet() -> pd.DataFrame:
    return replayed(recording(0.01), read_policy(None), lambda *_: None)


def test_on_a_quiet_machine_the_gate_keeps_its_promises(quiet: pd.DataFrame) -> None:
    whole = quiet[quiet.benchmark == "whole suite"].iloc[0]
    assert whole.gate <= 0.01
    assert quiet[quiet.planted == 0.10].gate.min() >= 0.99
    assert quiet[quiet.planted == 0.05].gate.min() >= 0.90
    assert quiet[(quiet.planted == 0.0) & (quiet.benchmark == "train/a")].gate.item() <= 0.01


def test_a_process_against_another_cries_wolf_where_a_pair_does_not(quiet: pd.DataFrame) -> None:
    whole = quiet[quiet.benchmark == "whole suite"].iloc[0]
    assert min(whole["mean:5%"], whole["median:5%"], whole["min:5%"]) > 0.2
    none = spread(recording(0.01, process_spread=0.0)).set_index("benchmark")
    many = spread(recording(0.01, process_spread=0.05)).set_index("benchmark")
    assert none.processes_over_5_percent_apart.max() == 0
    assert many.processes_over_5_percent_apart.min() > 0.2
    assert many.pair_spread.max() == pytest.approx(0.01, rel=0.5)


def test_on_a_noisy_machine_it_says_so_and_does_not_cry_wolf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "NUM_TRIALS", 400)
    rows = replayed(recording(0.15, others=6), read_policy(None), lambda *_: None)
    whole = rows[rows.benchmark == "whole suite"].iloc[0]
    assert whole.gate <= 0.01
    assert whole.inconclusive > 0.5
    page = to_markdown(rows, spread(recording(0.15)), [], read_policy(None))
    assert "at least 99 %: **no**" in page


def test_the_page_and_its_picture(quiet: pd.DataFrame) -> None:
    live = {
        "machine": "loaded", "planted": "5 % slower: DiT-XS_2", "right": False, "regressed": {"train/b": "8.1% slower"},
        "inconclusive": [], "pairs": 6, "minutes": 5.2, "cpu": "a processor",
    }  # fmt: skip
    page = to_markdown(quiet, spread(recording(0.01)), [live], read_policy(None))
    assert "at most 1 %: yes" in page
    assert "at least 90 %: yes" in page
    assert "| loaded | 5 % slower: DiT-XS_2 | `train/b`: 8.1% slower | none | 6 | 5.2 | **no** |" in page
    picture = power(quiet)
    assert picture == power(quiet)
    assert ">idle machine<" in picture
    assert ">train/b, median:5%<" in picture


def test_a_long_step_is_promised_only_what_the_policy_says() -> None:
    slow = Recording(name="idle", times_s={"train/a": 10 * recording(0.01).times_s["train/a"]})
    rows = replayed(slow, read_policy(None), lambda *_: None)
    page = to_markdown(rows, spread(slow), [], read_policy(None))
    assert "at least 99 %: yes" in page
    assert "at least 90 %" not in page


def test_recordings_are_read_back(tmp_path: Path) -> None:
    pairs = [{"a": [[1000, 2000, 3000], [2000, 4000, 6000]]}, {"a": [[1000, 1000], [1000, 1000]]}]
    (tmp_path / "idle.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    read = read_recording(tmp_path / "idle.jsonl")
    assert read.name == "idle"
    assert read.times_s["a"].shape == (2, 2, 2)
    assert read.log_ratios()["a"] == pytest.approx([math.log(2), 0])


class Backbone:
    training = True

    def forward(self, value: int) -> int:
        """Add one."""
        return value + 1


@pytest.mark.parametrize("plant", ["slow-down", "tensor kept", "operator"])
def test_what_is_planted_does_what_it_says(plant: str) -> None:
    import time

    import torch

    from bench.meters.operators import OperatorCounter
    from bench.meters.storage import held_bytes

    owner = type("Backbone", (Backbone,), {"forward": Backbone.forward})
    amount = {"slow-down": 0.02, "tensor kept": 12345, "operator": 0}[plant]
    exec(CODE.format(owner="Backbone", statement=STATEMENTS[plant].format(amount=amount)), {"Backbone": owner})
    backbone, before = owner(), held_bytes()
    backbone.training = False
    with OperatorCounter() as idle:
        assert backbone.forward(1) == 2
    assert (idle.num_operators, held_bytes() - before) == (0, 0)
    backbone.training = True
    start_s = time.thread_time()
    assert [backbone.forward(1) for _ in range(3)] == [2, 2, 2]
    assert (time.thread_time() - start_s >= 0.06) == (plant == "slow-down")
    with OperatorCounter() as counter:
        backbone.forward(1)
    assert counter.num_operators == (plant == "operator")
    assert held_bytes() - before == (12345 if plant == "tensor kept" else 0)
    assert torch.is_grad_enabled()


def test_only_what_was_planted_may_be_blamed() -> None:
    nothing, slow = Trial(load=False), Trial(load=False, plant="slow-down", where="DiT-XS_2", share=0.1)
    assert nothing.is_right([])
    assert not nothing.is_right(["draw"])
    assert slow.is_right(["train/DiT-XS_2"])
    assert slow.is_right(["packed/DiT-XS_2", "train/DiT-XS_2"])
    assert not slow.is_right([])
    assert not slow.is_right(["packed/DiT-XS_2"])
    assert not slow.is_right(["train/DiT-XS_2", "train/UNet-XS"])
    assert len(TRIALS) >= 8
    assert sum(trial.plant == "slow-down" for trial in TRIALS) == 4


def test_live_checks_of_commits_and_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a suite whose times are read from a file: the planted code changes that file's commit, not its numbers."""
    project = FakeProject(tmp_path / "project")
    for file, _ in planted.SOURCES.values():
        (project.root / file).parent.mkdir(exist_ok=True)
        (project.root / file).write_text("")
    counters = {"peak_storage_bytes": 5000}
    project.commit({"train/DiT-XS_2": {"ms": 10, "counters": counters}, "train/UNet-XS": {"ms": 20, "counters": counters}})
    trials = (Trial(load=False), Trial(load=False, plant="slow-down", where="UNet-XS", share=0.10))
    monkeypatch.setattr(planted, "TRIALS", trials[:1])
    out = tmp_path / "live.jsonl"
    (first,) = run_trials(project.root, out, read_policy(None), lambda *_: None)
    assert first["right"]
    assert first["planted"] == "nothing"
    assert first["exit"] == 0
    monkeypatch.setattr(planted, "TRIALS", trials)
    rows = run_trials(project.root, out, read_policy(None), lambda *_: None)
    assert rows[0] == first
    assert not rows[1]["right"]  # this suite's times do not come from the code, so what was planted could not be seen
    assert rows[1]["regressed"] == {}
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    assert project.git("status", "--porcelain") == ""
    assert project.git("worktree", "list").count("\n") == 0
