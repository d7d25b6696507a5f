"""Sizes that match: found, proved, cached, recorded; or told that there are none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.backbone import find_factory, load_backbone
from bench.data.sealed import DamagedCache
from bench.meters.flops import count_flops
from bench.run.launchers.table import launcher
from bench.run.match.resolve import resolve
from bench.run.match.search import Search
from bench.shapes import Refusal
from bench.study.cell import Cell
from bench.study.matrix import Match, load_study
from tests.commands import here, write_matrix
from tests.tiny import SPEC, cell_fields

DIT, UNET = "dit:DiT-XS/2", "baselines:UNet-XS"
SHAPE = (4, 4, 4)


def search(backbone: str, target: str, by: str, tolerance: float = 0.05, **changes: Any) -> Search:
    cell = Cell.model_validate(cell_fields(backbone=backbone, **changes))
    match = Match.model_validate({"by": by, "to": target, "tolerance": tolerance})
    return Search(cell, target, match, SPEC, lambda done, total, what: None)  # type: ignore[arg-type]


def num_params(name: str) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in load_backbone(name, SPEC).parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("backbone", "target"), [(UNET, f"{DIT}{{depth: 9}}"), (f"{DIT}{{depth: 12}}", UNET)])
def test_parameters_are_matched_and_can_be_counted_again(backbone: str, target: str) -> None:
    proof = search(backbone, target, "params").run()
    assert (proof.target, proof.value) == (num_params(target), num_params(proof.found))
    assert proof.mismatch == pytest.approx(max(proof.value / proof.target, proof.target / proof.value) - 1)
    assert proof.mismatch <= 0.05
    assert proof.found != backbone
    assert proof.how == "counted"


def test_flops_are_matched() -> None:
    proof = search(UNET, f"{DIT}{{depth: 9}}", "flops", tolerance=0.1).run()
    assert proof.value == count_flops(proof.found, SPEC, SHAPE)
    assert proof.target == count_flops(f"{DIT}{{depth: 9}}", SPEC, SHAPE)
    assert proof.mismatch <= 0.1


def test_memory_is_found_by_prediction_and_measured() -> None:
    proof = search(DIT, UNET, "peak_memory", tolerance=0.2).run()
    found = dict(proof.tried)[proof.found]
    assert proof.value / proof.target == pytest.approx(found, rel=0.02)
    assert "measured" in proof.how


def test_step_times_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is replaced by parameters: whatever the machine does, the answer is then known."""
    asked: list[tuple[str, int]] = []

    def times_s(self: Search, name: str, num_rounds: int) -> tuple[list[float], list[float]]:
        asked.append((name, num_rounds))
        return [num_params(self.target) / 1e9] * num_rounds, [num_params(name) / 1e9] * num_rounds

    monkeypatch.setattr(Search, "times_s", times_s)
    proof = search(UNET, f"{DIT}{{depth: 9}}", "step_time").run()
    assert proof.value / proof.target == pytest.approx(num_params(proof.found) / num_params(proof.to))
    assert asked[-1] == (proof.found, 30)
    assert [len(times) for times in proof.raw.values()] == [30, 30]


def test_real_step_times_are_of_both() -> None:
    target_s, own_s = search(DIT, DIT, "step_time").times_s(f"{DIT}{{depth: 1}}", 3)
    assert len(target_s) == len(own_s) == 3
    assert min(*target_s, *own_s) > 0


def test_the_familys_own_size_keeps_its_name() -> None:
    assert search(UNET, UNET, "params").run().found == UNET


def test_nothing_near_enough_is_an_error_with_the_nearest() -> None:
    said = r"no size of dit:DiT-XS/2 is within 0.0% of baselines:UNet-XS in params: the nearest, dit:DiT-XS/2.*raise match.tol"
    with pytest.raises(ValueError, match=said):
        search(DIT, UNET, "params", tolerance=1e-9).run()


def test_a_backbone_without_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be sized"):
        search("diffusers:LatteTransformer3DModel", DIT, "params")


@pytest.mark.parametrize("name", [DIT, UNET, "dit:DiT-S/2", "baselines:UNet-S"])
def test_costs_grow_with_width(name: str) -> None:
    """What the bisection relies on."""
    factory: Any = find_factory(name)
    counts = []
    for width in (0.5, 0.75, 1.0, 1.5, 2.0):
        with torch.device("meta"):
            backbone: Any = factory.configured(**factory.scaled(width, 0))(SPEC)
        counts.append(sum(weight.numel() for weight in backbone.parameters()))
    assert counts == sorted(counts)
    assert counts[0] < counts[2] < counts[-1]
    with pytest.raises(ValueError, match="fewer"):
        factory.scaled(1.0, -100)


def test_a_match_of_time_or_memory_needs_a_target() -> None:
    with pytest.raises(Refusal, match="name it with `to`"):
        load_study("smoke", ["match={by: step_time}"])


def test_an_unknown_target(tmp_path: Path) -> None:
    study = load_study("smoke", ["match={by: params, to: DiT-S/2}"])
    with pytest.raises(Refusal, match=r"match.to 'DiT-S/2' names none of its backbones; use one of baselines:UNet-XS, dit:DiT-XS/2"):
        resolve(study, tmp_path, lambda line: None, launcher())


def test_a_study_is_resolved_once_and_its_cells_know_how(tmp_path: Path) -> None:
    """End to end: the search in its process, the cache, the names of the cells."""
    backbones = {"backbone": [f"{UNET}{{num_res_blocks: 2}}", DIT]}
    path = write_matrix(tmp_path, axes=backbones, match={"by": "params", "to": "DiT-XS/2", "tolerance": 0.1})
    done = here("validate", path, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert "looking for the size that matches dit:DiT-XS/2 in params" in done.stdout
    (proof,) = (tmp_path / "results" / "cache" / "match").glob("*.json")
    found = json.loads(proof.read_text())["content"]["found"]
    proof.write_text(proof.read_text().replace('"found": "', '"found": "x'))
    with pytest.warns(DamagedCache, match=f"cached match {proof} is not what was written and is made again"):
        assert here("validate", path, "--results", tmp_path / "results").returncode == 0
    said: list[str] = []
    study = resolve(load_study(str(path)), tmp_path / "results", said.append, launcher())
    assert not [line for line in said if "looking for" in line]  # known by now
    assert [named.cell.backbone for named in study.cells] == [found, DIT]
    assert [named.match and named.match.found for named in study.cells] == [found, None]
    assert len(study.rivals()) == 1
