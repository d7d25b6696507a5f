"""Memory as a record has it: named, in bytes and counts, with what was to be expected beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.meters.memory import FOUND
from bench.records.record import PREDICTED
from bench.report.render import catalogue
from bench.run.measure import memory
from bench.run.measure.memory import memory_measurements, predicted_storage
from bench.shapes import Refusal
from bench.training.trainer import Trainer
from tests.tiny import SPEC, linear_trainer, tiny_cell

ON_CARD = {name: 10 * (place + 1) for place, name in enumerate(FOUND)}


def test_all_that_a_phase_tells_is_measured_and_named() -> None:
    found = memory_measurements(ON_CARD) + memory_measurements(ON_CARD, "sample_")
    assert [m.name for m in found] == [prefix + name for prefix in ("", "sample_") for name in (*FOUND, "unallocated_share")]
    for measured in found:
        assert measured.unit == ("B" if measured.name.endswith("_bytes") else "1") and measured.better == "lower"
        named = catalogue.find(measured.name)
        assert named.group == "memory" and named.machine and named.title != measured.name
    assert catalogue.find(PREDICTED).group == "memory" and catalogue.find(PREDICTED).title.endswith("as predicted")


def test_the_share_is_what_was_reserved_and_not_allocated() -> None:
    (share,) = (m for m in memory_measurements({"peak_allocated_bytes": 60, "peak_reserved_bytes": 80}) if m.name == "unallocated_share")
    assert share.value == 0.25
    assert [m.name for m in memory_measurements({"peak_rss_bytes": 5})] == ["peak_rss_bytes"]  # a CPU reserves nothing
    assert "unallocated_share" not in {m.name for m in memory_measurements({"peak_allocated_bytes": 0, "peak_reserved_bytes": 0})}


def trained(folder: Path, device: str = "cuda", **changes: Any) -> Trainer:
    """On the CPU, as if it had been on a GPU."""
    trainer = linear_trainer(tiny_cell(budget={"steps": 3}, **changes), folder)
    trainer.train()
    trainer.device = torch.device(device)
    return trainer


def values(trainer: Trainer, known: float | None = None) -> dict[str, float]:
    return {m.name: m.value for m in predicted_storage(trainer, SPEC, known)}


def test_a_gpu_s_cell_has_its_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    class Predictor:
        def __init__(self, *of: Any):
            asked.append(of)

        def peak_drawn(self, drawn: Any) -> Any:
            asked.append(drawn.timesteps.tolist())  # each draw has its own
            return type("Memory", (), {"num_bytes": 4321})

    monkeypatch.setattr(memory, "Predictor", Predictor)
    trainer = trained(tmp_path)
    assert values(trainer) == {PREDICTED: 4321}
    cell = trainer.cell
    assert asked == [(cell.backbone, SPEC, "fp32", "cuda", cell.acceleration), trainer.draw(1).timesteps.tolist()]
    assert values(trainer, known=99.0) == {PREDICTED: 99.0} and len(asked) == 2  # of an earlier cell of the same step
    trainer.state.peak_storage_bytes = 0  # nothing was metered, which it could stand beside
    assert values(trainer) == {} and values(trainer, known=99.0) == {}


def test_a_cpu_s_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Predictor", lambda *_: pytest.fail("it was predicted"))
    trainer = trained(tmp_path, device="cpu")
    assert trainer.state.peak_storage_bytes and values(trainer) == {}


def test_of_several_processes_there_is_none(tmp_path: Path) -> None:
    """Each holds buckets of gradients beside its own, or parts of the weights."""
    trainer = trained(tmp_path)
    trainer.cell = tiny_cell(parallel={"kind": "ddp", "processes": 2})
    assert values(trainer, known=99.0) == {}


@pytest.mark.parametrize("error", [Refusal("x cannot be predicted"), NotImplementedError("no fake\nimplementation")])
def test_what_cannot_be_predicted_costs_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(memory, "Predictor", fail)
    trainer = trained(tmp_path)
    assert values(trainer) == {}
    line = " ".join(str(error).split())
    assert capsys.readouterr().err == f"memory of {trainer.cell.backbone} is not predicted: {line}\n"
