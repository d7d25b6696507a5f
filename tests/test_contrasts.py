"""Contrasts that a matrix names: whom they are between, that they are locked, what rests on them, and whose seeds are added for them."""

from pathlib import Path
from typing import Any

import pytest

from bench.data.files import StoreError
from bench.records.record import Asked, RunSnapshot
from bench.records.store import write_record
from bench.report import build
from bench.report.load import load_run
from bench.report.page import ratio_picture
from bench.report.verdicts import answer, findings, prospect, validity
from bench.report.verdicts.best import at_their_best
from bench.report.verdicts.claim_questions import Questions
from bench.report.verdicts.claim_table import CLAIMS, claim_of
from bench.report.verdicts.ratios import QUALITY
from bench.report.verdicts.sequential import look_at, look_between
from bench.run.checks import check_contrasts
from bench.run.launch import _check_headline, _jobs, _snapshot
from bench.shapes import Refusal
from bench.study.looks import Looks
from bench.study.matrix import MatchProof, load_study
from bench.study.trials import trial_study
from tests.commands import here, record_of, write_matrix
from tests.five import ALL, CONTRASTS, CONV, DIT, EQUAL, FRAME, PATCH, UNET, records, run_of, series
from tests.report_factory import record, write_run
from tests.tiny import cell_fields

UNET_NAME, DIT_NAME = "baselines:UNet-XS", "dit:DiT-XS/2"
BACKBONES = [UNET_NAME, DIT_NAME, "dit:DiT-XS/2{depth: 3}"]


def study_of(folder: Path, contrasts: dict[str, Any], **changes: Any) -> Any:
    return load_study(str(asking(folder, axes={"backbone": BACKBONES}, contrasts=contrasts, **changes)))


def asking(folder: Path, **changes: Any) -> Path:
    """A matrix whose primary measure may judge contrasts."""
    defaults = cell_fields(evaluation={"extractors": ["motion"], "num_samples": 4})
    del defaults["backbone"]
    return write_matrix(folder, **({"match": None, "primary": "fd_motion", "defaults": defaults} | changes))


# --- what a matrix asks


def test_sides_are_backbones_by_either_name(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"one": ["UNet-XS", DIT_NAME], "two": ["DiT-XS/2{depth: 3}", {"backbone": "dit:DiT-XS/2"}]})
    deeper = {"backbone": "dit:DiT-XS/2{depth: 3}"}
    assert study.contrasts == {
        "one": ({"backbone": UNET_NAME}, {"backbone": DIT_NAME}),
        "two": (deeper, {"backbone": DIT_NAME}),
    }
    assert load_study(str(write_matrix(tmp_path))).contrasts == {}


def test_validate_says_what_is_asked(tmp_path: Path) -> None:
    path = asking(tmp_path, axes={"backbone": BACKBONES[:2]}, contrasts={"which": ["UNet-XS", "DiT-XS/2"]})
    assert "asks which (baselines:UNet-XS against dit:DiT-XS/2)" in here("validate", path).stdout


def test_a_side_fixes_other_axes_too(tmp_path: Path) -> None:
    axes = {"backbone": BACKBONES[:2], "objective.label_dropout": [0.0, 0.3]}
    labelled = {"backbone": "UNet-XS", "objective.label_dropout": 0.3}
    written = {"dropping labels": [labelled, {"backbone": "UNet-XS", "objective": {"label_dropout": 0.0}}]}
    first, second = load_study(str(asking(tmp_path, axes=axes, contrasts=written))).contrasts["dropping labels"]
    assert first == {"backbone": UNET_NAME, "objective.label_dropout": 0.3}
    assert second == {"backbone": UNET_NAME, "objective.label_dropout": 0.0}
    with pytest.raises(Refusal, match=r"'UNet-XS' of 'which' is 2 contenders; fix more axes, of \{backbone: baselines:UNet-XS, obj"):
        load_study(str(asking(tmp_path, axes=axes, contrasts={"which": ["UNet-XS", labelled]})))


@pytest.mark.parametrize(
    ("contrasts", "said"),
    [
        ({"a": ["UNet-XS", "dit:DiT-XS/3"]}, r"'dit:DiT-XS/3' of 'a' is no contender \(did you mean 'dit:DiT-XS/2'\?\); there are base"),
        ({"a": ["UNet-XS", {"objective.label_dropout": 0.5}]}, "{objective.label_dropout: 0.5} of 'a' is no contender; there are"),
        ({"a": ["UNet-XS", "baselines:UNet-XS"]}, "both sides of 'a' are baselines:UNet-XS; name two contenders"),
        ({"a": ["UNet-XS", "DiT-XS/2"], "b": ["DiT-XS/2", "UNet-XS"]}, "'b' compares the same two as 'a'; remove one"),
        ({" ": ["UNet-XS", "DiT-XS/2"]}, "the title ' ' is no line of text"),
        ({"": ["UNet-XS", "DiT-XS/2"]}, "the title '' is no line of text"),
        ({"a": ["UNet-XS"]}, "'a' has 1 sides; a contrast has two"),
        ({"a": "UNet-XS"}, "contrasts.a: "),
        ({"a": ["UNet-XS", {"backbone": {"depth": 3}}]}, "has no name; write"),
    ],
)
def test_contrasts_that_name_no_two_contenders_are_refused(tmp_path: Path, contrasts: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said) as refused:
        study_of(tmp_path, contrasts)
    assert "\n" not in str(refused.value) and "matrix tiny" in str(refused.value)


def test_a_title_given_twice_is_refused(tmp_path: Path) -> None:
    path = asking(tmp_path, axes={"backbone": BACKBONES})
    path.write_text(path.read_text() + "contrasts:\n  a: [UNet-XS, DiT-XS/2]\n  a: ['DiT-XS/2{depth: 3}', DiT-XS/2]\n")
    with pytest.raises(Refusal, match="duplicate key"):
        load_study(str(path))


def test_further_cells_are_no_sides(tmp_path: Path) -> None:
    include = [{"backbone": "dit:DiT-XS/2{depth: 4}", "budget.samples": 8}]
    with pytest.raises(Refusal, match="is no contender"):
        study_of(tmp_path, {"a": ["UNet-XS", "DiT-XS/2{depth: 4}"]}, include=include)


def test_the_claim_of_the_next_patch_needs_its_contrast(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="claim next-patch is judged by a contrast called 'next patch'; add it under `contrasts`"):
        study_of(tmp_path, {"other": ["UNet-XS", "DiT-XS/2"]}, claim="next-patch")


def test_a_backbone_that_was_sized_is_named_as_the_matrix_does(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": ["UNet-XS", "DiT-XS/2"]})
    found = "baselines:UNet-XS{block_channels: [16, 24]}"
    fields = dict.fromkeys(("target", "value"), 1.0) | {"mismatch": 0.0, "tolerance": 0.1, "how": "counted", "tried": (), "raw": {}}
    proof = MatchProof(by="params", to=DIT_NAME, asked=UNET_NAME, found=found, **fields)  # type: ignore[arg-type]
    sized = []
    for named in study.cells:
        changed = {"axes": {"backbone": found}, "cell": named.cell.model_copy(update={"backbone": found}), "match": proof}
        sized.append(named.model_copy(update=changed) if named.cell.backbone == UNET_NAME else named)
    assert study.model_copy(update={"cells": tuple(sized)}).contrasts["a"] == ({"backbone": found}, {"backbone": DIT_NAME})


def test_a_contrast_is_at_one_budget(tmp_path: Path) -> None:
    axes, sides = {"backbone": BACKBONES[:2], "budget.steps": [4, 8]}, [{"backbone": name, "budget.steps": 4} for name in BACKBONES[:2]]
    assert load_study(str(asking(tmp_path, axes=axes, contrasts={"a": sides}))).contrasts["a"][0] == sides[0]
    sides[1]["budget.steps"] = 8
    with pytest.raises(Refusal, match=r"the sides of 'a' have different budgets .*budget.steps: 4\}.*; a contrast is at one") as refused:
        load_study(str(asking(tmp_path, axes=axes, contrasts={"a": sides})))
    assert "\n" not in str(refused.value)


def test_a_side_is_first_who_fixes_no_more(tmp_path: Path) -> None:
    include = [{"backbone": name, **more} for more in ({}, {"budget.samples": 8}) for name in BACKBONES[:2]]
    study = load_study(str(asking(tmp_path, axes={}, include=include, contrasts={"a": ["UNet-XS", "DiT-XS/2"]})))
    assert study.contrasts["a"] == ({"backbone": UNET_NAME}, {"backbone": DIT_NAME})


def test_contrasts_need_a_measure_that_judges(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="contrasts are judged by the primary measure, and primary is null; name one"):
        study_of(tmp_path, {"a": ["UNet-XS", "DiT-XS/2"]}, primary=None)


@pytest.mark.parametrize(
    "sides", [("dit:DiT-XS/2", "dit:AR-XS/2-patch"), ("dit:AR-XS/2-frame", "dit:DiT-XS/2"), ("dit:AR-XS/2-patch", "dit:AR-XS/2-frame")]
)
def test_the_claim_of_the_next_patch_needs_patches_first_and_whole_clips_then(tmp_path: Path, sides: tuple[str, str]) -> None:
    names = ["dit:AR-XS/2-patch", "dit:AR-XS/2-frame", "dit:DiT-XS/2"]

    def study(first: str, second: str, claim: str = "next-patch") -> Any:
        return load_study(str(asking(tmp_path, axes={"backbone": names}, claim=claim, contrasts={"next patch": [first, second]})))

    check_contrasts(study("AR-XS/2-patch", "DiT-XS/2"))
    check_contrasts(study(*sides, "backbone"))
    with pytest.raises(Refusal, match=f"claim next-patch: 'next patch' compares {sides[0]} with {sides[1]}; its first side has") as refused:
        check_contrasts(study(*sides))
    assert "\n" not in str(refused.value)


# --- what is locked


def test_every_record_and_the_snapshot_keep_what_was_asked(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": ["UNet-XS", "DiT-XS/2"]}, tune={"learning_rate": [1e-3, 2e-3]})
    pair = ({"backbone": UNET_NAME}, {"backbone": DIT_NAME})
    assert all(job.asked.contrasts == {"a": pair} for job in _jobs(study, tmp_path).values())
    snapshot = _snapshot(study, "then", "c")
    assert RunSnapshot.model_validate_json(snapshot.model_dump_json()) == snapshot and snapshot.contrasts == {"a": pair}
    trials = trial_study(study, study.matrix.tune, {})
    assert trials.matrix.contrasts == {}  # trials test nothing


def test_older_records_ask_no_contrasts() -> None:
    assert Asked.model_validate({"claim": "backbone", "primary": "fvd", "cells": []}).contrasts == {}
    assert RunSnapshot.model_validate({"matrix": "m", "cells": []}).contrasts == {}


def test_contrasts_are_not_chosen_after_the_fact(tmp_path: Path) -> None:
    defaults = cell_fields(evaluation={"extractors": ["motion"], "num_samples": 0, "untrained": False}, budget={"steps": 2})
    del defaults["backbone"]
    axes = {"backbone": ["tests.small:DiT-XXS/2", "tests.small:DiT-XXS/2{depth: 1}"]}
    contrasts = {"depth": ["DiT-XXS/2", "DiT-XXS/2{depth: 1}"]}
    path = asking(tmp_path, axes=axes, defaults=defaults, contrasts=contrasts)
    results = tmp_path / "results"
    assert here("run", path, "--results", results).returncode == 0
    assert record_of(results, "DiT-XXS_2-seed0").asked.contrasts["depth"][0] == {"backbone": "tests.small:DiT-XXS/2"}
    for other in ("contrasts={}", "contrasts={depth: ['DiT-XXS/2{depth: 1}', 'DiT-XXS/2']}"):  # the first side is whom a claim is about
        done = here("run", path, other, "--results", results)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "contrasts depth (tests.small:DiT-XXS/2 against tests.small:DiT-XXS/2{depth: 1}), and this run asks" in done.stderr
    assert here("run", path, "--results", results).returncode == 0


def test_a_page_sees_contrasts_that_were_changed(tmp_path: Path) -> None:
    values = {name: series(mean, 3) for name, mean in EQUAL.items()}
    headline = {each.check.name: each for each in validity.check(run_of(tmp_path / "a", values)).answers}["headline changed"]
    assert not headline.faults
    changed = run_of(tmp_path / "b", values, contrasts={"next patch": (FRAME, DIT)})
    (fault, *_) = {each.check.name: each for each in validity.check(changed).answers}["headline changed"].faults
    assert (
        fault.what.startswith("asked for contrasts next patch (y:AR-patch against y:DiT), next frame") and "the run asks for" in fault.what
    )


MOVES: dict[str, Any] = {"axes": {"backbone": BACKBONES[:2]}, "include": [{"backbone": BACKBONES[2]}], "match": None}


def test_a_finished_contender_does_not_change_sides(tmp_path: Path) -> None:
    """With no contrasts, whom the headline is about follows from `axes`: the folder, and the folders of the run, stay as they are."""
    study = load_study(str(write_matrix(tmp_path, **MOVES)))
    moved = load_study(str(write_matrix(tmp_path, axes={"backbone": BACKBONES}, match=None)))
    asked = next(iter(_jobs(study, tmp_path).values())).asked
    assert asked.further == (study.cells[2].folder,) and {c.folder for c in moved.cells} == set(asked.cells)
    assert Asked.model_validate_json(asked.model_dump_json()) == asked
    folder = tmp_path / "tiny"
    named = study.cells[0]
    made = record(DIT_NAME, 0).model_copy(update={"asked": asked, "cell": named.cell, "fingerprint": named.cell.fingerprint()})
    write_record(folder / named.folder, made)
    _check_headline(study, folder)
    _check_headline(load_study(str(write_matrix(tmp_path, **MOVES, seeds=[0, 1]))), folder)  # as many seeds as you like
    said = r"finished with DiT-XS_2-depth=3-seed0-\w+ among the further cells, and this run has it among the contenders"
    with pytest.raises(StoreError, match=said) as refused:
        _check_headline(moved, folder)
    assert "\n" not in str(refused.value)
    untold = {"attempt": 2, "asked": asked.model_copy(update={"further": None})}  # a record from before it was told
    write_record(folder / named.folder, made.model_copy(update=untold))
    _check_headline(moved, folder)


def test_a_page_sees_contenders_that_changed_sides(tmp_path: Path) -> None:
    values = {UNET: series(60.0, 3), DIT: series(40.0, 3), CONV: series(39.9, 3)}
    for name, told, num in (("same", (), 0), ("moved", None, 0), ("moved", ("conv",), 9)):
        made = records(values, "backbone")
        folders = tuple(f"{each.name}-{each.fingerprint[:8]}" for each in made)
        further = None if told is None else tuple(folder for folder in folders if told and folder.startswith("Conv"))
        asked = Asked(claim="backbone", primary="fd_random3d", cells=folders, further=further)
        path = write_run(tmp_path / f"{name}{num}", [each.model_copy(update={"asked": asked}) for each in made], sheets=False, match=None)
        faults = {each.check.name: each for each in validity.check(load_run(path)).answers}["headline changed"].faults
        assert len(faults) == num and all("Conv-seed0" in fault.what and "changed between contenders" in fault.what for fault in faults)


# --- what rests on them


def test_the_headline_rests_on_the_contrasts_alone(tmp_path: Path) -> None:
    """Conv is far better than all; that no contrast of it is carried it cannot turn."""
    values = {name: series(mean, 5) for name, mean in (EQUAL | {CONV: 20.0}).items()}
    run = run_of(tmp_path, values, claim="other", contrasts={"patches": (PATCH, DIT), "frames": (FRAME, DIT)})
    found = findings.find(run)
    assert [(part.name, part.state) for part in found.conclusion.parts] == [("patches", "inconclusive"), ("frames", "inconclusive")]
    assert found.conclusion.state == "inconclusive"
    (row,) = (row for row in found.rows if row.name == "fd_random3d@64" and row.subject == "trained")
    assert row.verdict is not None and row.verdict.leader == "Conv"  # said as one of the rest
    assert "below 0.015" in row.verdict.reason and "below 0.025" in found.named[0].verdict.reason


def test_contrasts_are_corrected_together(tmp_path: Path) -> None:
    values = {name: series(mean, 5) for name, mean in (EQUAL | {PATCH: 30.0}).items()}
    one = findings.find(run_of(tmp_path / "1", values, claim=None, contrasts={"next patch": (PATCH, DIT)})).named[0].verdict
    three = findings.find(run_of(tmp_path / "3", values, claim=None)).named[0].verdict
    assert one.p_value == three.p_value and one.corrected == one.p_value
    assert three.corrected == pytest.approx(3 * one.p_value) and three.carried  # type: ignore[operator]
    assert "among 3 tests" in three.reason


def test_the_same_contrasts_under_another_budget_are_shown_and_turn_nothing(tmp_path: Path) -> None:
    values = {name: series(mean, 5) for name, mean in EQUAL.items()}
    clips = {name: series(mean, 5) for name, mean in (EQUAL | {PATCH: 20.0}).items()}
    run = run_of(tmp_path, values, clips)
    found = findings.find(run)
    assert found.conclusion.state == "inconclusive" and not found.pairs
    assert [(each.title, each.main) for each in found.named] == [(title, True) for title in CONTRASTS] + [
        (title, False) for title in CONTRASTS
    ]
    equal_clips = found.named[3]
    assert equal_clips.under == {"budget.samples": 2400} and equal_clips.sides == ("AR-patch, samples 2400", "DiT, samples 2400")
    assert equal_clips.verdict.carried and "below 0.015" in equal_clips.verdict.reason
    assert found.num_tests > 3 and found.num_carried == 1


def test_contrasts_of_what_was_not_measured_are_not_tested(tmp_path: Path) -> None:
    run = run_of(tmp_path, {name: series(mean, 3) for name, mean in EQUAL.items()}).model_copy(update={"primary": "kvd"})
    found = findings.find(run)
    assert (found.conclusion.state, found.named) == ("not tested", [])
    assert answer.answer(run, found).sentences[0] == "What the contrasts ask is not known: kvd was not measured."


def test_a_side_with_a_failed_seed_is_not_carried(tmp_path: Path) -> None:
    values = {name: series(mean, 4) for name, mean in (EQUAL | {PATCH: 20.0}).items()}
    run = run_of(tmp_path, values)
    cells = [
        cell.model_copy(update={"record": None, "status": "oom"}) if cell.contender == "AR-patch" and cell.seed == 3 else cell
        for cell in run.cells
    ]
    run = type(run).model_validate({name: getattr(run, name) for name in type(run).model_fields} | {"cells": tuple(cells)})
    found = findings.find(run)
    assert found.conclusion.state == "inconclusive" and prospect.of_contrast(run, found, found.named[0]) is None
    assert "not every seed of AR-patch has a value" in answer.answer(run, found).sentences[0]


def test_every_claim_rests_on_contrasts_where_there_are_any() -> None:
    assert claim_of("backbone") is CLAIMS["backbone"] and claim_of("next-patch", True) is CLAIMS["next-patch"]
    judged = claim_of("backbone", True)
    assert isinstance(judged, Questions) and judged.of_backbones and judged.question == CLAIMS["backbone"].question


def test_contenders_that_contrasts_name_are_not_put_aside(tmp_path: Path) -> None:
    """Where another field is an axis, each backbone is shown at its best; contrasts are about all of them."""
    run = run_of(tmp_path, {name: series(mean, 3) for name, mean in EQUAL.items()})
    cells = [cell.model_copy(update={"axes": {**cell.axes, "objective.label_dropout": 0.1}}) for cell in run.cells]
    both = run.model_copy(update={"cells": tuple(cells)})
    assert at_their_best(both) == (both, {})


# --- the page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("five")
    clips = {name: series(mean, 4) for name, mean in (EQUAL | {CONV: 20.0}).items()}
    run_of(folder, {name: series(mean, 4) for name, mean in (EQUAL | {PATCH: 30.0}).items()}, clips)
    build([folder / "invented"], folder / "out")
    return folder


def test_the_page_has_a_sentence_a_contrast_and_two_tables_a_condition(page: Path) -> None:
    text = (page / "out" / "report.md").read_text(encoding="utf-8")
    part = text.partition("## What was asked before the run")[2].partition("\n## ")[0]
    for sentence in (
        "Next patch: AR-patch is better than DiT, 30.",
        "Next frame: four seeds cannot tell",
        "Convolution or attention: four",
    ):
        assert sentence in part
    for title in ("Every contender at 120 seconds of training", "The contrasts at 2,400 training clips, by"):
        assert f"### {title}" in part
    assert part.count("| AR-frame") >= 2 and "| Conv, samples 2400 |" in part
    html = (page / "out" / "report.html").read_text(encoding="utf-8")
    assert 'id="contrasts"' in html and html.count("<h2>What was asked before the run</h2>") == 1


def test_tables_hold_what_was_tested(page: Path) -> None:
    names = {path.stem for path in (page / "out" / "tables").glob("*.csv")}
    assert {"equal-seconds", "named-seconds", "equal-samples", "named-samples"} <= names
    lines = (page / "out" / "tables" / "named-seconds.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 and lines[1].startswith("next patch,120 seconds of training,fd_random3d@64,AR-patch,DiT,")
    assert len((page / "out" / "tables" / "equal-samples.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(ALL)


def test_the_picture_holds_all_against_whom_the_contrasts_share(page: Path) -> None:
    run = load_run(page / "invented")
    shown = answer.answer(run, findings.find(run)).ratios
    assert shown is not None and shown.first == "DiT" and set(shown.others) == {"UNet", "Conv", "AR-frame", "AR-patch"}
    (quality,) = (row for row in shown.rows if row.title == QUALITY)
    assert {each.whose: each.carried for each in quality.ratios} == {"UNet": False, "Conv": False, "AR-frame": False, "AR-patch": True}
    assert (page / "out" / "pictures" / "ratios.svg").is_file()
    html = (page / "out" / "report.html").read_text(encoding="utf-8")
    assert "Of clip quality only contrasts that were named before the run are filled: other pairs were not asked." in html
    assert ">chance, or not asked<" in html  # in the picture, which the page shows without its caption
    assert html.count("the contrasts decide") == 1  # on the row of the primary measure, whose verdict is another question


def test_two_that_both_beat_a_third_are_filled_though_none_leads(tmp_path: Path) -> None:
    run = run_of(tmp_path, {name: series(mean, 5) for name, mean in (EQUAL | {PATCH: 30.0, FRAME: 30.2}).items()})
    shown = claim_of("next-patch").ratios(run, findings.find(run))
    assert shown is not None
    (quality,) = (row for row in shown.rows if row.title == QUALITY)
    assert {each.whose for each in quality.ratios if each.carried} == {"AR-patch", "AR-frame"}


def test_contrasts_that_share_no_contender_have_no_row_of_quality(tmp_path: Path) -> None:
    contrasts = {"patches": (PATCH, FRAME), "convolution or attention": (CONV, DIT)}
    run = run_of(tmp_path, {name: series(mean, 3) for name, mean in EQUAL.items()}, claim="other", contrasts=contrasts)
    shown = answer.answer(run, findings.find(run)).ratios
    assert shown is not None and shown.rows and QUALITY not in {row.title for row in shown.rows}
    assert (
        "Clip quality is left out: the contrasts that were named before the run share no contender."
        in ratio_picture.draw(run, shown).caption
    )


def test_what_would_decide_is_said_of_a_contrast_by_name(page: Path) -> None:
    run = load_run(page / "invented")
    made = answer.answer(run, findings.find(run))
    assert len(made.sentences) == 3 and made.sentences[-1].startswith("On next frame, ")


# --- seeds that are added


LOOKS = Looks()
PAIRS = [("patch", "dit"), ("conv", "dit")]


def test_both_sides_of_what_is_open_get_a_seed() -> None:
    values = {"patch": series(30.0, 3, 0.3), "dit": series(40.0, 3, 0.3), "conv": [41.0, 36.5, 42.4]}
    found = look_between(PAIRS, values, LOOKS)
    assert (found.state, found.more) == ("go on", ("conv", "dit"))
    young = look_between(PAIRS, values | {"patch": [30.0, 31.0]}, LOOKS)
    assert young.more == ("patch",) and "first look" in young.reason


def test_it_ends_where_all_are_carried_or_hopeless() -> None:
    clear = {"patch": series(30.0, 3, 0.1), "dit": series(40.0, 3, 0.1), "conv": series(60.0, 3, 0.1)}
    assert look_between(PAIRS, clear, LOOKS).state == "carried"
    equal = {name: series(40.0, 9) for name in ("patch", "dit", "conv")}
    found = look_between(PAIRS, equal, LOOKS)
    assert (found.state, found.more) == ("futile", ())
    one = look_between(PAIRS, equal | {"patch": series(20.0, 9)}, LOOKS)
    assert one.state == "carried" and one.reason == "1 of 2 contrasts carried"
    last = look_between(PAIRS, {name: series(40.0, 12) for name in ("patch", "dit", "conv")}, LOOKS)
    assert last.state == "at the last"
    stuck = look_between(PAIRS, equal, LOOKS, missing={"conv": "seed 2 oom"})
    assert stuck.state == "stuck" and "conv: seed 2 oom" in stuck.reason


def test_a_worse_first_side_is_decided_too() -> None:
    clear = {"patch": series(60.0, 3, 0.1), "dit": series(40.0, 3, 0.1)}
    assert look_between(PAIRS[:1], clear, LOOKS).state == "carried"


def test_contrasts_share_the_level_at_every_look() -> None:
    """Carried alone, and not as one of many."""
    values = {"patch": series(36.9, 5), "dit": series(40.0, 5), **{f"c{k}": series(40.0, 5) for k in range(30)}}
    assert look_between([("patch", "dit")], values | {"patch": series(34.0, 5)}, LOOKS).state == "carried"
    many = [("patch", "dit"), *((f"c{k}", "dit") for k in range(30))]
    assert "patch" in look_between(many, values, LOOKS).more


def test_a_run_is_looked_at_by_its_contrasts(tmp_path: Path) -> None:
    values = {name: series(mean, 3, 0.2) for name, mean in (EQUAL | {PATCH: 20.0}).items()}
    run = run_of(tmp_path, values, until_decided=LOOKS)
    found = look_at(run, findings.find(run))
    assert "UNet" not in found.more and "AR-patch" not in found.more  # no contrast has the one, the other's is carried
    assert found.state in ("go on", "carried", "futile")
