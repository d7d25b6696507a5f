"""The gate on quality: intervals of two runs."""

from pathlib import Path
from typing import Any

import pytest

from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.policy import read_policy
from bench.perf.gate.quality import check_quality
from bench.records.record import Measurement, RunSnapshot
from bench.records.store import write_record, write_run
from tests.report_factory import record

POLICY = read_policy(None).model_copy(update={"quality": {"fd_motion": 0.1, "val_loss": 0.05}})


def run(folder: Path, values: dict[str, tuple[float, float | None]], *, seeds: tuple[float, ...] = (0.0,), protocol: str = "p") -> Path:
    """A finished run of one contender: measurement -> (value, half of its interval); one cell a seed, shifted by `seeds`."""
    cells = []
    for seed, shift in enumerate(seeds):
        measurements = [
            Measurement(
                name=name, value=value + shift, unit="1", better="lower", protocol={"measure": protocol},
                low=None if half is None else value - half, high=None if half is None else value + half,
            )
            for name, (value, half) in values.items()
        ]  # fmt: skip
        name = f"A-seed{seed}"
        write_record(folder / "m" / name, record("dit:DiT-XS/2", seed, name=name, measurements=measurements))
        cells.append({"name": name, "seed": seed, "folder": name, "axes": {}, "fingerprint": "f"})
    write_run(folder, RunSnapshot.model_validate({"matrix": "m", "cells": cells}))
    return folder / "m"


def outcomes(base: Path, head: Path, policy: Any = POLICY) -> dict[str, str]:
    return {verdict.name: verdict.outcome for verdict in check_quality(base, head, policy)}


def test_by_intervals_of_single_values(tmp_path: Path) -> None:
    base = run(tmp_path / "base", {"fd_motion@64": (100, 4), "val_loss": (0.5, None)})
    for index, (value, half, expected) in enumerate(
        [(100, 4, "unchanged"), (120, 4, "regressed"), (120, 40, "inconclusive"), (109, 4, "inconclusive"), (70, 4, "improved")]
    ):
        head = run(tmp_path / str(index), {"fd_motion@64": (value, half), "val_loss": (0.51, None)})
        assert outcomes(base, head) == {"A fd_motion@64": expected, "A val_loss": "unchanged"}, value
    assert outcomes(base, run(tmp_path / "worse", {"fd_motion@64": (100, 4), "val_loss": (0.53, None)}))["A val_loss"] == "regressed"


def test_over_seeds_the_spread_between_them_counts(tmp_path: Path) -> None:
    seeds = (-3.0, 0.0, 3.0)
    base = run(tmp_path / "base", {"fd_motion@64": (100, 0.1), "val_loss": (50, None)}, seeds=seeds)
    head = run(tmp_path / "head", {"fd_motion@64": (112, 0.1), "val_loss": (80, None)}, seeds=seeds)
    assert outcomes(base, head) == {"A fd_motion@64": "regressed", "A val_loss": "regressed"}
    near = run(tmp_path / "near", {"fd_motion@64": (106, 0.1), "val_loss": (50, None)}, seeds=seeds)
    assert outcomes(base, near)["A fd_motion@64"] == "inconclusive"


def test_what_is_not_measured_alike_is_not_compared(tmp_path: Path) -> None:
    values: dict[str, tuple[float, float | None]] = {"fd_motion@64": (100, 4), "val_loss": (0.5, None)}
    base, head = run(tmp_path / "base", values), run(tmp_path / "head", values, protocol="q")
    verdicts = check_quality(base, head, POLICY)
    assert {(verdict.outcome, verdict.exit) for verdict in verdicts} == {("not comparable", Exit.ANOTHER_SUITE)}
    without = run(tmp_path / "without", {"val_loss": (0.5, None)})
    found = {verdict.name: verdict.exit for verdict in check_quality(without, without, POLICY)}
    assert found == {"A fd_motion": Exit.LACKS_BENCHMARK, "A val_loss": Exit.UNCHANGED}


def test_accepted_and_refused(tmp_path: Path) -> None:
    base, head = run(tmp_path / "base", {"fd_motion@64": (100, 4)}), run(tmp_path / "head", {"fd_motion@64": (200, 4)})
    policy = POLICY.model_copy(update={"quality": {"fd_motion": 0.1}, "accept": ("A fd_motion@64 quality",)})
    (verdict,) = check_quality(base, head, policy)
    assert (verdict.exit, verdict.accepted) == (Exit.UNCHANGED, ("quality",))
    with pytest.raises(CheckRefused, match="names no quality"):
        check_quality(base, head, read_policy(None))
    with pytest.raises(CheckRefused, match="no run in") as refused:
        check_quality(tmp_path / "none", head, POLICY)
    assert refused.value.exit == Exit.NO_REFERENCE
