"""The steps that the gate times can be taken, and are timed by part."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.perf.suite import suite

OF_CELLS = [name for name in suite() if name.partition("/")[0] in ("train", "sample", "packed")]


@pytest.mark.parametrize("name", OF_CELLS)
def test_steps_of_backbones(tmp_path: Path, name: str) -> None:
    workload = suite()[name].open(tmp_path)
    workload.timed_step()
    step_s, parts = workload.timed_step()
    assert 0 < parts["forward"] < step_s == pytest.approx(sum(parts.values()))
    first = workload.counters()
    assert first["operators"] == workload.counters()["operators"] > 100


def test_every_kind_of_step_is_among_them() -> None:
    assert {name.partition("/")[0] for name in OF_CELLS} == {"train", "sample", "packed"}
