"""The gate on quality: evidence over seeds, never size alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.policy import read_policy
from bench.perf.gate.quality import QualityChange, check_quality
from bench.perf.gate.quality import outcomes as decide
from bench.records.record import Measurement, RunSnapshot
from bench.records.store import write_record, write_run
from tests.report_factory import cell, record

POLICY = read_policy(None).model_copy(update={"quality": {"fd_motion": 0.1, "val_loss": 0.05}})


def run(
    folder: Path,
    values: dict[str, tuple[float, float | None]],
    *,
    seeds: tuple[float, ...] = (0.0,),
    protocol: dict[str, str] = {"measure": "p"},  # noqa: B006  only read
    **changes: Any,
) -> Path:
    """A finished run of one contender: measurement -> (value, half of its interval); one cell a seed, shifted by `seeds`.

    `changes` replace fields of its cells.
    """
    cells = []
    for seed, shift in enumerate(seeds):
        measurements = [
            Measurement(
                name=name, value=value + shift, unit="1", better="lower", protocol=protocol,
                low=None if half is None else value - half, high=None if half is None else value + half,
            )
            for name, (value, half) in values.items()
        ]  # fmt: skip
        name = f"A-seed{seed}"
        asked = cell("dit:DiT-XS/2", seed).model_dump(mode="json") | changes
        write_record(folder / "m" / name, record("dit:DiT-XS/2", seed, name=name, measurements=measurements, cell=asked))
        cells.append({"name": name, "seed": seed, "folder": name, "axes": {}, "fingerprint": "f"})
    write_run(folder, RunSnapshot.model_validate({"matrix": "m", "cells": cells}))
    return folder / "m"


def outcomes(base: Path, head: Path, policy: Any = POLICY) -> dict[str, str]:
    return {verdict.name: verdict.outcome for verdict in check_quality(base, head, policy)}


def test_size_alone_is_no_evidence(tmp_path: Path) -> None:
    """One seed's value, however narrow its interval over clips, says nothing of another seed's."""
    base = run(tmp_path / "base", {"fd_motion@64": (100, 4), "val_loss": (0.5, None)})
    far = run(tmp_path / "far", {"fd_motion@64": (300, 4), "val_loss": (0.9, None)})
    assert set(outcomes(base, far).values()) == {"inconclusive"}
    assert "too few seeds (1) to tell chance, a verdict needs 3" in check_quality(base, far, POLICY)[0].reason
    assert set(outcomes(base, base).values()) == {"unchanged"}  # bit for bit


def test_over_seeds_by_size_and_by_evidence(tmp_path: Path) -> None:
    seeds = (-3.0, 0.0, 3.0)
    base = run(tmp_path / "base", {"fd_motion@64": (100, 0.1), "val_loss": (50, None)}, seeds=seeds)
    for index, (value, expected) in enumerate(
        [(130, "regressed"), (112, "inconclusive"), (106, "inconclusive"), (70, "improved"), (101, "unchanged")]
    ):
        head = run(tmp_path / str(index), {"fd_motion@64": (value, 0.1), "val_loss": (50, None)}, seeds=seeds)
        assert outcomes(base, head) == {"DiT-XS/2 fd_motion@64": expected, "DiT-XS/2 val_loss": "unchanged"}, value


def test_several_changes_are_corrected_for_their_number() -> None:
    """What is evidence alone is none among ten."""
    one = QualityChange(name="a", before=[10.0, 11.0, 9.0], after=[14.0, 13.5, 15.5], better="lower", allowed=0.1)
    assert 0.005 < (one.p_value or 0) < 0.05
    assert decide([one]) == ["regressed"]
    assert decide([one] * 10)[0] == "inconclusive"
    higher = QualityChange(name="a", before=[10.0, 11.0, 9.0], after=[14.0, 13.5, 15.5], better="higher", allowed=0.1)
    assert decide([higher]) == ["improved"]


def test_growth_that_passes_is_rarely_called_worse() -> None:
    rng, calls = np.random.default_rng(1), 0
    for _ in range(1000):
        before, after = rng.normal(100, 3, 5), rng.normal(110, 3, 5)
        change = QualityChange(name="", before=before.tolist(), after=after.tolist(), better="lower", allowed=0.1)
        calls += decide([change]) == ["regressed"]
    assert calls / 1000 < 0.05


def test_a_measure_that_is_no_number_hides_no_other() -> None:
    worse = QualityChange(name="a", before=[10.0, 10.1, 9.9], after=[20.0, 20.1, 19.9], better="lower", allowed=0.1)
    none = QualityChange(name="b", before=[1.0, float("nan"), 1.0], after=[1.0, 1.1, 1.2], better="lower", allowed=0.1)
    assert decide([none, worse]) == ["inconclusive", "regressed"]


def test_equal_runs_are_rarely_called_worse() -> None:
    rng = np.random.default_rng(0)
    calls = 0
    for _ in range(1000):
        draws = rng.normal(100, 10, (6, 2, 3)).tolist()
        calls += "regressed" in decide([QualityChange(name="", before=b, after=a, better="lower", allowed=0.02) for b, a in draws])
    assert calls / 1000 < 0.05


def test_what_is_not_measured_alike_is_not_compared(tmp_path: Path) -> None:
    values: dict[str, tuple[float, float | None]] = {"fd_motion@64": (100, 4), "val_loss": (0.5, None)}
    base = run(tmp_path / "base", values)
    with pytest.raises(CheckRefused, match="different protocols and do not compare; measure: p and q") as refused:
        check_quality(base, run(tmp_path / "head", values, protocol={"measure": "q"}), POLICY)
    assert refused.value.exit == Exit.ANOTHER_SUITE
    elsewhere = run(tmp_path / "elsewhere", values, protocol={"measure": "p", "autoencoder": "made there"})
    verdicts = check_quality(base, elsewhere, POLICY)
    assert {(verdict.outcome, verdict.exit) for verdict in verdicts} == {("not comparable", Exit.ANOTHER_SUITE)}
    with pytest.raises(CheckRefused, match=r"cell A-seed0 differs in budget\.seconds: 120\.0 and 60") as refused:
        check_quality(base, run(tmp_path / "shorter", values, budget={"seconds": 60}), POLICY)
    assert refused.value.exit == Exit.ANOTHER_SUITE
    without = run(tmp_path / "without", {"val_loss": (0.5, None)})
    found = {verdict.name: verdict.exit for verdict in check_quality(without, without, POLICY)}
    assert found == {"DiT-XS/2 fd_motion": Exit.LACKS_BENCHMARK, "DiT-XS/2 val_loss": Exit.UNCHANGED}


def test_accepted_and_refused(tmp_path: Path) -> None:
    seeds = (-3.0, 0.0, 3.0)
    base, head = (run(tmp_path / str(value), {"fd_motion@64": (value, 4)}, seeds=seeds) for value in (100, 200))
    policy = POLICY.model_copy(update={"quality": {"fd_motion": 0.1}, "accept": ("DiT-XS/2 fd_motion@64 quality",)})
    (verdict,) = check_quality(base, head, policy)
    assert (verdict.exit, verdict.accepted) == (Exit.UNCHANGED, ("quality",))
    with pytest.raises(CheckRefused, match="names no quality"):
        check_quality(base, head, read_policy(None))
    with pytest.raises(CheckRefused, match="no run in") as refused:
        check_quality(tmp_path / "none", head, POLICY)
    assert refused.value.exit == Exit.NO_REFERENCE
