"""`run --until-decided`: whose seeds are added, when it ends, what it says, and that the page judges it by its looks."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from report_factory import environment

from bench.commands import decide
from bench.commands.decide import run_until_decided
from bench.data.files import now
from bench.records.record import Measurement, Record
from bench.records.store import latest, write_record, write_run
from bench.report.load import load_run
from bench.report.verdicts.findings import find
from bench.run import launch
from bench.shapes import Refusal
from bench.study.looks import Looks
from bench.study.matrix import Study, load_study
from tests.commands import here, write_matrix

Value = Callable[[str, int], float]  # of a backbone at a seed
THREE = ["tests.small:UNet-XXS", "tests.small:DiT-XXS/2", "tests.small:DiT-XXS/2{depth: 3}"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[[Value], list[list[int]]]:
    """Cells are not trained: their distance is what a function says. The seeds of every pass, as far as they were new."""

    def install(value: Value) -> list[list[int]]:
        passes: list[list[int]] = []

        def run_study(study: Study, results: Path, say: object, command: str, launcher: object) -> list[Record]:
            new, records = [], []
            for named in study.cells:
                folder = results / study.name / named.folder
                if (record := latest(folder)) is None:
                    new.append(named.cell.seed)
                    distance = value(named.cell.backbone.partition(":")[2], named.cell.seed)
                    record = Record(
                        matrix=study.name,
                        name=named.name,
                        fingerprint=named.cell.fingerprint(),
                        cell=named.cell,
                        asked=launch._jobs(study, results)[named.name].asked,
                        attempt=1,
                        status="ok",
                        started_at=now(),
                        ended_at=now(),
                        environment=environment(),
                        time_split_s={"training": 60.0},
                        measurements=[Measurement(name="fvd@4", value=distance, unit="1", better="lower", protocol={"extractor": "i3d"})],
                    )
                    write_record(folder, record)
                records.append(record)
            passes.append(new)
            write_run(results, launch._snapshot(study, now(), command))
            return records

        monkeypatch.setattr(decide, "run_study", run_study)
        monkeypatch.setattr(decide, "ready", lambda study, results, say, train, launcher: study)
        return passes

    return install


def study_of(folder: Path, backbones: Sequence[str] = THREE[:2], **changes: object) -> Study:
    return load_study(str(write_matrix(folder, axes={"backbone": list(backbones)}, match=None, primary="fvd", **changes)))


def noisy(name: str, seed: int) -> float:
    """A difference that three seeds do not carry."""
    return 100 + 3 * (seed * 7 % 5) - (4 if "DiT" in name else 0)


def test_a_clear_difference_needs_three_seeds(tmp_path: Path, trained: Callable[[Value], list[list[int]]]) -> None:
    passes, lines = trained(lambda name, seed: (10.0 if "DiT" in name else 100.0) + 0.01 * seed), list[str]()
    records = run_until_decided(study_of(tmp_path), tmp_path / "results", lines.append, "python -m bench run tiny --until-decided", None)
    assert passes == [[0, 1, 2, 0, 1, 2]]
    assert len(records) == 6
    assert lines == ["tiny: decided: DiT-XXS/2 leads"]
    run = load_run(tmp_path / "results" / "tiny")
    assert run.until_decided == run.records[0].asked.until_decided == Looks()
    assert find(run).conclusion.state == "leads"
    assert not run.changed


def test_seeds_are_added_pair_by_pair_and_said_beforehand(tmp_path: Path, trained: Callable[[Value], list[list[int]]]) -> None:
    passes, lines = trained(noisy), list[str]()
    run_until_decided(study_of(tmp_path, seeds=[0]), tmp_path / "results", lines.append, "c", None)
    assert passes[:3] == [[0, 1, 2, 0, 1, 2], [3, 3], [4, 4]]
    assert 3 < len(passes) <= 10
    assert lines[0].startswith("tiny: one more seed for ")
    assert "expected: about " in lines[0] and " more seeds each, about " in lines[0]
    run = load_run(tmp_path / "results" / "tiny")
    assert not run.changed  # seeds that the rule adds change nothing that was asked


def test_it_goes_on_where_it_was(tmp_path: Path, trained: Callable[[Value], list[list[int]]]) -> None:
    passes = trained(noisy)
    run_until_decided(study_of(tmp_path), tmp_path / "results", print, "c", None)
    num = len(passes)
    run_until_decided(study_of(tmp_path), tmp_path / "results", print, "c", None)
    assert passes[num:] == [[]] * num


def test_only_who_can_still_change_it_gets_seeds(tmp_path: Path, trained: Callable[[Value], list[list[int]]]) -> None:
    passes = trained(lambda name, seed: 1000.0 + seed if "UNet" in name else noisy("DiT" if "depth" in name else "", seed))
    run_until_decided(study_of(tmp_path, THREE), tmp_path / "results", print, "c", None)
    run = load_run(tmp_path / "results" / "tiny")
    assert len(run.of("UNet-XXS")) < len(run.of("DiT-XXS/2")) == len(run.of("DiT-XXS/2{depth: 3}"))
    assert passes[0] == [0, 1, 2] * 3


def test_hours_end_it_with_the_way_to_go_on(tmp_path: Path, trained: Callable[[Value], list[list[int]]]) -> None:
    passes, lines = trained(noisy), list[str]()
    run_until_decided(study_of(tmp_path), tmp_path / "results", lines.append, "c", 0.01)  # one more seed of each takes two minutes
    assert len(passes) == 1
    assert lines[-1] == "tiny: 0.01 hours are too short for one more seed each; run the same command with more --hours to go on"


def test_seeds_of_trials_are_passed_over_and_untrained_clips_are_not_made_again(
    tmp_path: Path, trained: Callable[[Value], list[list[int]]]
) -> None:
    passes = trained(noisy)
    evaluation = {"extractors": ["motion"], "num_samples": 4, "untrained": "once"}
    study = study_of(tmp_path, tune={"learning_rate": [1e-3, 2e-3], "seeds": [1, 4]})
    study = study.model_copy(
        update={"matrix": study.matrix.model_copy(update={"defaults": study.matrix.defaults | {"evaluation": evaluation}})}
    )
    run_until_decided(study, tmp_path / "results", print, "c", None)
    assert passes[:2] == [[0, 2, 3, 0, 2, 3], [5, 5]]
    untrained = {record.cell.seed: record.cell.evaluation.untrained for record in load_run(tmp_path / "results" / "tiny").records}
    assert [seed for seed, asked in untrained.items() if asked] == [0]


def test_what_cannot_be_decided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="tells contenders apart, and matrix tiny has one"):
        run_until_decided(study_of(tmp_path, THREE[:1]), tmp_path, print, "c", None)
    matrix = write_matrix(tmp_path)
    for words, said in (
        (("--until-decided",), "--until-decided needs a measure that decides"),
        (("--hours", "2"), "--hours 2 is of --until-decided"),
    ):
        done = here("run", matrix, *words, "--results", tmp_path / "results")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr


def test_contrasts_are_decided_pair_by_pair(tmp_path: Path, trained: Callable[[Value], list[list[int]]]) -> None:
    """Seeds go to the sides of what is open, and to no contender that no contrast has."""
    passes, lines = trained(lambda name, seed: 1000.0 + seed if "depth: 3" in name else noisy(name, seed)), list[str]()
    four = [*THREE, "tests.small:DiT-XXS/2{depth: 1}"]
    contrasts = {"depth": [THREE[2], THREE[1]], "convolution": [THREE[0], THREE[1]]}
    run_until_decided(study_of(tmp_path, four, contrasts=contrasts), tmp_path / "results", lines.append, "c", None)
    run = load_run(tmp_path / "results" / "tiny")
    seeds = {name: len(run.of(name)) for name in run.contenders}
    assert seeds["UNet-XXS"] == seeds["DiT-XXS/2"] > seeds["DiT-XXS/2{depth: 3}"] == seeds["DiT-XXS/2{depth: 1}"] == 3
    assert passes[0] == [0, 1, 2] * 4 and passes[1] == [3, 3] and not run.changed
    assert lines[0].startswith("tiny: one more seed for UNet-XXS and DiT-XXS/2: the chance that 12 seeds each tell")
    assert {part.name: part.state for part in find(run).conclusion.parts}["depth"] == "leads"
