"""Equal tuning on the page: the choice of each contender, and what a shared value would have cost whom."""

from pathlib import Path

import pytest
from report_factory import pair, write_run

from bench.records.record import Record
from bench.report.load import Run, load_run
from bench.report.page.tuning import tuning_curves, tuning_table
from bench.report.render import canvas
from bench.report.verdicts.tuned import cost, says, shared_point, tunings
from bench.study.budget import Budget
from bench.study.tune import Tuning, TuningTrial

UNET, DIT = "baselines:UNet-XS", "dit:DiT-XS/2"
RATE = "optimizer.learning_rate"
# rate -> loss at each of two seeds: the U-Net's best is 2e-3, the DiT's 4e-3, and 4e-3 suits both better than 2e-3
LOSSES: dict[str, dict[float, tuple[float | None, ...]]] = {
    UNET: {1e-3: (1.4, 1.4), 2e-3: (1.0, 1.0), 4e-3: (1.1, 1.2), 8e-3: (None, 3.0)},
    DIT: {1e-3: (0.9, 0.9), 2e-3: (0.8, 0.8), 4e-3: (0.4, 0.4), 8e-3: (0.5, 0.5)},
}


def tuning(backbone: str, chosen: float, at_edge: tuple[str, ...] = ()) -> Tuning:
    trials = [
        TuningTrial(point={RATE: rate}, budget=Budget(seconds=60), losses=tuple(zip((100, 101), losses, strict=True)))
        for rate, losses in LOSSES[backbone].items()
    ]
    return Tuning(by="val_loss", study="invented-tuning", trials=tuple(trials), chosen={RATE: chosen}, at_edge=at_edge)


def run_of(folder: Path, chosen: dict[str, float], at_edge: tuple[str, ...] = ()) -> Run:
    records: list[Record | None] = []
    for made in pair(2):
        assert made
        own = tuning(made.cell.backbone, chosen[made.cell.backbone], at_edge)
        records.append(made.model_copy(update={"tuning": own}))
    return load_run(write_run(folder, records, sheets=False, asks_tuning=True))


def test_the_shared_value_is_the_best_for_all_and_its_cost_is_each_ones(tmp_path: Path) -> None:
    found = tunings(run_of(tmp_path, {UNET: 2e-3, DIT: 4e-3}))
    shared = shared_point(found)
    assert shared == ((RATE, "0.004"),)
    growth = cost(found["UNet-XS"], shared).growth
    assert growth.mean == pytest.approx(0.15)
    assert growth.low is not None and growth.low < 0.15 < (growth.high or 0)
    assert cost(found["DiT-XS/2"], shared).growth.mean == 0


def test_what_diverges_for_one_is_no_shared_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES[UNET], 4e-3, (1.1, None))
    assert shared_point(tunings(run_of(tmp_path, {UNET: 2e-3, DIT: 4e-3}))) == ((RATE, "0.002"),)


def test_the_table_says_what_sharing_costs_and_holds_every_trial(tmp_path: Path) -> None:
    table = tuning_table(run_of(tmp_path, {UNET: 2e-3, DIT: 4e-3}, at_edge=(RATE,)))
    unet, dit = table.rows
    assert unet[:2] == ("UNet-XS", "0.002")
    assert unet[3].startswith("15 % [")
    assert dit[3] == "nothing, it is its own"
    assert unet[4] == "4 of 60 seconds, seeds 100, 101"
    assert "at the edge of optimizer.learning_rate" in unet[5]
    assert table.data is not None
    assert len(table.data) == 2 * 4 * 2
    assert table.data["val_loss"].isna().sum() == 1
    assert table.data.loc[table.data["chosen"], RATE].tolist() == [2e-3, 2e-3, 4e-3, 4e-3]


def test_a_run_without_tuning_shows_none(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, pair(1), sheets=False))
    assert tuning_table(run).rows == ()
    assert tuning_curves(run) is None


def test_curves_ring_the_choice_of_each(tmp_path: Path) -> None:
    drawing = tuning_curves(run_of(tmp_path, {UNET: 2e-3, DIT: 4e-3}))
    assert drawing and drawing.name == "tuning"
    assert all(text in drawing.svg for text in ("UNet-XS", "DiT-XS/2", "best shared value", "0.008"))


def test_ten_that_are_no_contenders_of_the_run_have_a_curve_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the page of the trials, where a contender is tuned under two budgets."""
    many = {f"m{k}": tuning(UNET, 2e-3) for k in range(10)}
    monkeypatch.setattr("bench.report.page.tuning.tunings", lambda run: many)
    drawing = tuning_curves(run_of(tmp_path, {UNET: 2e-3, DIT: 4e-3}))
    assert drawing is not None
    assert all(f">{name}<" in drawing.svg for name in many)
    looks = [canvas.series(place) for place in range(10)]
    assert len({(look["color"], look["marker"]) for look in looks}) == 10


def test_sentences_say_who_gets_what_and_what_one_for_all_costs(tmp_path: Path) -> None:
    first, last = says(run_of(tmp_path / "a", {UNET: 2e-3, DIT: 4e-3}))
    assert first == "Of 4 learning rates tried, validation loss is least at 0.002 for UNet-XS and 0.004 for DiT-XS/2."
    assert last == "One for all, 0.004, would have cost UNet-XS 15 % of its loss."
    assert "so a better one may lie beyond" in says(run_of(tmp_path / "b", {UNET: 2e-3, DIT: 4e-3}, at_edge=(RATE,)))[1]
