"""Each backbone at its best: chosen on validation loss, and refused where that cannot tell."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from report_factory import MEANS, NAMES, record, write_run

from bench.records.record import Record
from bench.report.load import Run, load_run
from bench.report.render.table import NONE
from bench.report.verdicts.best import at_their_best, best_of, tried_table
from bench.report.verdicts.findings import find
from bench.shapes import Refusal

UNET, DIT = MEANS
RATE = "optimizer.learning_rate"


def cells(losses: Mapping[tuple[str, Any], Sequence[float | None]], **changes: Any) -> list[Record | None]:
    """A record for each (backbone, value of the axis) and seed; one without a loss diverged."""
    found: list[Record | None] = []
    for (backbone, value), series in losses.items():
        for seed, loss in enumerate(series):
            own = record(backbone, seed, spread=0)
            measured = [m.model_copy(update={"value": loss or 0.0, **changes}) if m.name == "val_loss" else m for m in own.measurements]
            named = {"name": f"{NAMES[backbone]}-{value}-seed{seed}", "fingerprint": f"{len(found):064x}"}
            ended = {"measurements": measured} if loss is not None else {"status": "diverged", "measurements": []}
            found.append(own.model_copy(update=named | ended))
    return found


def run_of(folder: Path, losses: Mapping[tuple[str, Any], Sequence[float | None]], axis: str = RATE, **changes: Any) -> Run:
    """The run of them, the value in its axes."""
    path = write_run(folder, cells(losses, **changes), sheets=False)
    snapshot = json.loads((path / "run.json").read_text())
    values = [value for (_, value), series in losses.items() for _ in series]
    for cell, value in zip(snapshot["cells"], values, strict=True):
        cell["axes"][axis] = value
        cell["folder"] = f"{cell['name']}-{cell['fingerprint'][:8]}"
    (path / "run.json").write_text(json.dumps(snapshot))
    return load_run(path)


def test_the_least_mean_validation_loss_is_chosen(tmp_path: Path) -> None:
    losses: dict[tuple[str, Any], list[float]] = {
        (UNET, 1e-3): [0.5, 0.5],
        (UNET, 2e-3): [0.4, 0.5],
        (DIT, 1e-3): [0.2, 0.3],
        (DIT, 2e-3): [0.1, 0.9],
    }
    found = best_of(run_of(tmp_path, losses))
    assert {name: choice.chosen for name, choice in found.items()} == {
        UNET: "UNet-XS, learning_rate 0.002",
        DIT: "DiT-XS/2, learning_rate 0.001",
    }
    assert dict(found[DIT].curve) == pytest.approx({"DiT-XS/2, learning_rate 0.001": 0.25, "DiT-XS/2, learning_rate 0.002": 0.5})


def test_what_diverges_at_a_seed_is_no_choice(tmp_path: Path) -> None:
    run = run_of(tmp_path, {(UNET, 1e-3): [0.5, 0.5], (UNET, 2e-3): [0.1, None]})
    choice = best_of(run)[UNET]
    assert choice.chosen == "UNet-XS, learning_rate 0.001" and dict(choice.curve)["UNet-XS, learning_rate 0.002"] is None
    with pytest.raises(Refusal, match=r"none of UNet-XS, learning_rate 0.001 has a val_loss at every seed"):
        best_of(run_of(tmp_path / "b", {(UNET, 1e-3): [0.5, None]}))


def test_a_backbone_alone_is_its_own_best(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, [record(UNET, 0), record(DIT, 0)], sheets=False))
    assert {name: choice.chosen for name, choice in best_of(run).items()} == {UNET: "UNet-XS", DIT: "DiT-XS/2"}


def test_no_validation_loss_sees_the_sampler(tmp_path: Path) -> None:
    run = run_of(tmp_path, {(UNET, 1.0): [0.5], (UNET, 1.5): [0.5]}, axis="sampler.guidance_scale")
    with pytest.raises(Refusal, match=r"its val_loss does not see sampler.guidance_scale"):
        best_of(run)


def test_losses_of_different_protocols_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, {(UNET, 1e-3): [0.5, 0.4]})
    path = next(run.cells[0].path.glob("attempt-*.json"))
    stored = json.loads(path.read_text())
    next(m for m in stored["measurements"] if m["name"] == "val_loss")["protocol"]["dtype"] = "bf16"
    path.write_text(json.dumps(stored))
    with pytest.raises(Refusal, match=r"different protocols do not compare \(dtype: bf16 and float32\)"):
        best_of(load_run(path.parents[1]))


def test_each_backbone_stands_at_its_best_and_the_rest_aside(tmp_path: Path) -> None:
    losses: dict[tuple[str, Any], list[float]] = {
        (UNET, 1e-3): [0.5, 0.5, 0.5],
        (UNET, 2e-3): [0.4, 0.5, 0.5],
        (DIT, 1e-3): [0.2, 0.3, 0.3],
        (DIT, 2e-3): [0.1, 0.9, 0.9],
    }
    run = run_of(tmp_path, losses)
    shown, choices = at_their_best(run)
    assert shown.contenders == ("UNet-XS, learning_rate 0.002", "DiT-XS/2, learning_rate 0.001")
    assert (len(run.contenders), set(shown.labels), shown.further) == (4, set(run.labels), ())
    assert {row.name: len(row.entries) for row in find(shown).rows}["val_loss"] == 2
    table = tried_table(shown, choices)
    assert [(row[0], row[1], row[3]) for row in table.rows] == [
        ("UNet-XS, learning_rate 0.001", "0.500", NONE),
        ("UNet-XS, learning_rate 0.002", "0.467", "shown"),
        ("DiT-XS/2, learning_rate 0.001", "0.267", "shown"),
        ("DiT-XS/2, learning_rate 0.002", "0.633", NONE),
    ]
    assert all(float(row[2]) > 0 for row in table.rows)


@pytest.mark.parametrize("axis", ["batching.policy", "budget.samples", "sampler.num_steps"])
def test_axes_that_are_compared_or_that_no_loss_sees_are_all_shown(tmp_path: Path, axis: str) -> None:
    run = run_of(tmp_path, {(UNET, 1): [0.5, 0.5], (UNET, 2): [0.4, 0.5], (DIT, 1): [0.2, 0.3]}, axis=axis)
    assert at_their_best(run) == (run, {})
