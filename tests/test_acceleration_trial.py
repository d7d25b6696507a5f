"""The fastest way to run a step is found by trial, which leaves no trace, and kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.backbone import load_backbone
from bench.meters.operators import OperatorCounter
from bench.study.cell import Cell, Optimizer
from bench.training import trainer as trainer_module
from bench.training import trial
from bench.training.objective import mean_square
from bench.training.step import StepBatch, TrainStep
from bench.training.trainer import Interrupted, Trainer
from bench.training.trial import candidates
from tests.tiny import SPEC, Linear, latent_set, mixed_set, tiny_cell

CPU = torch.device("cpu")
AUTO = {"compile": "auto"}


def trainer(cell: Cell, folder: Path, *, backbone: Any = None, **options: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    backbone = backbone or load_backbone(cell.backbone, SPEC)
    data = latent_set(shape=(4, 2, 4, 4))
    given = {"train": data, "val": data, "inputs": "x", "folder": folder, "flops_of": lambda shape: 1, "device": CPU}
    return Trainer(cell, backbone, **{**given, **options})


@pytest.fixture
def _two_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As if compiled blocks were on offer: they are twice as fast, and compiled by nobody. The ways that were applied."""
    applied: list[str] = []
    timed, apply = trial._timed, Trainer._apply
    monkeypatch.setattr(trainer_module, "candidates", lambda device, **facts: ["none", "blocks"])
    monkeypatch.setattr(Trainer, "_apply", lambda self, way, batch: (applied.append(way), apply(self, "none", batch))[1])
    monkeypatch.setattr(trial, "_timed", lambda step, batch: (timed(step, batch)[0], {"none": 2.0, "blocks": 1.0}[applied[-1]]))
    return applied


def test_what_is_tried_depends_on_the_device_the_backbone_and_the_batches() -> None:
    cuda = torch.device("cuda")
    assert candidates(CPU, has_blocks=True, one_shape=True) == ["none"]
    assert candidates(cuda, has_blocks=True, one_shape=True) == ["none", "graphs", "blocks"]
    assert candidates(cuda, has_blocks=True, one_shape=False) == ["none", "blocks"]
    assert candidates(cuda, has_blocks=False, one_shape=True) == ["none", "graphs"]


def test_on_a_cpu_nothing_is_tried_and_the_record_says_what_was_chosen(tmp_path: Path) -> None:
    training = trainer(tiny_cell(acceleration=AUTO), tmp_path / "auto").train()
    assert training.acceleration is not None
    assert (training.acceleration.chosen, training.acceleration.pass_time_s) == ("none", {})
    plain = trainer(tiny_cell(), tmp_path / "plain").train()
    assert plain.acceleration is None
    assert training.loss == plain.loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["dit:DiT-XS/2", "baselines:UNet-XS"])
def test_a_trial_leaves_no_trace_and_the_fastest_is_kept(tmp_path: Path, _two_ways: list[str], name: str, precision: str) -> None:
    fields: dict[str, Any] = {"backbone": name, "precision": precision, "budget": {"steps": 3}}
    run = trainer(tiny_cell(acceleration=AUTO, **fields), tmp_path / "auto")
    assert _two_ways == ["none", "blocks", "blocks"]  # each tried, and the faster applied
    assert all(weight.grad is None for weight in run.train_step.params)
    assert not run.train_step.optimizer.state
    assert run.state.step == 0
    training, plain = run.train(), trainer(tiny_cell(**fields), tmp_path / "plain").train()
    assert training.loss == plain.loss
    assert training.grad_norm == plain.grad_norm
    found = training.acceleration
    assert found is not None
    assert found.chosen == "blocks"
    assert found.pass_time_s == {"none": [2.0] * trial.TIMED, "blocks": [1.0] * trial.TIMED}
    assert found.wall_time_s > 0


class Drawing(Linear):
    """Draws from global randomness, as dropout does."""

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        return [clip + torch.rand(1) for clip in super().forward(latents, timesteps, labels)]


def drawing() -> Drawing:
    torch.manual_seed(0)
    return Drawing()


@pytest.mark.usefixtures("_two_ways")
def test_random_numbers_of_a_plug_in_are_as_if_nothing_had_been_tried(tmp_path: Path) -> None:
    courses = []
    for acceleration in (AUTO, {"compile": "none"}):
        run = trainer(tiny_cell(acceleration=acceleration), tmp_path / acceleration["compile"], backbone=drawing())
        courses.append(run.train())
    assert courses[0].loss == courses[1].loss
    assert courses[0].acceleration is not None
    assert courses[0].acceleration.left_out == {}  # each way was given the same ones


def test_a_captured_pass_is_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the graph itself: what would be captured is called."""
    given: list[Any] = []
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda module, args, **more: (given.append(args), module(*args), module)[2])
    torch.manual_seed(0)
    backbone: Any = load_backbone("dit:DiT-XS/2", SPEC)
    torch.nn.init.normal_(backbone.final.weight, std=0.1)
    step = TrainStep(backbone.train(), Optimizer(), CPU, torch.bfloat16)
    clips = [torch.randn(4, 2, 4, 4) for _ in range(2)]
    batch = StepBatch(latents=clips, targets=clips, timesteps=torch.tensor([0.2, 0.7]), labels=torch.tensor([0, 1]))
    results = []
    for captured in (False, True):
        if captured:
            step.capture(batch)
            assert all(isinstance(tensor, Tensor) for tensor in given[0])
            assert all(weight.dtype == torch.float32 and weight.grad is None for weight in backbone.parameters())
        predictions = step.predict(batch.latents, batch.timesteps, batch.labels)
        step.backward(mean_square(predictions, clips))
        results.append([*predictions, *(weight.grad for weight in step.params)])
        step.optimizer.zero_grad(set_to_none=True)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    with pytest.raises(AssertionError):
        step.predict([torch.ones(4, 1, 4, 4)] * 2, batch.timesteps, batch.labels)
    with OperatorCounter() as counter:  # what watches operators is given the pass as it is
        step.predict([torch.ones(4, 1, 4, 4)] * 2, batch.timesteps, batch.labels)
    assert counter.num_launches > 0


def test_a_resumed_run_keeps_its_way(tmp_path: Path, _two_ways: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tiny_cell(acceleration=AUTO)
    with pytest.raises(Interrupted):
        trainer(cell, tmp_path, should_stop=lambda: True).train()
    _two_ways.clear()
    monkeypatch.setattr(trainer_module, "choose", None)  # is not asked again
    resumed = trainer(cell, tmp_path)
    assert _two_ways == ["blocks"]
    assert resumed.train().acceleration is not None


def test_a_way_that_fails_or_computes_something_else_is_left_out(
    tmp_path: Path, _two_ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Trainer._apply
    monkeypatch.setattr(trainer_module, "candidates", lambda device, **facts: ["none", "wrong", "blocks"])

    def failing(self: Trainer, way: str, batch: Any) -> None:
        if way == "blocks":
            self.train_step.params[0].grad = torch.ones_like(self.train_step.params[0])
            raise RuntimeError("no compiler\nhere")
        apply(self, way, batch)

    monkeypatch.setattr(Trainer, "_apply", failing)
    monkeypatch.setattr(trial, "_timed", lambda step, batch: (1.001, 0.5) if _two_ways[-1] == "wrong" else (1.0, 2.0))
    run = trainer(tiny_cell(acceleration=AUTO), tmp_path)
    assert all(weight.grad is None for weight in run.train_step.params)
    found = run.state.acceleration
    assert found is not None
    assert found.chosen == "none"
    assert found.left_out == {"wrong": "its losses differ by 0.001", "blocks": "no compiler here"}


def test_what_has_not_begun_in_time_is_not_tried(tmp_path: Path, _two_ways: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 500))
    monkeypatch.setattr(trial.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(trial, "_timed", lambda step, batch: (1.0, 2.0))
    found = trainer(tiny_cell(acceleration=AUTO), tmp_path).state.acceleration
    assert found is not None
    assert (found.chosen, found.left_out) == ("none", {"blocks": "no time was left of 600 s"})


@pytest.mark.parametrize("mixed", [False, True])
def test_graphs_are_refused_where_they_cannot_be(tmp_path: Path, mixed: bool) -> None:
    options = {"train": mixed_set([(4, 2, 4, 4), (4, 1, 4, 4)])} if mixed else {}
    batching = {"policy": "pack", "voxel_budget": 64} if mixed else {"batch_size": 2}
    cell = tiny_cell(acceleration={"compile": "graphs"}, batching=batching)
    with pytest.raises(ValueError, match=r"acceleration\.compile 'graphs' captures CUDA kernels of batches of one shape, got a cpu device"):
        trainer(cell, tmp_path, **options)


def test_a_cell_that_asks_for_nothing_keeps_its_fingerprint() -> None:
    assert tiny_cell().model_dump(mode="json")["acceleration"] == {"compile": "none", "checkpointing": "none"}
    assert tiny_cell(acceleration=AUTO).fingerprint() != tiny_cell().fingerprint()
