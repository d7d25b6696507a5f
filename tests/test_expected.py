"""How long a study will take: the arithmetic against committed records and by hand, where paces come from, and what is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import bench.run.expected.earlier
import bench.run.expected.estimate
import bench.run.expected.measure
import bench.run.launch
import bench.run.process
from bench.data.physics.table import WORLDS
from bench.data.sealed import write_sealed
from bench.records.environment import read_environment
from bench.records.record import Record
from bench.records.store import read_record, read_run, write_record, write_run
from bench.run.expected.earlier import Earlier
from bench.run.expected.estimate import TimeEstimate
from bench.run.expected.fit import planned, smaller, within
from bench.run.expected.measure import measured
from bench.run.expected.model import START_S, phases_of, runs_of
from bench.run.expected.pace import RAN_S, Pace, lacking, merged, of_record
from bench.run.expected.words import about, lines
from bench.run.job import PaceJob
from bench.run.launch import _snapshot
from bench.shapes import Refusal
from bench.study.matrix import NamedCell, Study, load_study
from bench.study.scale import Scaling
from tests.commands import PACE, ROOT, Done, here, write_matrix
from tests.tiny import tiny_cell

REFERENCE = ROOT / "results" / "reference"


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which threads wait calmly."""
    monkeypatch.setattr(bench.run.expected.estimate, "is_quiet", lambda: False)


@pytest.fixture(scope="module")
def records() -> dict[str, list[Record]]:
    """Committed records, by contender of their run; the first of each ran its canaries."""
    found: dict[str, list[Record]] = {}
    for path in sorted([*REFERENCE.glob("quick/*/attempt-*.json"), *REFERENCE.glob("shapes/*/attempt-*.json")]):
        record = read_record(path)
        found.setdefault(f"{record.matrix} {record.name.partition('-seed')[0]}", []).append(record)
    return found


def test_a_record_says_how_long_its_own_cell_took_phase_by_phase(records: dict[str, list[Record]]) -> None:
    for record in [record for own in records.values() for record in own]:
        pace = of_record(record, quality=True)
        assert not lacking(record.cell, pace, shared=True)
        took = dict(record.time_split_s)
        found = phases_of(record.cell, pace, canaries=took["canaries"] > RAN_S)
        if "canaries" not in found:  # they run with the first seed
            took["canaries"] = 0.0
        for phase in ("training", "canaries", "sampling", "quality", "shape grid"):
            exact = 0.01 if phase == "training" else 1e-6  # the last step goes over a budget in seconds
            assert found.get(phase, 0.0) == pytest.approx(took.get(phase, 0.0), rel=exact), phase
        assert sum(found.values()) - START_S == pytest.approx(sum(took.values()), rel=0.02)


def test_a_record_of_one_seed_tells_the_time_of_another(records: dict[str, list[Record]]) -> None:
    apart = []
    for own in records.values():
        for record in own[1:]:
            found = phases_of(record.cell, of_record(own[0], quality=True), canaries=record.time_split_s["canaries"] > RAN_S)
            apart.append((sum(found.values()) - START_S) / sum(record.time_split_s.values()))
    assert len(apart) == 16 and min(apart) > 0.85 and max(apart) < 1.15


def test_records_tell_the_times_of_steps_in_the_units_of_every_budget(records: dict[str, list[Record]]) -> None:
    record = records["shapes DiT-XS_2-policy=pack"][0]
    assert record.training
    pace, training = of_record(record, quality=True), record.training
    for axis, used in {
        "steps": training.num_steps,
        "samples": training.num_samples,
        "latent_voxels": sum(work[2] for work in training.step_work),
        "train_flops": 3.0 * sum(work[4] for work in training.step_work),
    }.items():
        same = record.cell.model_copy(update={"budget": type(record.cell.budget)(**{axis: used})})
        assert phases_of(same, pace, canaries=True)["training"] == pytest.approx(record.time_split_s["training"])


def test_the_arithmetic_by_hand() -> None:
    evaluation = {"extractors": ["random3d"], "num_samples": 4, "points": [0.25, 0.5], "grid": [[4, 16, 16]], "grid_samples": 2}
    cell = tiny_cell(evaluation=evaluation, sampler={"num_steps": 3, "guidance_scale": 2.0}, budget={"steps": 10})
    assert phases_of(cell, PACE, canaries=False) == pytest.approx(
        {
            "start": START_S,
            "training": 10 * 0.5 + (7 * 4 + 4) * 0.1,  # seven points of the curve and the end, all 4 validation clips each
            "rest": 0.1,
            "untrained model": 4 * (6 * 0.1 + 0.1),  # 4 clips, 3 steps, each guided
            "sampling": 4 * (6 * 0.1 + 0.1),
            "quality": 4 * 2 * 0.1,
            "quality on the way": 2 * 4 * (6 * 0.1 + 0.1),
            "shape grid": 1 * 2 * 6 * 0.1,
            "physics": 0.0,
        }
    )
    trial = tiny_cell(evaluation={"extractors": ["random3d"], "num_samples": 0, "untrained": False}, budget={"seconds": 20})
    assert phases_of(trial, PACE, canaries=True) == pytest.approx({"start": START_S, "training": 20 + 3.2, "canaries": 0.1})
    silent = PACE.model_copy(update={"canaries_s": None})
    assert phases_of(trial, silent, canaries=True)["canaries"] == 25 * 0.5


def test_the_arithmetic_of_physics_by_hand() -> None:
    """Clips of two regions with what they cost, and three pairs of every law at ten timesteps, trained and untrained."""
    data = {"source": "physics", "world": "motion", "num_frames": 8, "height": 40, "width": 40, "num_train": 8, "num_val": 4, "num_test": 4}
    evaluation = {"extractors": ["random3d"], "num_samples": 4, "regions": ["in", "out"], "region_samples": 5, "twins": 3}
    cell = tiny_cell(data=data, objective={"known_frames": 2}, evaluation=evaluation, sampler={"num_steps": 6})
    pace = Pace(budget_s={"steps": 1.0}, eval_s=0.1, clip_s=0.5)
    laws = len(WORLDS.find("motion").twins)
    assert phases_of(cell, pace, canaries=False)["physics"] == pytest.approx(2 * 5 * (6 * 0.1 + 0.5) + laws * 3 * 2 * 2 * 10 * 0.1)


def test_of_several_paces_the_first_that_knows_a_part_counts() -> None:
    found = merged([Pace(eval_s=1.0), Pace(eval_s=2.0, clip_s=3.0, budget_s={"steps": 4.0})])
    assert (found.eval_s, found.clip_s, found.budget_s) == (1.0, 3.0, {"steps": 4.0})
    assert "budget_s" in lacking(tiny_cell(), Pace(), shared=True) and not lacking(tiny_cell(), PACE, shared=True)


class Runs:
    """Stands in for what runs a study: nothing is trained, and each cell has a record of its own seed that took a given time."""

    def __init__(self, results: Path, like: Record):
        self.results, self.like = results, like
        self.studies: list[Study] = []

    def __call__(self, study: Study, results: Path, say: Any, command: str, launcher: Any) -> list[Record]:
        self.studies.append(study)
        assert (results.resolve(), command.startswith("python -m bench")) == (self.results.resolve(), True)
        write_run(results.resolve(), _snapshot(study, "now", command))
        made = [self._record(study.name, named) for named in study.cells]
        for named, record in zip(study.cells, made, strict=True):
            write_record(self.results / study.name / named.folder, record)
        return made

    def _record(self, run: str, named: NamedCell) -> Record:
        here_now = read_environment(num_threads=1, device="cpu")
        own = {"matrix": run, "name": named.name, "cell": named.cell, "fingerprint": named.cell.fingerprint(), "environment": here_now}
        return self.like.model_copy(update=own)

    def run(self, *arguments: object) -> Done:
        """A command, with `run` as here."""
        with mock.patch.object(bench.run.launch, "run_study", self):
            return here("run", *arguments, "--results", self.results, OMP_NUM_THREADS="1")


@pytest.fixture
def runs(tmp_path: Path, records: dict[str, list[Record]]) -> Runs:
    return Runs(tmp_path / "results", records["quick UNet-XS"][0])


def test_run_says_beforehand_how_long_it_takes(tmp_path: Path, runs: Runs) -> None:
    path = write_matrix(tmp_path, seeds=[0, 1])
    done = runs.run(path, "budget.steps=4")
    assert done.returncode == 0, done.stderr
    # 4 x .5 s of steps, 32 validation clips, 2 x 4 clips of 2 evaluations, 4 x 2 clips scored; the first of a contender has canaries.
    assert "UNet-XXS: about 15 s (seeds 0, 1)" in done.stdout
    assert "tiny: 4 cells to run, about 1 min 10 s, of which 10 s for what cells share" in done.stdout
    assert "a few steps of each are timed" in done.stdout
    again = runs.run(path, "budget.steps=4")
    assert "tiny: all 4 cells finished before" in again.stdout and "steps are timed" not in again.stdout


def test_earlier_records_tell_of_another_budget_and_another_number_of_samples(tmp_path: Path, runs: Runs) -> None:
    path = write_matrix(tmp_path, seeds=[0, 1])
    runs.run(path, "budget.steps=4")
    study = load_study(str(path), ["budget.steps=2000", "evaluation.num_samples=3", "seeds=[1,2]", "device=cpu"])
    estimate = TimeEstimate(runs.results, print)
    with mock.patch.object(bench.run.process, "JobProcess", side_effect=AssertionError), mock.patch.dict("os.environ", OMP_NUM_THREADS="1"):
        estimate.learn(study)  # measures nothing
    (expected,) = estimate.expected(study)
    first, second = (cell for cell in expected.cells if "UNet" in cell.named.name)
    training = runs.like.training
    assert training and first.phases_s and second.phases_s
    beside_s = runs.like.time_split_s["training"] - training.wall_time_s  # as many clips are looked at: the cells have the same data
    assert first.phases_s["training"] == pytest.approx(2000 * training.wall_time_s / training.num_steps + beside_s)
    assert runs.like.sampling and "untrained" in runs.like.artefacts  # whose clips are scored too, there and here
    assert first.phases_s["quality"] == pytest.approx(3 * runs.like.time_split_s["quality"] / runs.like.sampling.num_clips)
    assert "canaries" in first.phases_s and "canaries" not in second.phases_s


def test_measured_once_for_the_same_work_and_again_with_other_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[PaceJob] = []

    def measure(job: PaceJob) -> None:
        jobs.append(job)
        for _, out in job.cells:
            write_sealed(out, out.stem, PACE)

    monkeypatch.setattr(bench.run.expected.estimate, "run_job", measure)
    monkeypatch.setattr(bench.run.expected.estimate, "is_busy", lambda: False)
    path = write_matrix(tmp_path)
    for overrides, num_jobs in ((), 1), (("seeds=[3]", "budget.steps=7"), 1), (("precision=bf16",), 2):
        TimeEstimate(tmp_path, print).learn(load_study(str(path), ["device=cpu", *overrides]))
        assert len(jobs) == num_jobs
    assert [cell.backbone for cell, _ in jobs[0].cells] == ["tests.small:UNet-XXS", "tests.small:DiT-XXS/2"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    TimeEstimate(tmp_path, print).learn(load_study(str(path), ["device=cpu"]))
    assert len(jobs) == 3


def test_trials_are_not_timed_beside_the_cells_that_they_are_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[PaceJob] = []
    monkeypatch.setattr(bench.run.expected.estimate, "run_job", jobs.append)
    study = load_study(str(write_matrix(tmp_path, tune={"learning_rate": [1e-3, 2e-3], "seeds": [100]})), ["device=cpu"])
    TimeEstimate(tmp_path, print).learn(study)
    assert [cell.evaluation.num_samples for cell, _ in jobs[0].cells] == [4, 4]


def test_what_was_timed_on_a_busy_machine_is_said_so_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def measure(job: PaceJob) -> None:
        for _, out in job.cells:
            write_sealed(out, out.stem, PACE)

    monkeypatch.setattr(bench.run.expected.estimate, "run_job", measure)
    study = load_study(str(write_matrix(tmp_path)), ["device=cpu"])
    for load, kept in ((100.0, 0), (0.0, 2)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        estimate = TimeEstimate(tmp_path, print)
        estimate.learn(study)
        assert len(estimate.paces) == 2 and estimate.total_s(study) > 0
        assert ("on an idle one it takes less" in capsys.readouterr().out) == (kept == 0)
        assert len(list((tmp_path / "cache" / "pace").glob("*.json"))) == kept


def test_a_pace_is_measured_in_a_few_steps() -> None:
    pace = measured(tiny_cell(evaluation={"extractors": ["random3d"], "num_samples": 4}))
    assert not lacking(tiny_cell(evaluation={"extractors": ["random3d"], "num_samples": 4, "points": [0.5]}), pace, shared=True)
    # Two clips of 4 x 4 x 4 voxels in a step.
    assert pace.budget_s["steps"] == pytest.approx(2 * pace.budget_s["samples"]) == pytest.approx(128 * pace.budget_s["latent_voxels"])
    assert all(0 < value < 5 for name, value in pace if isinstance(value, float))


def test_a_backbone_that_cannot_be_timed_is_said_to_be_unknown_and_stops_nothing(tmp_path: Path, runs: Runs) -> None:
    path = write_matrix(tmp_path)
    with mock.patch.object(bench.run.expected.measure, "write_sealed", side_effect=RuntimeError("broken")):
        refused = runs.run(path, "--budget-minutes", "1")
        assert refused.returncode == 2 and "so it cannot be made to fit a time; leave out --budget-minutes" in refused.stderr
        assert not runs.studies
        done = runs.run(path)
    assert done.returncode == 0, done.stderr
    assert "UNet-XXS-seed0: not known: its steps could not be timed" in done.stdout and "2 cells to run, at least" in done.stdout


def test_records_of_another_machine_tell_nothing(tmp_path: Path, records: dict[str, list[Record]]) -> None:
    record = records["quick UNet-XS"][0]
    folder = f"{record.name}-{record.fingerprint[:8]}"
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / folder).symlink_to(REFERENCE / "quick" / folder)

    def found(threads: int, spins: bool = True, **environment: Any) -> Pace:
        now = record.environment.model_copy(update=environment)
        with (
            mock.patch.object(bench.run.expected.earlier, "read_environment", lambda: now),
            mock.patch.dict("os.environ", OMP_NUM_THREADS=str(threads)),
        ):
            return Earlier(tmp_path, spins=spins).pace(record.cell)

    assert found(2).eval_s == of_record(record, quality=True).eval_s
    assert found(1) == found(2, spins=False) == found(2, cpu="another") == found(2, num_cpus=64) == found(2, gpus=["H100"]) == Pace()


def test_what_is_no_record_tells_nothing(tmp_path: Path) -> None:
    for number, text in enumerate(("", "[", '{"cell": {', '{"cell": {"backbone": 1}}', '{"cell": {"autoencoder": 3}, "status": "ok"}')):
        folder = tmp_path / "run" / f"cell{number}"
        folder.mkdir(parents=True)
        (folder / "attempt-1.json").write_text(text)
    (tmp_path / "run" / "pipe" / "attempt-1.json").mkdir(parents=True)
    assert Earlier(tmp_path).found == [] and Earlier(tmp_path).pace(tiny_cell()) == Pace()


def estimate_of(results: Path, pace: Callable[[], Pace] = lambda: PACE) -> TimeEstimate:
    """An estimate that has a pace for everything."""
    estimate = TimeEstimate(results, print)
    mock.patch.object(estimate.earlier, "pace", lambda cell: pace()).start()
    return estimate


def study_of(folder: Path, **changes: Any) -> Study:
    return load_study(str(write_matrix(folder, **changes)), ["device=cpu", "budget.steps=1000"])


def test_trials_are_told_too(tmp_path: Path) -> None:
    tune = {"learning_rate": [1e-3, 2e-3, 4e-3, 8e-3], "seeds": [100], "budget": {"steps": 100}}
    study = study_of(tmp_path, tune=tune)
    estimate = estimate_of(tmp_path)
    estimate.learn(study)
    trials, own = estimate.expected(study)
    assert (trials.run, own.run) == ("tiny-tuning", "tiny") and len(trials.cells) == 8
    each = START_S + 100 * 0.5 + 3.2
    assert sum(cell.seconds for cell in trials.cells) == pytest.approx(8 * each + 2 * 0.1)  # canaries of each backbone once
    assert own.shared_s < trials.shared_s  # the autoencoder is there by then
    assert lines([trials, own])[0] == f"  UNet-XXS: about {about(each)} (4 trials)"
    assert lines([trials, own])[-1] == f"about {about(trials.seconds + own.seconds)} in all"
    halving = study_of(tmp_path, tune=tune | {"halving": 2})
    first, _ = runs_of(halving)
    steps = [named.cell.budget.amount for named in first.cells if "UNet" in named.name]
    assert sorted(steps) == [50, 50, 50, 50, 100, 100]


def test_a_study_that_fits_is_left_as_it_is(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert within(study, 1000, estimate_of(tmp_path)) is study


def test_a_study_is_scaled_until_it_fits(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=[0, 1, 2])
    estimate = estimate_of(tmp_path)
    estimate.learn(study)
    full_s = estimate.total_s(study)
    found = within(study, 20, estimate)
    assert found.name == "tiny-20min" and len(found.cells) == 6 and full_s > 3000
    assert 0.95 * 1200 < estimate.total_s(found) <= 1200
    (steps,) = {named.cell.budget.amount for named in found.cells}
    assert found.scaling and found.scaling.changes[0] == f"budget.steps 1000 -> {steps:g}"
    assert found.matrix.description.endswith(found.scaling.text) and found.scaling.text.startswith("Scaled to 20 minutes: budget.steps")
    # Where starting processes would take over half of the time, seeds go, and those that are left train longer.
    for minutes, num_seeds in ((4, 3), (3, 2), (2, 1)):
        fewer = within(study, minutes, estimate)
        assert fewer.matrix.seeds == [0, 1, 2][:num_seeds] and len(fewer.cells) == 2 * num_seeds
        assert fewer.scaling and (f"seeds 3 -> {num_seeds}" in fewer.scaling.changes) == (num_seeds < 3)
        assert 0.9 * 60 * minutes < estimate.total_s(fewer) <= 60 * minutes
    with pytest.raises(Refusal, match=r"too short for tiny: with one seed and the least of everything it takes about .*; give \d+ or more"):
        within(study, 0.1, estimate)


def test_a_study_that_goes_on_is_scaled_as_it_was_begun(tmp_path: Path, runs: Runs) -> None:
    path = write_matrix(tmp_path)
    first = runs.run(path, "--budget-minutes", "0.8")
    assert first.returncode == 0, first.stderr
    run = read_run(runs.results / "tiny-0.8min")
    assert run.scaling and run.scaling.minutes == 0.8 and run.scaling.text in first.stdout and run.description.endswith(run.scaling.text)
    assert f"report {runs.results / 'tiny-0.8min'}" in first.stdout.replace("\n", "")
    (steps,) = {named.cell.budget.amount for named in runs.studies[0].cells}
    assert steps < 40
    again = runs.run(path, "--budget-minutes", "0.8")  # paces are others by now: those of the records
    assert "all 2 cells finished before" in again.stdout and read_run(runs.results / "tiny-0.8min").cells == run.cells
    assert not (runs.results / "tiny").exists()
    study = load_study(str(path), ["device=cpu", "budget.steps=30"])  # another matrix is not bound to it
    other = within(study, 0.8, estimate_of(runs.results)).scaling
    assert other and other.of != run.scaling.of
    # Begun with its trials, of which there is a run before there is one of the study.
    (runs.results / "tiny-0.8min").rename(runs.results / "tiny-0.8min-tuning")
    same = load_study(str(path), ["device=cpu"])
    assert within(same, 0.8, estimate_of(runs.results)).scaling == run.scaling


def test_scaling_reaches_every_part_and_every_form_of_a_matrix(tmp_path: Path) -> None:
    own = [{"backbone": "tests.small:UNet-XXS", "budget.steps": 160}, {"backbone": "tests.small:DiT-XXS/2", "budget.steps": 400}]
    tune = {"learning_rate": [1e-3, 2e-3, 4e-3, 8e-3], "seeds": [100, 101], "halving": 2, "budget": {"steps": 8}}
    study = load_study(str(write_matrix(tmp_path, axes={}, include=own, match=None, tune=tune, seeds=[0, 1])))
    found = smaller(study, Scaling(minutes=5, share=0.1, num_seeds=1, of="", changes=()))
    assert [named.name for named in found.cells] == ["UNet-XXS-steps=16-seed0", "DiT-XXS_2-steps=40-seed0"]
    assert [named.axes["budget.steps"] for named in found.cells] == [16, 40]
    assert found.scaling
    assert {"budget.steps 160 -> 16", "budget.steps 400 -> 40", "seeds 2 -> 1", "tune.seeds 2 -> 1"} <= set(found.scaling.changes)
    assert found.matrix.tune and found.matrix.tune.seeds == (100,)
    assert found.matrix.tune.budget and found.matrix.tune.budget.amount == 2  # of which the first trials of halving have 1
    trials, _ = runs_of(found)
    assert trials.name == "tiny-5min-tuning" and trials.scaling == found.scaling
    budgets = {"backbone": ["tests.small:UNet-XXS"], "budget.steps": [1, 2]}
    narrow = load_study(str(write_matrix(tmp_path, axes=budgets, match=None)))
    with pytest.raises(Refusal, match="leaves nothing between"):
        smaller(narrow, Scaling(minutes=5, share=0.1, num_seeds=1, of="", changes=()))


def test_planned_says_what_was_changed_first(tmp_path: Path) -> None:
    said: list[str] = []
    study = study_of(tmp_path)
    with mock.patch.object(Earlier, "pace", lambda self, cell: PACE):
        planned(study, tmp_path, said.append, 5)
    assert said[0].startswith("tiny-5min: Scaled to 5 minutes: budget.steps 1000 -> ") and said[-1].startswith(
        "tiny-5min: 2 cells to run, about"
    )
