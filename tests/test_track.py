"""Trackers: what they are told is what the record says, once, and they change nothing of a run."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.report import build
from bench.training.track import EVERY, FILE, SHOWN, JsonLines, Track
from bench.training.trainer import Interrupted
from tests.commands import cell_folder, here, record_of, write_matrix
from tests.tiny import linear_trainer, tiny_cell

STEPS = 2 * EVERY + 5


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_groups_of_steps_are_told_once_as_their_means(tmp_path: Path) -> None:
    trainer = linear_trainer(tiny_cell(budget={"steps": STEPS}), tmp_path, track=["jsonl"])
    training = trainer.train()
    told = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in told] == [EVERY, 2 * EVERY, STEPS]
    assert told[0]["loss"] == pytest.approx(np.mean(training.loss[:EVERY]))
    assert told[2]["grad_norm"] == pytest.approx(np.mean(training.grad_norm[2 * EVERY :]))
    losses = [line["val_loss"] for line in lines(tmp_path) if "val_loss" in line]
    assert losses == [point.loss for point in training.validation]


def test_a_run_that_goes_on_tells_no_step_twice(tmp_path: Path) -> None:
    cell = tiny_cell(budget={"steps": STEPS})
    first = linear_trainer(cell, tmp_path, track=["jsonl"])
    first.should_stop = lambda: first.state.step >= EVERY + 7
    with pytest.raises(Interrupted):
        first.train()
    JsonLines(tmp_path / FILE, EVERY + 7).log({"loss": 1.0}, step=10 * EVERY)  # told, and then lost with the process
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 3')
    again = linear_trainer(cell, tmp_path, track=["jsonl"])
    training = again.train()
    told = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in told] == [EVERY, EVERY + 7, STEPS]
    assert told[2]["loss"] == pytest.approx(np.mean(training.loss[EVERY + 7 :]))


def test_who_watches_changes_nothing(tmp_path: Path) -> None:
    cell = tiny_cell(budget={"steps": STEPS})
    plain, watched = (linear_trainer(cell, tmp_path / str(track), track=track).train() for track in ((), ("jsonl",)))
    assert (plain.loss, plain.grad_norm, plain.validation_by_timestep) == (watched.loss, watched.grad_norm, watched.validation_by_timestep)
    assert not (tmp_path / "()" / FILE).exists()


def test_tensorboard_has_curves_and_samples_of_every_cell(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, results = write_matrix(tmp_path, axes={"backbone": ["tests.small:DiT-XXS/2"]}, match=None), tmp_path / "results"
    done = here("run", path, "--results", results, "--track", "tensorboard", "--track", "jsonl", "--track", "jsonl")
    assert done.returncode == 0, done.stderr
    folder = cell_folder(results, "DiT-XXS_2-seed0")
    found = EventAccumulator(str(results / "tiny" / "tensorboard" / folder.name))
    found.Reload()
    record = record_of(results, "DiT-XXS_2-seed0")
    assert record.training is not None
    assert found.Scalars("loss")[0].value == pytest.approx(np.mean(record.training.loss[:EVERY]))
    assert found.Scalars("val_loss")[-1].value == pytest.approx(record.training.validation[-1].loss)
    assert len([name for name in found.Tags()["images"] if name.startswith("samples/")]) == min(SHOWN, 4)
    assert len([line for line in lines(folder) if "loss" in line]) == 2
    build([results / "tiny"], tmp_path / "report")
    assert "tensorboard --logdir results/tiny/tensorboard" in (tmp_path / "report" / "report.html").read_text()
    assert "track.jsonl in the folder of each cell" in (tmp_path / "report" / "report.md").read_text()


def test_wandb_is_opened_once_a_cell_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    run = types.SimpleNamespace(log=lambda values, step=None: said.append((step, values)), finish=lambda: said.append("end"))
    fake: Any = types.ModuleType("wandb")
    fake.init = lambda **given: [said.append(given), run][1]
    fake.config = types.SimpleNamespace(update=lambda fields, allow_val_change: said.append(fields))
    fake.Image = lambda image: image.shape
    monkeypatch.setitem(sys.modules, "wandb", fake)
    track = Track(["wandb"], tiny_cell(), "c", tmp_path / "m" / "c-01234567", 0)
    track.values({"val_loss": 2.0}, 5)
    track.clips("samples", [np.zeros((4, 8, 8, 3), np.uint8)] * 2, 6)
    track.end()
    track.values({"val_loss": 3.0}, 7)  # nobody listens any more
    opened, fields, *rest = said
    assert (opened["project"], opened["name"], opened["id"], opened["resume"]) == ("unet-vs-dit-m", "c", "01234567", "allow")
    assert fields["budget.steps"] == "6"
    assert rest == [(5, {"val_loss": 2.0}), (6, {"samples": [(8, 8, 3), (8, 8, 3)]}), "end"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tensorbord", "unknown tracker 'tensorbord' (did you mean 'tensorboard'?)"),
        (
            "wandb",
            "--track wandb needs wandb, which is not installed; install it by: python -m pip install -c constraints.txt -e '.[wandb]'",
        ),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = here("run", write_matrix(tmp_path), "--results", tmp_path / "results", "--track", name)
    assert done.returncode == 2 and done.stderr.strip().startswith(f"error: {told}") and not (tmp_path / "results").exists()
