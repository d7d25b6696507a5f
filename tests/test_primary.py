"""What decides is named before the run: a distance that every cell has, that may decide on its data, and that stays."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.metrics.battery import cards
from bench.metrics.extractors.manifest import I3D, MOTION, RANDOM3D
from bench.metrics.following.values import FOLLOWING
from bench.metrics.physics.table import scorecard_of
from bench.report.load import load_run
from bench.run.checks import card_text, check_primary, judge_of
from bench.run.told import is_read
from bench.shapes import Refusal
from bench.study.matrix import load_study, shipped
from tests.commands import here, record_of, write_matrix
from tests.tiny import cell_fields, tiny_cell

FOLDER = {
    "data": {"source": "folder", "path": ".", "num_frames": 4, "height": 16, "width": 16, "num_val": 4, "num_test": 4},
    "evaluation": {"extractors": ["motion"], "num_samples": 4},
}


@pytest.mark.parametrize("name", shipped())
def test_shipped_matrices_name_what_may_decide(name: str) -> None:
    study = load_study(name)
    check_primary(study)
    cell = study.cells[0].cell
    if study.matrix.claim == "physics":  # by a score of its world, in a region that is measured
        assert study.matrix.primary == scorecard_of(cell.data.world).primary and "in" in cell.evaluation.regions  # type: ignore[attr-defined]
    else:
        read = study.matrix.primary in {value.name for value in FOLLOWING} and is_read(cell)  # from pixels, of captions that a world made
        assert read or judge_of(study.matrix.primary) in cell.evaluation.extractors


def test_a_physics_score_of_another_world_may_not_decide() -> None:
    study = load_study("physics-liquid", ["primary=centre_error"])
    with pytest.raises(Refusal, match=r"primary centre_error is a score of motion, collision, .*, and cell UNet-XS-seed0 has world liquid"):
        check_primary(study)


WORLDS = tiny_cell().data


def test_cards_say_who_may_decide() -> None:
    assert cards.told(MOTION, WORLDS) == (True, "the report card of extractor motion on worlds passes")
    passed, why = cards.told(I3D, WORLDS)
    assert not passed and "fails monotone, temporal sensitivity" in why
    assert cards.told(MOTION, tiny_cell(data=FOLDER["data"]).data) == (False, "extractor motion has no report card on folder")
    assert len(cards.cards_of(MOTION, WORLDS)) == 2
    passed, why = cards.told(MOTION, WORLDS, cards.CARDS / "absent")
    assert not passed and why.startswith("no report cards in") and "python3 -m pip install -e ." in why
    assert "fails" in card_text(load_study("quick", ["primary=fvd"])) and card_text(load_study("quick", ["primary=null"])) == ""


def test_a_card_of_other_weights_does_not_count(tmp_path: Path) -> None:
    card = json.loads((cards.CARDS / "motion" / "card.json").read_text(encoding="utf-8"))
    card["manifest"]["weights_sha256"] = "0" * 64
    (tmp_path / "motion").mkdir()
    (tmp_path / "motion" / "card.json").write_text(json.dumps(card))
    assert cards.told(MOTION, WORLDS, tmp_path) == (False, "extractor motion has no report card on worlds")
    card["manifest"]["weights_sha256"], card["clips"]["source"] = MOTION.weights_sha256, "my videos 0a1b2c"  # as `battery` names a folder's
    (tmp_path / "motion" / "card.json").write_text(json.dumps(card))
    assert cards.told(MOTION, tiny_cell(data={**FOLDER["data"], "path": "to/my videos"}).data, tmp_path)[0]
    assert not cards.told(MOTION, tiny_cell(data=FOLDER["data"]).data, tmp_path)[0]
    assert not cards.told(MOTION, tiny_cell(data={**FOLDER["data"], "path": "to/worlds"}).data)[0]  # a name makes it no world of ours
    (tmp_path / "motion" / "card.json").write_text("{}")
    with pytest.raises(Refusal, match=r"report card .*card\.json is none"):
        cards.told(RANDOM3D, WORLDS, tmp_path)


@pytest.mark.parametrize(
    ("primary", "changes", "said"),
    [
        ("fd_random3d", {}, "primary fd_random3d may not decide: the report card of extractor random3d on worlds fails"),
        ("fvd", {}, "primary fvd needs extractor i3d, and cell .* has random3d"),
        ("fd_motin", {}, r"primary 'fd_motin' is no distance \(did you mean 'fd_motion'\?\)"),
        ("fvd@64", {}, "primary 'fvd@64' is no distance"),
        ("val_loss", {}, "primary 'val_loss' is no distance"),
        ("fd_motion", FOLDER, "no report card on folder"),
    ],
)
def test_what_may_not_decide_is_refused(tmp_path: Path, primary: str, changes: dict[str, Any], said: str) -> None:
    defaults = cell_fields(**changes)
    del defaults["backbone"]
    with pytest.raises(Refusal, match=said):
        check_primary(load_study(str(write_matrix(tmp_path, primary=primary, defaults=defaults))))


def test_a_headline_is_not_chosen_after_the_fact(tmp_path: Path) -> None:
    defaults = cell_fields(evaluation={"extractors": ["motion"], "num_samples": 4, "untrained": False}, budget={"steps": 2})
    del defaults["backbone"]
    path = write_matrix(tmp_path, axes={"backbone": ["tests.small:DiT-XXS/2"]}, primary="fd_motion", defaults=defaults, match=None)
    results = tmp_path / "results"
    assert here("run", path, "--results", results).returncode == 0
    record = record_of(results, "DiT-XXS_2-seed0")
    assert (record.asked.claim, record.asked.primary, len(record.asked.cells)) == ("backbone", "fd_motion", 1)
    (results / "tiny" / "run.json").unlink()  # what was asked is in the records
    for override in ("primary=null", "claim=shapes"):
        done = here("run", path, override, "seeds=[7]", "--results", results)  # none of whose own cells has finished
        assert done.returncode == 2 and "has finished under claim=backbone primary=fd_motion" in done.stderr
    assert here("run", path, "--results", results).returncode == 0
    assert not load_run(results / "tiny").changed
    assert here("run", path, "seeds=[0,1]", "--results", results).returncode == 0
    assert load_run(results / "tiny").changed == "cells changed after others had finished (1 added)"
