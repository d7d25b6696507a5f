"""Where the winner flips: pairs of further cells, what they are equal in, and that no headline rests on them."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_factory import pair, record, write_run

from bench.records.record import Record
from bench.report.load import Run, load_run
from bench.report.render.words import p_value
from bench.report.verdicts.findings import find
from bench.report.verdicts.flips import flip_table
from bench.study.budget import Budget
from bench.study.matrix import load_study
from tests.test_matrix import write

UNET, DIT = "baselines:UNet-XS", "dit:DiT-XS/2"
PRIMARY = "fd_random3d@64"


def further(backbone: str, seed: int, distance: float, **measured: float) -> Record:
    """A record of the same backbone under a budget of clips, with other values."""
    made = record(backbone, seed)
    cell = made.cell.model_copy(update={"budget": Budget(samples=3000)})
    values = {PRIMARY: distance * (1 + 0.01 * seed), **measured}
    own = [m.model_copy(update={"value": values[m.name]}) if m.name in values and m.subject == "trained" else m for m in made.measurements]
    name = made.name.replace("-seed", "-samples-seed")
    return made.model_copy(update={"cell": cell, "fingerprint": cell.fingerprint(), "name": name, "measurements": own})


def run_of(folder: Path, others: list[Record]) -> Run:
    """Three seeds of the main pair, and further cells."""
    records: list[Any] = [*pair(3), *others]
    path = write_run(folder, records, sheets=False)
    snapshot = json.loads((path / "run.json").read_text())
    for cell in snapshot["cells"]:
        if "-samples-" in cell["name"]:
            cell["axes"]["budget.samples"] = 3000
            cell["further"] = True
    (path / "run.json").write_text(json.dumps(snapshot))
    return load_run(path)


def test_further_cells_stand_beside_the_headline_and_flip(tmp_path: Path) -> None:
    others = [further(UNET, seed, 10.0, train_steps=100) for seed in range(3)] + [further(DIT, seed, 40.0) for seed in range(3)]
    run = run_of(tmp_path, others)
    assert run.contenders == ("UNet-XS", "DiT-XS/2")
    assert run.further == ("UNet-XS, samples 3000", "DiT-XS/2, samples 3000")
    found = find(run)
    without = find(run_of(tmp_path / "without", []))
    assert found.conclusion == without.conclusion
    assert [row.entries for row in found.rows] == [row.entries for row in without.rows]
    first, second = found.pairs
    assert (first.first, first.second, first.verdict.leader, first.verdict.outcome) == ("UNet-XS", "DiT-XS/2", "DiT-XS/2", "leads")
    assert (second.first, second.second) == ("UNet-XS, samples 3000", "DiT-XS/2, samples 3000")
    assert (second.verdict.leader, second.verdict.outcome) == ("UNet-XS, samples 3000", "leads")
    assert found.num_tests == without.num_tests + 1  # it is corrected with all else that the page tests
    [own] = [row.verdict for row in found.rows if row.name == PRIMARY and row.subject == "trained"]
    assert first.verdict == own  # the headline's
    table = flip_table(found.pairs)
    assert [row[-2] for row in table.rows] == ["DiT-XS/2", "UNet-XS, samples 3000"]
    assert without.pairs == []


def test_a_pair_shows_the_p_value_that_its_verdict_rests_on(tmp_path: Path) -> None:
    """Corrected for all tests of the page, as in every other table."""
    others = [further(UNET, seed, 10.0) for seed in range(3)] + [further(DIT, seed, 10.3) for seed in range(3)]
    pairs = find(run_of(tmp_path, others)).pairs
    verdict, shown = pairs[1].verdict, flip_table(pairs).rows[1][-1]
    assert verdict.corrected and verdict.p_value
    assert p_value(verdict.corrected) == f"p = {shown}" != p_value(verdict.p_value)


def test_pairs_are_equal_in_what_is_measured_so(tmp_path: Path) -> None:
    others = [further(name, seed, 10.0, step_time_s=1.0 + 0.05 * (name == DIT)) for name in (UNET, DIT) for seed in range(3)]
    main, own = find(run_of(tmp_path, others)).pairs
    assert "step time" in own.equal
    assert "step time" not in main.equal
    assert "parameters" in main.equal


def test_pairs_that_differ_in_more_are_none(tmp_path: Path) -> None:
    others = [further(UNET, seed, 10.0) for seed in range(3)]
    assert [(p.first, p.second) for p in find(run_of(tmp_path, others)).pairs] == [("UNet-XS", "DiT-XS/2")]


def test_a_pair_of_one_seed_or_of_other_protocols_claims_nothing(tmp_path: Path) -> None:
    few = find(run_of(tmp_path / "few", [further(UNET, 0, 10.0), further(DIT, 0, 40.0)])).pairs[1]
    assert few.verdict.outcome == "inconclusive"
    others = [further(UNET, seed, 10.0) for seed in range(3)]
    for made in (further(DIT, seed, 40.0) for seed in range(3)):
        changed = [m.model_copy(update={"protocol": {"extractor": "other"}}) if m.name == PRIMARY else m for m in made.measurements]
        others.append(made.model_copy(update={"measurements": changed}))
    assert find(run_of(tmp_path / "other", others)).pairs[1].verdict.outcome == "not compared"


def test_included_cells_are_further_only_beside_axes(tmp_path: Path) -> None:
    include = [{"backbone": "baselines:UNet-XS", "budget.samples": 8}]
    both = load_study(write(tmp_path, include=include))
    assert both.cells[-1].cell.budget == Budget(samples=8)  # in the place of the steps of the defaults
    assert [named.further for named in both.cells] == [False] * 4 + [True] * 2
    alone = load_study(write(tmp_path, include=[{"backbone": "baselines:UNet-XS"}, {"backbone": "dit:DiT-XS/2"}], axes={}))
    assert not any(named.further for named in alone.cells)


@pytest.mark.parametrize("further_too", [True, False])
def test_only_main_rivals_must_match(tmp_path: Path, further_too: bool) -> None:
    from bench.run.preflight import CellSize, _apart

    study = load_study(write(tmp_path, match={"by": "params"}, include=[{"backbone": "dit:DiT-S/2"}], seeds=[0]))
    cells = [named if further_too else named.model_copy(update={"further": False}) for named in study.cells]
    sizes = {n.name: CellSize(params=10 if "DiT-S" in n.name else 1, flops=1, cell_bytes=1, latent_bytes=1) for n in cells}
    assert bool(_apart(study.model_copy(update={"cells": tuple(cells)}), sizes)) is not further_too
