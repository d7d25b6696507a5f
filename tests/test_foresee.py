"""Held-out cells: what is refused, that they train last, that what is said of them is written before, and never changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.backbone import load_backbone
from bench.commands.foresee import run_foreseen
from bench.data.files import StoreError
from bench.meters.flops import count_flops, num_params
from bench.records.prediction import PREDICTION, read_prediction
from bench.records.record import Record
from bench.records.store import latest
from bench.report.load import load_run
from bench.report.verdicts import faults
from bench.run import launch
from bench.run.expected.model import phases_of
from bench.run.expected.pace import Pace, checked_clips
from bench.run.job import CellJob
from bench.run.launch import run_all
from bench.run.launchers.table import launcher
from bench.run.size import resolve
from bench.run.size.resolve import sizes_of
from bench.shapes import LatentSpec, Refusal
from bench.study.forecast import clips_at, family_of, held_out
from bench.study.matrix import Study, load_study
from bench.study.scale import scaled_budget
from tests.commands import here, jobs_here
from tests.scaled import HELD, NAMES, matrix_of, study_of, trained
from tests.tiny import linear_trainer, tiny_cell

__all__ = ["trained"]
Trained = Callable[..., list[list[str]]]


def run(study: Study, results: Path) -> list[Record]:
    return run_foreseen(study, results, lambda line: None, "python -m bench run tiny")


def test_families_are_names_without_their_size() -> None:
    families = {"dit:DiT-XS/2{depth: 3}": "dit:DiT/2", "dit:DiT-S/2t2": "dit:DiT/2t2", "baselines:UNet-B": "baselines:UNet"}
    families |= {"dit:DiT-S/2-sincos": "dit:DiT/2-sincos", "mine:Net": "mine:Net"}
    assert {name: family_of(name) for name in families} == families


@pytest.mark.parametrize("budget", [{"samples": 61}, {"steps": 31}, {"latent_voxels": 24 * 61}, {"train_flops": 3000.0 * 61}])
@pytest.mark.parametrize("part", [0.3, 1.0])
def test_clips_of_a_budget_are_those_that_training_draws(tmp_path: Path, budget: dict[str, float], part: float) -> None:
    cell = tiny_cell(budget=budget)
    small = cell.model_copy(update={"budget": scaled_budget(cell.budget, part) if part < 1 else cell.budget})
    assert clips_at(cell, part, 24, 1000) == linear_trainer(small, tmp_path).train().num_samples


def test_held_out_cells_train_last_and_their_records_name_what_was_said(tmp_path: Path, trained: Trained) -> None:
    passes, study, lines = trained(), study_of(tmp_path), list[str]()
    records = run_foreseen(study, tmp_path, lines.append, "python -m bench run tiny")
    held = {named.name for named in held_out(study.matrix.forecast, study.cells)}
    assert len(held) == 4 and set(passes[1]) == held and not set(passes[0]) & held and len(records) == 16
    said = read_prediction(tmp_path / "tiny")
    assert said is not None and {record.asked.prediction for record in records if record.name in held} == {said.sha256}
    assert {record.asked.prediction for record in records if record.name not in held} == {None}
    assert len(said.losses) == 4 * 3 and len(said.fitted_to) == 12
    assert all(each.low < each.loss < each.high for each in said.losses)
    assert [line for line in lines if "predicted before they train (prediction.json" in line and said.sha256[:12] in line]
    assert not load_run(tmp_path / "tiny").changed and not list(faults.foreseen(load_run(tmp_path / "tiny")))


def test_the_same_command_goes_on_with_the_same_prediction(tmp_path: Path, trained: Trained) -> None:
    passes, study = trained(), study_of(tmp_path)
    run(study, tmp_path)
    before = (tmp_path / "tiny" / PREDICTION).read_text()
    run(study, tmp_path)
    assert passes[2:] == [[]] and (tmp_path / "tiny" / PREDICTION).read_text() == before


def test_a_held_out_cell_that_trained_before_is_refused(tmp_path: Path, trained: Trained) -> None:
    trained()
    study = study_of(tmp_path)
    run(study, tmp_path)
    (tmp_path / "tiny" / PREDICTION).unlink()
    words = r"cell UNet-XXS-num_res_blocks=4-seed0 trained before its prediction, which then says nothing: remove .*-seed0-\w{8} and run"
    with pytest.raises(Refusal, match=words):
        run(study, tmp_path)


def test_a_checkpoint_from_before_is_refused_too(tmp_path: Path, trained: Trained) -> None:
    trained()
    study = study_of(tmp_path)
    folder = tmp_path / "tiny" / held_out(study.matrix.forecast, study.cells)[1].folder
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(Refusal, match="trained before its prediction"):
        run(study, tmp_path)


@pytest.mark.parametrize("change", [{"prediction": "0" * 64}, {"prediction": None}, {"started_at": "2020-01-01T00:00:00+00:00"}])
def test_a_record_of_another_or_of_no_prediction_is_refused_and_not_valid(tmp_path: Path, trained: Trained, change: dict[str, Any]) -> None:
    trained()
    study = study_of(tmp_path)
    run(study, tmp_path)
    path = tmp_path / "tiny" / held_out(study.matrix.forecast, study.cells)[0].folder / "attempt-1.json"
    stored = json.loads(path.read_text())
    (stored["asked"] if "prediction" in change else stored).update(change)
    path.write_text(json.dumps(stored))
    with pytest.raises(Refusal, match="trained before its prediction"):
        run(study, tmp_path)
    (fault,) = faults.foreseen(load_run(tmp_path / "tiny"))
    assert fault.what == "trained before its prediction"


def test_an_edited_prediction_is_refused(tmp_path: Path, trained: Trained) -> None:
    trained()
    study = study_of(tmp_path)
    run(study, tmp_path)
    path = tmp_path / "tiny" / PREDICTION
    stored = json.loads(path.read_text())
    stored["prediction"]["losses"][0]["loss"] += 0.01
    path.write_text(json.dumps(stored))
    for use in (lambda: run(study, tmp_path), lambda: load_run(tmp_path / "tiny")):
        with pytest.raises(
            StoreError, match=r"was edited: its hash is .*, and it says .*; what was predicted is not known: remove the run's"
        ):
            use()


def test_other_cells_have_a_prediction_of_their_own(tmp_path: Path, trained: Trained) -> None:
    trained()
    run(study_of(tmp_path), tmp_path)
    first = read_prediction(tmp_path / "tiny")
    run(load_study(str(matrix_of(tmp_path)), ["optimizer.grad_clip=2"]), tmp_path)
    second = read_prediction(tmp_path / "tiny")
    assert first and second and {each.folder for each in first.losses}.isdisjoint({each.folder for each in second.losses})
    assert (tmp_path / "tiny" / f"prediction-{first.sha256[:8]}.json").is_file()


def test_a_record_that_came_anew_is_told_of(tmp_path: Path, trained: Trained) -> None:
    trained()
    study = study_of(tmp_path)
    run(study, tmp_path)
    folder = tmp_path / "tiny" / study.cells[0].folder
    stored = json.loads((folder / "attempt-1.json").read_text())
    (folder / "attempt-2.json").write_text(json.dumps({**stored, "attempt": 2}))
    (fault,) = faults.foreseen(load_run(tmp_path / "tiny"))
    assert fault.cells == (study.cells[0].folder,) and fault.what == "is not the record that the prediction was fitted to"


def test_what_has_failed_holds_the_prediction_up(tmp_path: Path, trained: Trained) -> None:
    trained()
    study = study_of(tmp_path)
    run(study, tmp_path)
    for named in held_out(study.matrix.forecast, study.cells):
        (tmp_path / "tiny" / named.folder / "attempt-1.json").unlink()
    (tmp_path / "tiny" / PREDICTION).unlink()
    path = tmp_path / "tiny" / study.cells[0].folder / "attempt-1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed", "reason": "x"}))
    with pytest.raises(StoreError, match="UNet-XXS-num_res_blocks=1-seed0 has not finished, and the prediction waits for it; run the same"):
        run(study, tmp_path)
    assert latest(tmp_path / "tiny" / study.cells[-1].folder) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forecast": {"held_out": ["UNet-XXS{num_res_blocks: 9}"]}}, r"forecast.held_out: 'UNet-XXS\{num_res_blocks: 9\}' names none of"),
        ({"forecast": {"held_out": HELD, "about": "DiT"}}, r"forecast.about 'DiT' is no family of the matrix.*; it has UNet, DiT/2"),
        ({"forecast": {"held_out": [*HELD, NAMES["DiT/2"][2]]}}, "DiT/2 has 2 sizes beside those held out, and a law needs 3 or more"),
        ({"branches": [0.5]}, r"UNet has 2 budgets, and a law needs 3 or more; give the cells branches, such as branches: \[0.25, 0.5\]"),
        ({"budget": {"seconds": 5}, "branches": []}, "trains for seconds, and what that comes to is not known before; use samples"),
        ({"batching": {"voxel_budget": 128}}, "has clips of several shapes, and the law counts clips; give data of one shape"),
    ],
)
def test_what_no_law_could_be_fitted_to_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        study_of(tmp_path, **changes)


def test_names_need_no_module(tmp_path: Path) -> None:
    study = study_of(tmp_path, forecast={"held_out": [name.partition(":")[2] for name in HELD]})
    assert study.matrix.forecast and list(study.matrix.forecast.held_out) == HELD


def test_nothing_else_runs_such_a_matrix(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    with pytest.raises(Refusal, match=r"predicts cells before they train, which `python -m bench run tiny` does; or forecast=null"):
        run_all(study, tmp_path, lambda line: None, "c")
    done = here("run", matrix_of(tmp_path), "primary=fvd", "--until-decided", "--results", tmp_path)
    assert done.returncode == 2 and "--until-decided adds cells" in done.stderr


def test_a_pass_leaves_later_cells_alone_and_tells_held_out_ones_what_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[CellJob] = []
    prepared: list[str] = []

    class Fan:
        def __init__(self, *given: Any, **more: Any):
            pass

        def run(self, jobs: list[CellJob]) -> dict[str, Record]:
            handed.extend(jobs)
            return {}

    def prepare(study: Study, results: Path, jobs: Any, waiting: list[str], *more: Any) -> dict[str, Record]:
        prepared.extend(waiting)
        return {}

    monkeypatch.setattr(launch, "FanOut", Fan)
    monkeypatch.setattr(launch, "_prepare", prepare)
    study = study_of(tmp_path)
    held = {named.name for named in held_out(study.matrix.forecast, study.cells)}
    launch.run_study(study, tmp_path, lambda line: None, "c", later=held)
    assert len(handed) == 12 and not {job.cell.name for job in handed} & held and not set(prepared) & held
    handed.clear()
    launch.run_study(study, tmp_path, lambda line: None, "c", prediction="f" * 64)
    assert {job.cell.name: job.asked.prediction for job in handed} == {
        named.name: "f" * 64 if named.name in held else None for named in study.cells
    }
    assert load_run(tmp_path / "tiny").forecast == study.matrix.forecast


def test_sizes_are_counted_by_a_job_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [tiny_cell(backbone=name) for name in ("tests.small:DiT-XXS/2", "tests.small:UNet-XXS")]
    where = launcher()
    where.check(study_of(tmp_path))
    with jobs_here():
        found = sizes_of(cells, "tiny", tmp_path, where)
    spec = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)
    for cell in cells:
        size = found[cell.backbone]
        assert size.params == num_params(load_backbone(cell.backbone, spec)) and size.latent_voxels == 4 * 4 * 4
        assert size.flops_per_clip == count_flops(cell.backbone, spec, (4, 4, 4))
    monkeypatch.setattr(resolve, "run_on", lambda *given: pytest.fail("they are in the cache"))
    assert sizes_of(cells, "tiny", tmp_path, where) == found


def test_branches_take_time_too() -> None:
    pace = Pace(budget_s={"samples": 1.0}, checks_s=0.0, canaries_s=0.0)
    plain = tiny_cell(budget={"samples": 100}, optimizer={"schedule": "cooldown"}, evaluation={"num_samples": 0})
    branched = plain.model_copy(update={"branches": (0.25, 0.5)})
    times = [phases_of(cell, pace, canaries=False)["training"] for cell in (plain, branched)]
    assert times == pytest.approx([100, 100 * (1 + 0.15 * 0.75)])
    assert checked_clips(branched) - checked_clips(plain) == 2 * plain.data.num_val


def test_the_command_runs_it_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(study: Study, results: Path, *more: Any) -> list[Record]:
        raise Refusal(f"{study.name} into {results.name}")

    monkeypatch.setattr("bench.commands.foresee.run_foreseen", seen)
    done = here("run", matrix_of(tmp_path), "--results", tmp_path / "here")
    assert done.returncode == 2 and "error: tiny into here" in done.stderr
    assert "tiny into here" not in here("run", matrix_of(tmp_path), "forecast=null", "nonsense=1", "--results", tmp_path / "here").stderr
