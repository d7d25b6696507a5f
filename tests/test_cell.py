"""Cells: the fingerprint covers everything; budgets have one axis."""

import pytest
from pydantic import ValidationError

import bench.study.cell
from bench.data.frozen import content_hash, flatten
from bench.study.budget import Budget
from bench.study.cell import Cell, differences
from tests.tiny import cell_fields, tiny_cell


def test_fingerprint_covers_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tiny_cell()
    seen = {cell.fingerprint()}
    for change in (
        {"seed": 1},
        {"precision": "bf16"},
        {"budget": {"steps": 7}},
        {"budget": {"samples": 6}},
        {"data": {**cell_fields()["data"], "gravity": 1.0}},
        {"sampler": {"num_steps": 3}},
        {"device": "auto"},
    ):
        seen.add(tiny_cell(**change).fingerprint())
    assert len(seen) == 8
    monkeypatch.setattr(bench.study.cell, "PROTOCOL_VERSION", 10**6)
    assert cell.fingerprint() not in seen


def test_a_backbone_has_one_fingerprint_however_it_is_written() -> None:
    plain, name = tiny_cell(), "dit:DiT-XS/2{depth: 5, hidden_size: 160}"
    assert tiny_cell(backbone="dit:DiT-XS/2{}") == plain
    written = [name, "dit:DiT-XS/2{hidden_size: 160,depth: 5}", {"name": "dit:DiT-XS/2", "hidden_size": 160, "depth": 5}]
    cells = [tiny_cell(backbone=each) for each in written]
    assert {cell.backbone for cell in cells} == {name}
    (fingerprint,) = {cell.fingerprint() for cell in cells}
    assert fingerprint != plain.fingerprint()
    assert differences(plain, cells[0]) == [("backbone", "dit:DiT-XS/2", name)]


def test_fingerprint_survives_the_record() -> None:
    cell = tiny_cell()
    assert Cell.model_validate_json(cell.model_dump_json()).fingerprint() == cell.fingerprint()


def test_a_window_is_part_of_the_fingerprint_and_its_absence_is_as_before_there_were_any() -> None:
    plain, windowed = tiny_cell(), tiny_cell(batching={"batch_size": 2, "shuffle_window": 64})
    assert "shuffle_window" not in plain.model_dump_json() and plain.fingerprint() != windowed.fingerprint()
    assert Cell.model_validate_json(windowed.model_dump_json()) == windowed
    assert differences(plain, windowed) == [("batching.shuffle_window", None, 64)]


@pytest.mark.parametrize("budget", [{}, {"steps": 1, "seconds": 2.0}])
def test_budget_has_exactly_one_axis(budget: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="exactly one of steps, samples, latent_voxels, train_flops, seconds"):
        Budget.model_validate(budget)


def test_differences_lists_dotted_fields() -> None:
    first, second = tiny_cell(), tiny_cell(backbone="baselines:UNet-XS", budget={"steps": 7})
    assert differences(first, second) == [("backbone", "dit:DiT-XS/2", "baselines:UNet-XS"), ("budget.steps", 6, 7)]


def test_flatten_and_hash() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1}) != content_hash({"a": 1, "b": 3})
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash(float("nan"))


def test_fields_that_came_later_are_in_no_hash_until_they_are_asked() -> None:
    content = tiny_cell().model_dump(mode="json")
    assert not {"parallel", "branches"} & content.keys()
    assert not {"regions", "region_samples", "twins"} & content["evaluation"].keys() and "known_frames" not in content["objective"]
    asked = tiny_cell(branches=[0.5], optimizer={"schedule": "cooldown"}, objective={"known_frames": 1}).model_dump(mode="json")
    assert asked["branches"] == [0.5] and asked["objective"]["known_frames"] == 1
    assert Cell.model_validate(content) == tiny_cell() and Cell.model_validate(asked).model_dump(mode="json") == asked
