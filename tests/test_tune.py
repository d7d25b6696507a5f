"""Equal tuning: the same trials for every contender, the choice by validation loss, edges refused or grids widened."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.data.files import now
from bench.records.environment import read_environment
from bench.records.record import Asked, Measurement, Record, RunCell, RunSnapshot, Status, Training
from bench.records.store import next_attempt, read_record, read_run, write_record, write_run
from bench.report import build
from bench.report.load import load_run
from bench.report.verdicts.answer import setting
from bench.report.verdicts.tuned import in_words, question, says, tunings
from bench.run import launch
from bench.run.job import CellJob, Job
from bench.run.tune.resolve import TrialSearch, tuned, widened
from bench.run.watch import Ended
from bench.shapes import Refusal
from bench.study.budget import Budget
from bench.study.matrix import Match, Study, load_study
from bench.study.trials import best, choose, contender_of, points, trial_study
from bench.study.tune import Tune, Tuning, TuningTrial, at_edge, full_name
from tests.commands import cell_folder, here, record_of, write_matrix
from tests.fake_launcher import FakeLauncher

LR = "optimizer.learning_rate"
BEST = {"UNet-XXS": 4e-3, "DiT-XXS/2": 8e-3}  # where the losses of the trials below are least
GRID = [2e-3, 4e-3, 8e-3, 1.6e-2]


def study_of(folder: Path, tune: dict[str, Any] | None = None, **changes: Any) -> Study:
    path = write_matrix(folder, tune={"learning_rate": GRID, "seeds": [100], **(tune or {})}, **changes)
    return load_study(str(path))


class Trials:
    """Trains nothing: the loss of a trial is a parabola in its rate, with its minimum where BEST says."""

    def __init__(self, status: Status = "ok"):
        self.studies: list[Study] = []
        self.status: Status = status

    def __call__(self, study: Study) -> list[Record]:
        self.studies.append(study)
        return [self.record(named, study.name) for named in study.cells]

    def record(self, named: Any, matrix: str) -> Record:
        cell = named.cell
        name = cell.backbone.partition(":")[2]
        loss = 1 + math.log2(cell.optimizer.learning_rate / BEST[name]) ** 2 + 0.01 * cell.seed / cell.budget.amount
        measured = Measurement(name="val_loss", value=loss, unit="1", better="lower", protocol={"clips": "a"})
        return Record(
            matrix=matrix,
            name=named.name,
            fingerprint=cell.fingerprint(),
            cell=cell,
            attempt=1,
            status=self.status,
            started_at=now(),
            ended_at=now(),
            environment=read_environment(),
            measurements=[measured],
        )

    @property
    def rates(self) -> list[float]:
        return sorted({named.cell.optimizer.learning_rate for study in self.studies for named in study.cells})


# --- what a matrix asks


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ({"learning_rat": [1, 2]}, "did you mean .*learning_rate"),
        ({"sampler.num_steps": [1, 2]}, "no field that can be tuned"),
        ({"objective.name": ["rectified_flow", "v_prediction"]}, "no field that can be tuned"),
        ({"batching.token_dropping": [None, {"rate": 0.5}]}, "no field that can be tuned"),  # a mapping; its rate can be
        ({"learning_rate": [1e-3]}, "two different values or more"),
        ({"learning_rate": [1e-3, 1e-3]}, "two different values or more"),
        ({"learning_rate": 1e-3}, "two different values or more"),
        ({}, "names no field to tune"),
        ({"learning_rate": [1e-3, 2e-3, 4e-3, 8e-3], "extend": True, "halving": 2}, "use one of the two"),
        ({"learning_rate": [1e-3, 2e-3, 4e-3], "halving": 2}, "needs 4 trials"),
        ({"learning_rate": list(range(1, 40)), "warmup_steps": list(range(40))}, "1,560 trials"),
        ({"learning_rate": [1e-3, 2e-3], "by": "fvd"}, "val_loss"),
    ],
)
def test_bad_tuning_is_refused_in_a_line(tune: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Tune.model_validate(tune)


def test_names_without_a_dot_are_the_optimisers() -> None:
    assert full_name("learning_rate") == LR
    assert full_name("batching.batch_size") == "batching.batch_size"
    assert Tune.model_validate({"learning_rate": [1, 2]}).grid == {LR: [1, 2]}


def test_a_study_seed_and_an_axis_are_no_tuning(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"tune.seeds has 0, which is a seed of the study"):
        study_of(tmp_path, {"seeds": [0, 100]})
    with pytest.raises(Refusal, match="can be compared or tuned, not both"):
        study_of(tmp_path, axes={"backbone": ["tests.small:UNet-XXS"], LR: [1e-3, 2e-3]})


def test_a_tuned_field_cannot_be_set_too(tmp_path: Path) -> None:
    path = str(write_matrix(tmp_path, tune={"learning_rate": GRID, "seeds": [100]}))
    with pytest.raises(Refusal, match=r"optimizer.learning_rate is tuned, and its choice would take the place; to set it: tune=null"):
        load_study(path, [f"{LR}=1e-3"])
    assert load_study(path, ["tune=null", f"{LR}=1e-3"]).cells[0].cell.optimizer.learning_rate == 1e-3
    tuning = finished(tmp_path / "results", study_of(tmp_path), Trials())
    study = load_study(str(write_matrix(tmp_path, tuned=str(tuning))), [f"{LR}=1e-3"])
    with pytest.raises(Refusal, match=r"optimizer.learning_rate is tuned"):
        tuned(study, lambda line: None, None)


# --- the trials


def test_trials_are_cells_without_samples_and_alike_for_all(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"seeds": [100, 101], "budget": {"steps": 5}}, seeds=[0, 1, 2])
    assert study.matrix.tune
    asked = dict.fromkeys({contender_of(named.cell, [LR]) for named in study.cells}, points({LR: GRID}))
    trials = trial_study(study, study.matrix.tune, asked)
    assert (trials.name, trials.matrix.primary, len(trials.cells)) == ("tiny-tuning", None, 2 * 4 * 2)
    for named in trials.cells:
        assert (named.cell.evaluation.num_samples, named.cell.evaluation.untrained, named.cell.budget) == (0, False, Budget(steps=5))
        assert named.cell.seed in (100, 101)
    each = {name: sorted(n.cell.optimizer.learning_rate for n in trials.cells if name in n.cell.backbone) for name in BEST}
    assert each["UNet-XXS"] == each["DiT-XXS/2"] == sorted(GRID * 2)
    assert len({named.name for named in trials.cells}) == len(trials.cells)


def test_contenders_that_differ_in_what_no_loss_sees_share_trials(tmp_path: Path) -> None:
    cells = [{"backbone": "tests.small:UNet-XXS", "sampler.num_steps": 2}, {"backbone": "tests.small:UNet-XXS", "sampler.num_steps": 3}]
    trials = Trials()
    found = tuned(study_of(tmp_path, axes={}, include=cells, match=None), lambda line: None, trials)
    assert len(trials.studies[0].cells) == len(GRID)
    assert [named.cell.optimizer.learning_rate for named in found.cells] == [4e-3, 4e-3]


def test_budgets_are_tuned_apart_unless_one_is_given(tmp_path: Path) -> None:
    cells = [{"backbone": "tests.small:UNet-XXS", "budget.steps": 40}, {"backbone": "tests.small:UNet-XXS", "budget.samples": 40}]
    for budget, num in ((None, 2), ({"steps": 40}, 1)):
        trials = Trials()
        path = write_matrix(tmp_path, axes={}, include=cells, match=None, tune={"learning_rate": GRID, "budget": budget})
        text = path.read_text().replace("  budget:\n    steps: 40\n", "", 1) if budget is None else path.read_text()
        path.write_text(text.replace("\n  budget:\n    steps: 40", "", 1))
        found = tuned(load_study(str(path)), lambda line: None, trials)
        assert len(trials.studies[0].cells) == num * len(GRID)
        tunings = [named.tuning for named in found.cells]
        assert [bool(tuning and tuning.differs) for tuning in tunings] == [False, budget is not None]


# --- the choice


def test_each_contender_gets_its_own_best_with_the_whole_curve(tmp_path: Path) -> None:
    trials = Trials()
    study = study_of(tmp_path, {"seeds": [100, 101]}, seeds=[0, 1])
    lines: list[str] = []
    found = tuned(study, lines.append, trials)
    for named in found.cells:
        name = named.cell.backbone.partition(":")[2]
        assert named.cell.optimizer.learning_rate == BEST[name]
        assert named.tuning
        assert named.tuning.chosen == {LR: BEST[name]}
        assert [trial.point[LR] for trial in named.tuning.trials] == GRID
        assert all(len(trial.losses) == 2 for trial in named.tuning.trials)
        assert (named.tuning.at_edge, named.tuning.differs, named.tuning.study) == ((), (), "tiny-tuning")
    assert lines == [f"tests.small:{name}: learning_rate {rate}, by val_loss of 4 trials" for name, rate in BEST.items()]
    assert [named.name for named in found.cells] == [named.name for named in study.cells]
    assert all(a.cell.fingerprint() != b.cell.fingerprint() for a, b in zip(found.cells, study.cells, strict=True))


def test_further_cells_take_the_choice_of_their_backbone_where_they_are_not_tuned(tmp_path: Path) -> None:
    include = [{"backbone": name, "data.num_train": 6} for name in ("tests.small:UNet-XXS", "tests.small:DiT-XXS/2")]
    study, train = study_of(tmp_path, {"further": False}, include=include), Trials()
    found = tuned(study, print, train)
    [trials] = train.studies
    assert len(trials.cells) == 2 * len(GRID) and not any(named.further for named in trials.cells)
    for named in found.cells:
        assert named.tuning is not None and named.cell.optimizer.learning_rate == BEST[named.cell.backbone.partition(":")[2]]
        assert bool(named.tuning.differs) == named.further
        if named.further:
            assert [each.partition(":")[0] for each in named.tuning.differs] == ["data.num_train"]
    every = Trials()
    tuned(study_of(tmp_path, include=include), print, every)
    assert len(every.studies[0].cells) == 4 * len(GRID)


def test_a_backbone_that_is_only_included_needs_trials(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"further": False}, include=[{"backbone": "tests.small:DiT-XXS/2{depth: 1}"}])
    with pytest.raises(Refusal, match=r"tune.further is false, and tests.small:DiT-XXS/2\{depth: 1\} of cell .* is under include alone"):
        tuned(study, print, Trials())


def test_an_edge_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"the best of tests.small:DiT-XXS/2, 0.008, is the last .*tune.extend=true"):
        tuned(study_of(tmp_path, {"learning_rate": GRID[:3]}), lambda line: None, Trials())


def test_a_grid_is_widened_for_all_until_no_best_is_at_an_edge(tmp_path: Path) -> None:
    trials = Trials()
    found = tuned(study_of(tmp_path, {"learning_rate": [1e-3, 2e-3], "extend": True}), lambda line: None, trials)
    assert trials.rates == [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
    last = trials.studies[-1].cells
    assert len({named.cell.backbone for named in last}) * 5 == len(last)  # everybody's grid, though one alone was at its edge
    assert {named.cell.optimizer.learning_rate for named in found.cells} == {4e-3, 8e-3}


def test_a_grid_is_not_widened_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BEST, "UNet-XXS", 1e9)
    with pytest.raises(Refusal, match="still at the end"):
        tuned(study_of(tmp_path, {"extend": True}), lambda line: None, Trials())


def test_widened_goes_on_by_ratio_and_keeps_whole_numbers() -> None:
    assert widened([2e-3, 1e-3], False) == [5e-4, 2e-3, 1e-3]
    assert widened([2, 4], True) == [2, 4, 8]
    assert widened([0.0, 0.1], False) == [0.0, 0.1]
    assert widened([1, 2], False) == [1, 2]  # half a clip is none


def test_halving_spends_less_and_ends_at_the_full_budget(tmp_path: Path) -> None:
    trials = Trials()
    grid = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128]
    found = tuned(study_of(tmp_path, {"learning_rate": grid, "halving": 2}), lambda line: None, trials)
    rungs = [(len(study.cells) // 2, study.cells[-1].cell.budget.amount) for study in trials.studies]
    assert rungs == [(8, 10), (12, 20), (14, 40)]  # every rung lists those before it
    assert {named.cell.optimizer.learning_rate for named in found.cells} == {4e-3, 8e-3}
    for named in found.cells:
        assert named.tuning
        assert len(named.tuning.trials) == 14
        assert {trial.budget.amount for trial in named.tuning.full} == {40}
        assert named.tuning.differs == ()


def test_a_trial_without_a_result_is_no_choice(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    with pytest.raises(Refusal, match=r"trial UNet-XXS-learning_rate=0.002-seed100 of tiny-tuning failed"):
        tuned(study, lambda line: None, Trials("failed"))
    with pytest.raises(Refusal, match="no trial of tiny-tuning has a finite loss"):
        tuned(study, lambda line: None, Trials("diverged"))


def test_what_diverges_at_one_seed_is_not_chosen() -> None:
    def trial(rate: float, *losses: float | None) -> TuningTrial:
        return TuningTrial(point={LR: rate}, budget=Budget(steps=4), losses=tuple(enumerate(losses)))

    trials = [trial(1e-3, 0.9, 0.8), trial(2e-3, 0.1, None), trial(4e-3, 0.5, 0.6), trial(8e-3, 0.6, 0.5), trial(1.6e-2, 0.7, 0.7)]
    assert choose(trials, "val_loss", "x").chosen == {LR: 4e-3}
    assert best(trials, 2) == [{LR: 4e-3}, {LR: 8e-3}]
    assert at_edge({LR: [1, 2, 3], "batching.token_dropping": [None, 0.5]}, {LR: 2, "batching.token_dropping": None}) == ()


def course(other_cpu_share: float) -> Training:
    return Training(num_steps=1, num_warmup_steps=0, validation_by_timestep={}, other_cpu_share=other_cpu_share)


@pytest.mark.parametrize(
    ("quiet", "is_trial", "budget", "attempts"),
    [(True, True, "seconds", 3), (False, True, "seconds", 2), (True, False, "seconds", 2), (True, True, "steps", 2)],
)
def test_a_trial_that_others_disturbed_trains_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool, is_trial: bool, budget: str, attempts: int
) -> None:
    """Where the machine was quiet before and the budget is seconds; only then does its loss tell another rate than it trained with."""
    said, shares = list[str](), [0.5, 0.0, 0.1]
    path = write_matrix(tmp_path, axes={"backbone": ["tests.small:UNet-XXS"]}, match=None, tune={"learning_rate": GRID, "seeds": [100]})
    tuned_study = load_study(str(path), [f"budget={{{budget}: 9}}"])
    tune = tuned_study.matrix.tune
    assert tune
    trials = trial_study(tuned_study, tune, {contender_of(tuned_study.cells[0].cell, tune.grid): [{LR: 1e-3}, {LR: 2e-3}]})

    def run_cell(job: Job) -> Ended:
        assert isinstance(job, CellJob)
        assert {kept.name for kept in job.folder.glob("*")} <= {"disturbed.json"}  # nothing of a disturbed attempt is gone on with
        made = Trials().record(job.cell, job.matrix).model_copy(update={"training": course(shares.pop(0))})
        write_record(job.folder, made)
        return Ended(word="done")

    launcher = FakeLauncher(run_cell)
    launcher.spins = quiet
    monkeypatch.setattr(launch, "_prepare", lambda *given: {})
    study = trials if is_trial else trials.model_copy(update={"tunes": None})
    records = launch.run_study(study, tmp_path / "results", said.append, "c", launcher)
    assert len(records) == 2 and 3 - len(shares) == attempts
    assert [line for line in said if "trains once more" in line] == [
        f"{study.cells[0].name}: others took 50 % of the processors, so that its seconds taught less; it trains once more"
    ] * (attempts - 2)
    aside = [read_record(path).training for path in tmp_path.rglob("disturbed.json")]
    assert [training and training.other_cpu_share for training in aside] == [0.5] * (attempts - 2)
    assert next_attempt(tmp_path / "results" / study.name / study.cells[0].folder) == 2  # it is none of the attempts


# --- a finished tuning


def finished(folder: Path, study: Study, trials: Trials) -> Path:
    """The folder of a run of trials, as `run` leaves it."""
    tune = study.matrix.tune
    assert tune
    search = TrialSearch(study, tune, trials)
    search.run()
    own = trials.studies[-1]
    cells = tuple(RunCell(name=c.name, axes=c.axes, seed=c.cell.seed, fingerprint=c.cell.fingerprint(), folder=c.folder) for c in own.cells)
    write_run(folder, RunSnapshot(matrix=own.name, cells=cells, tunes=own.tunes, match=Match(by="params")))
    for named in own.cells:
        write_record(folder / own.name / named.folder, trials.record(named, own.name))
    return folder / own.name


def test_a_finished_tuning_is_taken_with_what_differs(tmp_path: Path) -> None:
    path = finished(tmp_path / "results", study_of(tmp_path), Trials())
    study = load_study(str(write_matrix(tmp_path, tuned=str(path), seeds=[0, 1])))
    found = tuned(study, lambda line: None, None)
    assert {named.cell.optimizer.learning_rate for named in found.cells} == {4e-3, 8e-3}
    assert all(named.tuning and not named.tuning.differs for named in found.cells)
    other = load_study(str(write_matrix(tmp_path, tuned=str(path))), ["data.num_train=9", "budget.steps=41"])
    for named in tuned(other, lambda line: None, None).cells:
        assert named.tuning
        assert named.tuning.differs == ("budget.steps: 40 | 41", "data.num_train: 8 | 9")


def test_a_run_of_trials_names_each_contender_with_what_it_has_of_its_own(tmp_path: Path) -> None:
    study = study_of(tmp_path, include=[{"backbone": "tests.small:UNet-XXS", "budget.steps": 80}])
    trials = Trials()
    run = load_run(finished(tmp_path / "results", study, trials))
    assert list(tunings(run)) == ["UNet-XXS", "DiT-XXS/2", "UNet-XXS, steps 80"]
    assert question(run) == "Which learning rate suits each contender?"
    assert setting(run)[0] == "UNet-XXS, DiT-XXS/2 and UNet-XXS (steps 80)"
    assert says(run)[0].endswith("at 0.004 for UNet-XXS and UNet-XXS (steps 80) and 0.008 for DiT-XXS/2.")
    assert in_words("DiT{depth: 8, patch: [1, 1]}, steps 80") == "DiT{depth: 8, patch: [1, 1]} (steps 80)"
    # further contenders need match nobody, and so their trials need not either
    assert {named.further for named in trials.studies[-1].cells if named.cell.budget.amount == 80} == {True}
    assert {named.further for named in trials.studies[-1].cells if named.cell.budget.amount == 40} == {False}


def test_a_page_of_trials_has_no_place_for_clips(tmp_path: Path) -> None:
    build([finished(tmp_path / "results", study_of(tmp_path), Trials())], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert 'id="comparison"' in text and "samples" not in re.findall(r'(?:id="|href="#)([\w-]+)', text)
    assert "no clips to show" not in text


def test_a_wider_grid_is_no_change_of_what_is_asked(tmp_path: Path) -> None:
    run = load_run(finished(tmp_path / "results", study_of(tmp_path), Trials()))
    first = run.cells[0].record
    assert first
    asked = first.model_copy(update={"asked": Asked(cells=(run.cells[0].path.name,))})
    cells = [run.cells[0].model_copy(update={"record": asked}), *run.cells[1:]]
    trials, study = (run.model_copy(update={"cells": cells, "tunes": tunes}) for tunes in (run.tunes, None))
    assert not trials.changed
    assert study.changed == "cells changed after others had finished (7 added)"


def test_who_was_not_tuned_stays_as_the_matrix_says(tmp_path: Path) -> None:
    path = finished(tmp_path / "results", study_of(tmp_path, axes={"backbone": ["tests.small:UNet-XXS"]}), Trials())
    lines: list[str] = []
    found = tuned(load_study(str(write_matrix(tmp_path, tuned=str(path)))), lines.append, None)
    assert [bool(named.tuning) for named in found.cells] == [True, False]
    assert "tests.small:DiT-XXS/2" in lines[0]


@pytest.mark.parametrize(("tuned_as", "said"), [("nowhere", "there is no folder nowhere"), ("results/reference/quick", "tunes nothing")])
def test_a_tuning_that_is_none_is_refused(tmp_path: Path, tuned_as: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        tuned(load_study(str(write_matrix(tmp_path, tuned=tuned_as))), lambda line: None, None)


# --- end to end


def test_a_matrix_tunes_then_runs_and_its_records_tell(tmp_path: Path) -> None:
    results = tmp_path / "results"
    matrix = write_matrix(
        tmp_path,
        axes={"backbone": ["tests.small:DiT-XXS/2"]},
        match=None,
        tune={"learning_rate": [1e-5, 1e-2, 1e9], "seeds": [100], "budget": {"steps": 12}},
    )
    told = here("validate", matrix, "--results", results)
    assert "tuned first, by 3 trials: contenders 1, points 3, seeds 1" in told.stdout
    done = here("run", matrix, "--results", results)
    assert done.returncode == 0, done.stderr
    record = record_of(results, "DiT-XXS_2-seed0")
    assert isinstance(record.tuning, Tuning)
    assert record.tuning.chosen == {LR: 1e-2} == {LR: record.cell.optimizer.learning_rate}
    assert record.tuning.differs == ("budget.steps: 12 | 40",)
    losses = {trial.point[LR]: trial.losses[0][1] for trial in record.tuning.trials}
    assert (losses[1e9] or math.inf) > 1e3 > (losses[1e-2] or 0) > 0
    run = read_run(results / "tiny-tuning")
    assert run.tunes == load_study(str(matrix)).matrix.tune
    assert read_run(results / "tiny").asks_tuning
    trials = [record_of_trial(results, cell.name) for cell in run.cells]
    assert all(not trial.artefacts.keys() - {"weights"} and trial.measurement("val_loss") for trial in trials if trial.status == "ok")
    assert all(trial.canaries == trials[0].canaries for trial in trials)
    assert here("report", results / "tiny-tuning", "--out", tmp_path / "out").returncode == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Of 3 learning rates tried, validation loss is least at 0.01 for DiT-XXS/2." in page
    assert 'id="verdicts"' not in page  # nobody leads among values of one field
    again = here("run", matrix, "--results", results)
    assert "3 finished before, 0 to run" in again.stdout
    assert "1 finished before, 0 to run" in again.stdout


def record_of_trial(results: Path, name: str) -> Record:
    from bench.records.store import latest

    record = latest(cell_folder(results, name, "tiny-tuning"))
    assert record
    return record
