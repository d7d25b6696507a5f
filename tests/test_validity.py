"""A run is valid when every check of its records holds, and otherwise says which does not, with cells, value and remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_factory import EXACT, MEANS, PROTOCOL, environment, record, training, write_run

from bench.records.record import Asked, Canary, QualityPoint, Record
from bench.report import build
from bench.report.load import load_run
from bench.report.verdicts import validity
from bench.report.verdicts.validity import CHECKS
from bench.study.budget import Budget
from bench.study.looks import Looks
from bench.study.scale import Scaling
from bench.study.tune import Tuning, TuningTrial
from tests.commands import here

UNET, DIT = MEANS
RATE = "optimizer.learning_rate"

ASKED = [check for check in CHECKS if check.name != "trained before its prediction"]  # of a run that holds no cell out


def finished(backbone: str, seed: int, **changes: Any) -> Record:
    """A record of a run that nobody could object to."""
    fields: dict[str, Any] = {"asked": Asked(claim="backbone", primary="fd_random3d"), "artefacts": {"weights": "averaged.safetensors"}}
    course = training(backbone, seed)
    fields["training"] = course.model_copy(update={"wall_time_s": 120.1, "validation": course.validation})
    return record(backbone, seed, **(fields | changes))


def run_of(folder: Path, change: Callable[[Record], dict[str, Any]] = lambda made: {}, num_seeds: int = 2, **snapshot: Any) -> Path:
    """A run whose last cell, a DiT's, is changed."""
    made: list[Record | None] = [finished(backbone, seed) for backbone in MEANS for seed in range(num_seeds)]
    assert made[-1] is not None
    made[-1] = made[-1].model_copy(update=change(made[-1]))
    return write_run(folder, made, sheets=False, **snapshot)


def failing(folder: Path) -> dict[str, list[str]]:
    """Name of every check that fails -> its lines."""
    return {
        answer.check.name: [fault.line for fault in answer.faults] for answer in validity.check(load_run(folder)).answers if answer.faults
    }


def edited(made: Record, **fields: Any) -> dict[str, Any]:
    """Another training course."""
    assert made.training
    return {"training": made.training.model_copy(update=fields)}


def with_cell(made: Record, key: str, **fields: Any) -> dict[str, Any]:
    """A cell whose part `key` has other fields."""
    return {"cell": made.cell.model_copy(update={key: getattr(made.cell, key).model_copy(update=fields)})}


def invalid(made: Record) -> dict[str, Any]:
    found = [m.model_copy(update={"invalid": "2 others were there"}) if m.name == "train_clips_per_s" else m for m in made.measurements]
    return {"measurements": found}


def other_protocol(made: Record) -> dict[str, Any]:
    other = {"protocol": {**PROTOCOL, "dtype": "bf16"}}
    return {"measurements": [m.model_copy(update=other) if m.name == "fd_random3d@64" else m for m in made.measurements]}


# What is changed in one cell -> the one check that fails, and what its line says beside the cell.
CHANGES: dict[str, tuple[Callable[[Record], dict[str, Any]], str, str]] = {
    "failed": (lambda made: {"status": "failed", "reason": "no disk"}, "cells not finished", "failed (no disk); go on with `python -m"),
    "clips": (lambda made: {"data": made.data.model_copy(update={"digest": "7" * 32})}, "clips differ", "777, 3 cells have"),  # type: ignore[union-attr]
    "samples": (lambda made: with_cell(made, "evaluation", num_samples=32), "evaluation differs", "evaluation.num_samples 32, 3 cells"),
    "sampler": (lambda made: with_cell(made, "sampler", num_steps=3), "evaluation differs", "sampler.num_steps 3, 3 cells have"),
    "points": (
        lambda made: edited(made, validation=made.training.validation[1:]),  # type: ignore[union-attr]
        "evaluation differs",
        "7 validation points of",
    ),
    "points on the way": (
        lambda made: {"points": [QualityPoint(part=0.5, step=9, wall_time_s=1.0, forward_flops=1)]},
        "evaluation differs",
        "samples scored at 0.5 parts of the budget, 3 cells have samples scored at no parts",
    ),
    "protocol": (other_protocol, "protocols differ", "fd_random3d@64 under another protocol (dtype: float32 and bf16)"),
    "version": (lambda made: {"protocol_version": 1}, "protocols differ", "protocol version 1, 3 cells"),
    "average": (lambda made: with_cell(made, "optimizer", ema_decay=0.5), "settings differ", "optimizer.ema_decay 0.5, 3 cells have"),
    "schedule": (lambda made: with_cell(made, "optimizer", schedule="linear"), "settings differ", "optimizer.schedule linear"),
    "not the last": (
        lambda made: edited(made, num_steps=EXACT[DIT]["train_steps"] + 9),
        "not the last checkpoint",
        "scored at step 485 of 494; remove its folder",
    ),
    "no weights": (lambda made: {"artefacts": {}}, "not the last checkpoint", "the weights it kept are none"),
    "budget": (lambda made: edited(made, wall_time_s=60.0), "budget not used", "used 60 of budget.seconds 120"),
    "canary": (
        lambda made: {"canaries": [Canary(name="resumed equals", passed=False, detail="0.1")]},
        "canaries",
        "canary failed: resumed equals (0.1)",
    ),
    "threads": (lambda made: {"environment": environment(num_threads=1)}, "machines differ", "num_threads 1, 3 cells have num_threads 2"),
    "moved": (lambda made: {"machines": ["cpu, 2 threads", "cuda"]}, "machines differ", "trained in turn on cpu, 2 threads; cuda"),
    "dirty": (
        lambda made: {"commits": ["0123456789abcdef", "a" * 40 + "+dirty"]},
        "commit not clean",
        "commit aaaaaaaaa+dirty; commit what",
    ),
    "unknown": (lambda made: {"commits": ["unknown"]}, "commit not clean", "commit unknown"),
    "another commit": (lambda made: {"commits": ["b" * 40]}, "commit not clean", "2 commits worked on the run (012345678, bbbbbbbbb)"),
    "headline": (
        lambda made: {"asked": Asked(claim="backbone", primary="fvd")},
        "headline changed",
        "asked for claim backbone and primary fvd, the run asks for claim backbone and primary fd_random3d",
    ),
    "cells": (
        lambda made: {"asked": made.asked.model_copy(update={"cells": ("gone",)})},
        "headline changed",
        "cells changed after others had finished (4 added, 1 removed)",
    ),
    "timing": (invalid, "timings disturbed", "train_clips_per_s not valid: 2 others were there"),
}


def test_a_run_without_fault_is_valid(tmp_path: Path) -> None:
    folder = run_of(tmp_path)
    found = validity.check(load_run(folder))
    assert found.valid and found.lines == [] and found.summary == f"Valid: {len(ASKED)} of {len(ASKED)} checks"
    table = found.table()
    assert {row[1] for row in table.rows} == {"passed"} and len(table.rows) == len(ASKED) and table.rows[0][2] == "4 cells, all converged"
    done = here("validate", folder)
    assert (done.returncode, done.stdout) == (0, "valid; 4 cells, all converged\n"), done.stderr


@pytest.mark.parametrize("what", CHANGES)
def test_every_check_fails_by_itself(tmp_path: Path, what: str) -> None:
    change, name, said = CHANGES[what]
    found = failing(run_of(tmp_path, change))
    assert list(found) == [name]
    assert any(line.startswith("DiT-XS-2-seed1: ") and said in line and "; " in line for line in found[name]), found[name]


def test_the_command_says_every_reason(tmp_path: Path) -> None:
    folder = run_of(tmp_path, lambda made: invalid(made) | {"commits": ["unknown"]}, num_seeds=1)
    done = here("validate", folder)
    clean = "commit what you changed and run the matrix again from that one commit"
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"DiT-XS-2-seed0: commit unknown; {clean}",
        f"DiT-XS-2-seed0: 2 commits worked on the run (012345678, unknown); {clean}",
        "DiT-XS-2-seed0: train_clips_per_s not valid: 2 others were there; remove its folder and run the matrix again alone on the device",
    ]
    build([folder], tmp_path / "out")
    summary = "Not valid: commit not clean (1 cell), timings disturbed (1 cell)"
    assert summary in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert summary in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert validity.check(load_run(folder)).summary == summary


def test_what_is_no_run_is_refused_in_a_line(tmp_path: Path) -> None:
    done = here("validate", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"error: no run in {tmp_path}: run.json is missing; start one with")
    done = here("validate", run_of(tmp_path), "seeds=[1]")
    assert done.returncode == 2 and done.stderr.startswith("error: override 'seeds=[1]' is for a matrix")


def test_a_record_of_another_cell_is_found(tmp_path: Path) -> None:
    folder = run_of(tmp_path)
    path = next(folder.glob("DiT*seed1*/attempt-1.json"))
    path.write_text(path.read_text().replace(f'"fingerprint": "{finished(DIT, 1).fingerprint}"', f'"fingerprint": "{"9" * 64}"'))
    (line,) = failing(folder)["cells not finished"]
    assert line.startswith("DiT-XS-2-seed1: its record is of fingerprint 99999999, run.json lists ")


def test_what_did_not_converge_counts(tmp_path: Path) -> None:
    """Out of memory and divergence are results, and none of the other checks asks them for what they cannot have."""
    lost: dict[str, Any] = {"measurements": [], "training": None, "artefacts": {}, "canaries": []}
    folder = run_of(tmp_path, lambda made: {"status": "diverged", "reason": "loss nan"} | lost)
    found = validity.check(load_run(folder))
    assert found.valid and found.answers[0].detail == "1 of 4 cells did not converge, and count: 1 diverged"
    assert here("validate", folder).stdout == "valid; 1 of 4 cells did not converge, and count: 1 diverged\n"


def test_seeds_are_the_same_for_all(tmp_path: Path) -> None:
    made: list[Record | None] = [finished(UNET, 0), finished(UNET, 1), finished(DIT, 0)]
    (line,) = failing(write_run(tmp_path / "a", made, sheets=False))["seeds differ"]
    assert line == "DiT-XS-2-seed0: DiT-XS/2 has seeds 0 and not 1; run it with seeds=[0, 1] too"
    again = finished(DIT, 0).model_copy(update={"name": "again", "fingerprint": "5" * 64})
    (line,) = failing(write_run(tmp_path / "b", [finished(UNET, 0), finished(DIT, 0), again], sheets=False))["seeds differ"]
    assert line.startswith("DiT-XS-2-seed0, again: seed 0 more than once")


def test_seeds_that_are_added_by_looks_need_not_be_the_same(tmp_path: Path) -> None:
    for name, seeds, valid in (("a", (0, 1), True), ("b", (1, 2), False)):
        made: list[Record | None] = [finished(UNET, seed) for seed in (0, 1, 2)] + [finished(DIT, seed) for seed in seeds]
        folder = write_run(tmp_path / name, made, sheets=False, until_decided=Looks())
        assert ("seeds differ" not in failing(folder)) is valid


def test_further_cells_may_have_another_budget(tmp_path: Path) -> None:
    folder = run_of(tmp_path, lambda made: {"cell": made.cell.model_copy(update={"budget": Budget(samples=9)})})
    assert "budget" in failing(folder)["settings differ"][0]
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"axes": {', '"axes": {"budget.samples": 9,'))
    assert "settings differ" not in failing(folder)


def test_a_cell_that_never_ran_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [finished(UNET, 0), finished(DIT, 0)], sheets=False, not_run=[(DIT, 1), (UNET, 1)])
    assert failing(folder)["cells not finished"][0].startswith("DiT-XS-2-seed1: not run (no attempt is stored); go on with")


def test_an_axis_may_differ_and_so_may_what_was_tuned(tmp_path: Path) -> None:
    folder = run_of(tmp_path, lambda made: with_cell(made, "optimizer", learning_rate=0.5))
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"axes": {', f'"axes": {{"{RATE}": 1,'))
    assert "settings differ" not in failing(folder)
    chosen = tuned({RATE: 0.5})
    folder = run_of(tmp_path / "b", lambda made: with_cell(made, "optimizer", learning_rate=0.5) | {"tuning": chosen})
    assert "settings differ" not in failing(folder)


def test_untrained_clips_may_be_those_of_the_first_seed_alone(tmp_path: Path) -> None:
    assert failing(run_of(tmp_path, lambda made: with_cell(made, "evaluation", untrained=False))) == {}


def test_canaries_are_asked_of_a_contender_not_of_a_cell(tmp_path: Path) -> None:
    assert failing(run_of(tmp_path / "a", lambda made: {"canaries": []})) == {}
    found = failing(run_of(tmp_path / "b", lambda made: {"canaries": []}, num_seeds=1))
    assert found == {"canaries": ["DiT-XS-2-seed0: no canary ran; run the matrix again"]}


@pytest.mark.parametrize(("axis", "amount"), [("steps", 486), ("samples", 24 * 486), ("latent_voxels", 486), ("train_flops", 3 * 486.5)])
def test_a_budget_on_any_axis_is_counted(tmp_path: Path, axis: str, amount: float) -> None:
    """One step too few; with that step, all of it is used."""

    def change(num: int) -> Callable[[Record], dict[str, Any]]:
        work = {"step_work": [(24, 1, 1, 1, 1)] * num, "num_samples": 24 * num, "num_steps": num}
        return lambda made: {"cell": made.cell.model_copy(update={"budget": Budget(**{axis: amount})})} | edited(made, **work)

    assert failing(run_of(tmp_path / "a", change(485)))["budget not used"][0].startswith("DiT-XS-2-seed1: used ")
    assert "budget not used" not in failing(run_of(tmp_path / "b", change(487)))


def test_what_was_made_smaller_to_fit_a_time_is_no_study_of_its_name(tmp_path: Path) -> None:
    small = Scaling(minutes=5, share=0.1, num_seeds=2, of="0" * 64, changes=("budget.seconds 1200 -> 120",))
    assert failing(run_of(tmp_path, scaling=small)) == {
        "scaled down": [
            "UNet-XS-seed0, UNet-XS-seed1, DiT-XS-2-seed0 and 1 more: scaled to 5 minutes: budget.seconds 1200 -> 120; "
            "run it without --budget-minutes"
        ]
    }


# --- tuning


def tuned(chosen: dict[str, Any], num: int = 3, seconds: float = 60, **changes: Any) -> Tuning:
    trials = tuple(TuningTrial(point={RATE: k + 1.0}, budget=Budget(seconds=seconds), losses=((1000, 0.5),)) for k in range(num))
    return Tuning(by="val_loss", study="invented-tuning", trials=trials, chosen=chosen, **changes)


def tuned_run(folder: Path, *, last: Tuning | None) -> Path:
    """A run whose contenders are tuned, the last cell otherwise."""
    made = [finished(backbone, 0, tuning=tuned({RATE: 2.0})) for backbone in MEANS]
    return write_run(folder, [made[0], made[1].model_copy(update={"tuning": last})], sheets=False, asks_tuning=True)


def test_untuned_is_declared(tmp_path: Path) -> None:
    answer = next(each for each in validity.check(load_run(run_of(tmp_path))).answers if each.check.name == "rates not tuned")
    assert answer.faults == () and answer.detail.startswith("declared untuned")


def test_equal_tuning_is_valid(tmp_path: Path) -> None:
    folder = tuned_run(tmp_path, last=tuned({RATE: 1.5}))
    answer = next(each for each in validity.check(load_run(folder)).answers if each.check.name == "rates not tuned")
    assert answer.faults == () and answer.detail == "3 trials of 0.5 of the budget each"


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (None, "DiT-XS-2-seed0: not tuned; tune every contender"),
        (tuned({RATE: 3.0}, at_edge=(RATE,)), f"tuned to the edge of what was tried ({RATE} 3.0); widen the grid"),
        (tuned({RATE: 2.0}, differs=("budget.seconds: 60 | 120",)), "tuned under other fields (budget.seconds: 60 | 120)"),
        (tuned({RATE: 2.0}, num=4), "4 trials of 0.5 of the budget, 1 cells have 3 trials of 0.5 of the budget"),
        (tuned({RATE: 2.0}, seconds=90), "3 trials of 0.75 of the budget, 1 cells have 3 trials of 0.5 of the budget"),
    ],
)
def test_unequal_tuning_is_not_valid(tmp_path: Path, last: Tuning | None, said: str) -> None:
    found = failing(tuned_run(tmp_path, last=last))
    assert list(found) == ["rates not tuned"] and said in found["rates not tuned"][0]


# --- further cells, and axes that protocols tell


def listed(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """The run with its list of cells edited."""
    snapshot = json.loads((folder / "run.json").read_text())
    edit(snapshot)
    (folder / "run.json").write_text(json.dumps(snapshot))
    return folder


def test_further_cells_are_asked_too_and_have_a_budget_of_their_own(tmp_path: Path) -> None:
    def of(name: str, num: int, **changes: Any) -> dict[str, list[str]]:
        made: list[Record | None] = [finished(backbone, 0) for backbone in MEANS]
        for own in [finished(backbone, seed, **changes) for backbone in MEANS for seed in range(num if backbone == DIT else 1)]:
            cell = own.cell.model_copy(update={"budget": Budget(samples=3000)})  # type: ignore[call-arg]
            made.append(own.model_copy(update={"cell": cell, "fingerprint": cell.fingerprint(), "name": f"samples-{own.name}"}))

        def further(snapshot: dict[str, Any]) -> None:
            for cell in snapshot["cells"][2:]:
                cell["axes"]["budget.samples"], cell["further"] = 3000, True

        return failing(listed(write_run(tmp_path / name, made, sheets=False), further))

    assert of("good", 1) == {}
    assert list(of("untested", 1, canaries=[])) == ["canaries"]
    assert list(of("seeds", 2)) == ["seeds differ"]


def test_further_cells_may_have_the_choice_of_their_backbone_where_all_rivals_do(tmp_path: Path) -> None:
    """No rival gains by it, and no headline rests on them; the page says so. One that alone has it is at a disadvantage."""

    def of(name: str, differs: dict[str, tuple[str, ...]]) -> tuple[list[str], str]:
        made: list[Record | None] = [finished(backbone, 0, tuning=tuned({RATE: 2.0})) for backbone in MEANS]
        for backbone in MEANS:
            own = finished(backbone, 0, tuning=tuned({RATE: 2.0}, differs=differs[backbone]))
            made.append(own.model_copy(update={"name": f"few-{own.name}"}))

        def further(snapshot: dict[str, Any]) -> None:
            for cell in snapshot["cells"][2:]:
                cell["axes"]["data.num_train"], cell["further"] = 3, True

        run = load_run(listed(write_run(tmp_path / name, made, sheets=False, asks_tuning=True), further))
        answer = next(each for each in validity.check(run).answers if each.check.name == "rates not tuned")
        return [fault.what for fault in answer.faults], answer.detail

    lent = ("data.num_train: 6 | 3",)
    faults, detail = of("all", dict.fromkeys(MEANS, lent))
    assert faults == [] and detail.endswith("further cells have the choice made under other fields (data.num_train: 6 | 3)")
    faults, _ = of("one", {backbone: lent if backbone == DIT else () for backbone in MEANS})
    assert faults == ["tuned under other fields (data.num_train: 6 | 3)"]


def test_cells_whose_axes_give_them_other_data_may_have_other_protocols(tmp_path: Path) -> None:
    folder = run_of(tmp_path, lambda made: other_protocol(made) | {"data": made.data.model_copy(update={"digest": "7" * 32})})  # type: ignore[union-attr]
    assert list(failing(folder)) == ["clips differ", "protocols differ"]

    def another_size(snapshot: dict[str, Any]) -> None:
        for place, cell in enumerate(snapshot["cells"]):
            cell["axes"]["data.height"] = 48 if place == 3 else 24

    assert not {"clips differ", "protocols differ"} & set(failing(listed(folder, another_size)))
