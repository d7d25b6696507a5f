"""The page of a study that holds cells out: what it says first, its picture and tables in every form, and that they agree."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.commands.foresee import run_foreseen
from bench.records.prediction import PREDICTION
from bench.report import archive, build
from bench.report.load import load_run
from bench.report.page import page
from bench.report.scaling.tables import is_within
from bench.report.scaling.words import counted, flops, number, size
from bench.report.verdicts.answer import answer
from bench.report.verdicts.claims import Trend
from bench.report.verdicts.findings import find
from tests.scaled import Loss, steady, study_of, trained

__all__ = ["trained"]
Trained = Callable[..., list[list[str]]]


def run_of(folder: Path, trained: Trained, loss: Loss = steady, **changes: object) -> Path:
    trained(loss)
    run_foreseen(study_of(folder, **changes), folder / "results", lambda line: None, "python -m bench run tiny")
    return folder / "results" / "tiny"


def test_the_page_says_what_the_numbers_carry(tmp_path: Path, trained: Trained) -> None:
    run = load_run(run_of(tmp_path, trained))
    found = find(run)
    said = answer(run, found)
    assert said.question == "Does a backbone improve steadily with compute and data?" and said.mark == "decided"
    assert found.conclusion.state == "supported" and [part.name for part in found.conclusion.parts] == ["DiT/2"]
    assert len(said.sentences) == 3
    assert said.sentences[0].startswith("DiT/2 improves steadily: its loss falls with its parameters to the power of 0.")
    assert "6 of 6 of DiT/2" in said.sentences[1] and "6 of 6 of UNet" in said.sentences[1]
    assert said.sentences[2].startswith("Which of UNet and DiT/2 gains more from compute is open: the exponents differ by ")


def test_a_size_that_came_otherwise_turns_the_claim(tmp_path: Path, trained: Trained) -> None:
    def worse(family: str, params: int, clips: int, seed: int) -> float:
        return steady(family, params, clips, seed) * (1.5 if params == 800_000 else 1.0)

    found = find(run := load_run(run_of(tmp_path, trained, worse)))
    assert found.conclusion.state == "not supported"
    assert answer(run, found).sentences[0].startswith("DiT/2 does not improve as its law says: 0 of 6 held-out losses")


def test_what_size_gives_nothing_to_is_open_and_nobody_is_said_to_gain_more(tmp_path: Path, trained: Trained) -> None:
    def flat(family: str, params: int, clips: int, seed: int) -> float:
        return steady(family, 10**5 + params % 7 if family == "DiT/2" else params, clips, seed)

    found = find(run := load_run(run_of(tmp_path, trained, flat)))
    first, _, third = answer(run, found).sentences
    assert found.conclusion.state == "inconclusive" and answer(run, found).mark == "open"
    assert first.startswith("Whether DiT/2 improves steadily is open: a larger size changes its loss by ")
    assert third == "Which of UNet and DiT/2 gains more from compute was not compared: that both improve is not sure."
    cells = {row[0]: row for row in found_table(found, "exponents")}
    assert "[0, " in cells["a, of parameters"][2] and "[0, " not in cells["a, of parameters"][1]


def found_table(found: object, name: str) -> tuple[tuple[str, ...], ...]:
    from bench.report.scaling.tables import scaling_tables

    return next(table for table in scaling_tables(found.scaling) if table.name == name).rows  # type: ignore[attr-defined]


def test_without_about_every_family_is_judged(tmp_path: Path, trained: Trained) -> None:
    from tests.scaled import HELD

    found = find(load_run(run_of(tmp_path, trained, forecast={"held_out": HELD})))
    assert [part.name for part in found.conclusion.parts] == ["UNet", "DiT/2"] and found.conclusion.state == "supported"


def test_every_form_of_the_page_has_the_chapter(tmp_path: Path, trained: Trained) -> None:
    files = {path.relative_to(tmp_path / "out").as_posix(): path for path in build([run_of(tmp_path, trained)], tmp_path / "out")}
    text, html = files["report.md"].read_text(), files["report.html"].read_text()
    assert text.index("![Loss against compute](pictures/scaling.svg)") < text.index("## What was foreseen, and what came")
    assert html.count('aria-label="Loss against compute"') == 1 and html.index("Loss against compute") < html.index('id="scaling"')
    for name in ("foresight", "exponents", "compute"):
        assert page.TITLES[name] in text and page.TITLES[name] in html
        assert {f"tables/{name}.{form}" for form in ("md", "csv", "tex")} <= files.keys()
    rows = list(csv.DictReader(io.StringIO(files["tables/foresight.csv"].read_text())))
    assert len(rows) == 12 and {row["inside"] for row in rows} == {"True"}
    for row in rows:
        assert float(row["low"]) < float(row["loss"]) < float(row["high"])
        assert float(row["miss"]) == pytest.approx(float(row["loss"]) / float(row["predicted"]) - 1)
    larger = list(csv.DictReader(io.StringIO(files["tables/compute.csv"].read_text())))
    assert [row["note"] for row in larger[2:]] == ["extrapolation"] * 4
    assert [float(row["flops"]) for row in larger[::2]] == pytest.approx(
        [3 * 250_000 * 100 * 400 * times for times in (1, 10, 100)], rel=1e-2
    )
    assert load_run(tmp_path / "results" / "tiny").prediction.sha256[:12] in text  # type: ignore[union-attr]


def test_the_page_is_the_same_each_time_and_from_the_archive(tmp_path: Path, trained: Trained) -> None:
    folder = run_of(tmp_path, trained)
    kept, left_out = archive.keep(folder, tmp_path / "archive")
    assert (kept / PREDICTION).is_file() and PREDICTION not in left_out
    first, second = (
        {path.relative_to(out).as_posix(): path.read_bytes() for path in build([source], out)}
        for source, out in ((folder, tmp_path / "a"), (kept, tmp_path / "b"))
    )
    assert first == second


def test_an_unfinished_run_has_a_law_and_says_what_is_missing(tmp_path: Path, trained: Trained) -> None:
    folder = run_of(tmp_path, trained)
    run = load_run(folder)
    for cell in run.cells:
        if cell.record and cell.record.asked.prediction and cell.record.cell.backbone.startswith("tests.small:DiT"):
            (cell.path / "attempt-1.json").unlink()
    found = find(load_run(folder))
    assert found.conclusion.state == "inconclusive"
    (part,) = found.conclusion.parts
    assert isinstance(part.finding, Trend) and part.finding.reason == "6 held-out losses are missing"
    build([folder], tmp_path / "out", unfinished=True)


def test_other_runs_have_no_chapter(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    found = find(load_run(root / "results/reference/quick"))
    assert found.scaling is None


def test_numbers_as_people_say_them() -> None:
    assert [counted(value) for value in (512, 52_000, 1_350_000, 2e9)] == ["512", "52 thousand", "1.35 million", "2 billion"]
    assert [flops(value) for value in (5.1e9, 3.12e13)] == ["5.1 GFLOP", "31.2 TFLOP"]
    assert [number(value) for value in (0.1234, -0.5, 0.0, 2e-7)] == ["0.123", "\N{MINUS SIGN}0.5", "0", "2.0e\N{MINUS SIGN}07"]
    assert size(1e6, 1e5, 1e7) == "1 million [100 thousand, 10 million]" and size(1e6, 1.0, 1e9) == "not determined"


def test_what_a_budget_buys_is_beyond_what_was_tried_in_size_or_in_clips(tmp_path: Path, trained: Trained) -> None:
    scaling = find(load_run(run_of(tmp_path, trained))).scaling
    assert scaling is not None and scaling.law is not None
    family = scaling.points.families[0]
    points = [point for point in scaling.points.fitted if point.family == family]
    sizes, clips = sorted(point.params for point in points), sorted(point.clips for point in points)
    for params, num, within in ((sizes[0], clips[-1], True), (sizes[0], clips[-1] + 1, False), (sizes[-1] + 1, clips[0], False)):
        assert is_within(scaling.law, family, params, num) is within
