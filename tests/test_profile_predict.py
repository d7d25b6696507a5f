"""Predicted peaks are the measured ones, to the byte, and a prediction leaves nothing behind."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from bench.backbone import load_backbone
from bench.commands.profile.measure import Request, measure_memory
from bench.commands.profile.result import PHASES
from bench.shapes import LatentSpec, Shape
from bench.training import predict
from bench.training.acceleration import accelerate
from bench.training.draws import Drawn, StepShapes
from bench.training.predict import Predictor, code_path
from bench.training.step import Stepper, StepPoint, make_batch
from bench.training.trainer import METERED, Trainer
from tests.tiny import SPEC, Linear, latent_set, mixed_set, tiny_cell

CPU = torch.device("cpu")
POINTS = (StepPoint(batch_size=2, shape=(4, 8, 8)), StepPoint(batch_size=1, shape=(3, 4, 8)))
UNET = "baselines:UNet-XS{block_channels: [16, 48], context_width: 32}"  # narrow: bfloat16 convolutions are slow on most CPUs
DIT = "dit:DiT-XS/2{depth: 2}"
LATTE = "baselines.diffusers_zoo:LatteTransformer3DModel{num_layers: 1}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [UNET, DIT, LATTE])
def test_predicted_is_measured(name: str, precision: str) -> None:
    predictor = Predictor(name, SPEC, precision, "cpu")
    for point in POINTS if precision == "fp32" else POINTS[:1]:
        for phase in PHASES:
            predicted = predictor.peak(phase, point)
            measured, _ = measure_memory(Request(names=(name,), spec=SPEC, point=point, precision=precision), name, phase, CPU)
            # A CPU keeps the statistics of bfloat16 norms in float32; torch's fake ones are as large as on a GPU.
            assert predicted.num_bytes == pytest.approx(measured.num_bytes, rel=0 if precision == "fp32" else 0.005)
            assert sum(predicted.split.values()) == sum(predicted.by_module.values()) == predicted.num_bytes
            assert predicted.split["weights"] == measured.split["weights"] >= 4 * predictor.num_params
            assert predictor.peak_bytes(phase, point) == pytest.approx(predicted.num_bytes, rel=1e-3)


@pytest.mark.parametrize("name", [UNET, DIT])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predicted_is_what_a_cell_records(name: str, precision: str, tmp_path: Path) -> None:
    """To within the scalars of the trainer's own bookkeeping; the peak of the U-Net is in the backward pass, that of the DiT after it."""
    shape = (3, 8, 8)
    cell = tiny_cell(backbone=name, budget={"steps": 2}, precision=precision)
    data = latent_set(shape=(4, *shape))
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        backbone: Any = load_backbone(name, SPEC)
        trainer = Trainer(cell, backbone, train=data, val=data, inputs="x", folder=tmp_path, flops_of=lambda shape: 1, device=CPU)
        trainer.train()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    predicted = Predictor(name, SPEC, precision, "cpu").peak("training", StepPoint(batch_size=2, shape=shape))
    recorded = trainer.state.peak_storage_bytes
    assert predicted.num_bytes == pytest.approx(recorded, abs=256, rel=0 if precision == "fp32" else 0.005)


MIXED = [(4, 4, 8, 8), (4, 1, 8, 16), (4, 2, 8, 8), (4, 2, 4, 8)] * 3


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (DIT, {"batching": {"policy": "pack", "voxel_budget": 512}}),
        (DIT, {"batching": {"policy": "bucket", "voxel_budget": 512}}),
        (UNET, {"batching": {"policy": "pad", "voxel_budget": 512}}),
        (UNET, {"batching": {"policy": "bucket", "voxel_budget": 512}, "acceleration": {"checkpointing": "blocks"}}),
    ],
)
def test_of_any_batch_predicted_is_what_a_cell_records(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """To the byte: what the trainer was given at the step that it metered, without what it holds."""
    cell = tiny_cell(backbone=name, budget={"steps": 2}, **changes)
    data, backbone = mixed_set(MIXED), load_backbone(name, SPEC)
    accelerate(backbone, cell.acceleration)  # type: ignore[arg-type]
    options: dict[str, Any] = {"inputs": "x", "folder": tmp_path, "flops_of": lambda shape: 1, "device": CPU}
    trainer = Trainer(cell, backbone, train=data, val=data, **options)  # type: ignore[arg-type]
    trainer.train()
    predictor = Predictor(name, SPEC, cell.precision, "cpu", cell.acceleration)
    for _ in range(2):  # it leaves nothing behind that the next would count
        predicted = predictor.peak_drawn(trainer.draw(METERED))
        assert predicted.num_bytes == trainer.state.peak_storage_bytes
        assert predicted.split == trainer.state.storage_by_kind


def test_the_step_is_the_trainers(tmp_path: Path) -> None:
    """From the same weights and the same batch, the same weights and the same average."""
    torch.manual_seed(0)
    mine, theirs = Linear(), Linear()
    theirs.load_state_dict(mine.state_dict())
    options = {"learning_rate": 1e-3, "warmup_steps": 0, "ema_decay": 0.999}
    trainer = Trainer(
        tiny_cell(optimizer=options),
        theirs,
        train=latent_set(),
        val=latent_set(),
        inputs="x",
        folder=tmp_path,
        flops_of=lambda shape: 1,
        device=CPU,
    )
    stepper = Stepper(mine, CPU, "fp32", trains=True)
    batch = make_batch(SPEC, StepPoint(batch_size=2, shape=(3, 4, 2)), "training", CPU)
    shapes = StepShapes(shapes=[(3, 4, 2)] * 2, padded=None, kept=None)
    drawn = Drawn(**vars(batch), kept=None, mask=None, num_values=0, step=shapes)
    before = mine.mix.weight.detach().clone()
    for state in stepper.train_step.optimizer.state.values():  # type: ignore[union-attr]
        state["step"].zero_()
    for _ in range(2):
        stepper.step("training", batch)
        trainer.update(drawn)
    assert not torch.equal(mine.mix.weight, before)
    for ours, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, other)
    for ours, other in zip(stepper.train_step.ema.shadow_params, trainer.train_step.ema.shadow_params, strict=True):
        assert torch.equal(ours, other)


def test_more_of_anything_takes_more() -> None:
    predictor = Predictor(DIT, SPEC, "fp32", "cpu")
    base = StepPoint(batch_size=2, shape=(8, 16, 16))
    for phase in PHASES:
        least = predictor.peak_bytes(phase, base)
        for larger in (
            StepPoint(batch_size=3, shape=(8, 16, 16)),
            StepPoint(batch_size=2, shape=(9, 16, 16)),
            StepPoint(batch_size=2, shape=(8, 16, 18)),
        ):
            assert predictor.peak_bytes(phase, larger) > least


def test_nothing_is_left_behind() -> None:
    """No fake tensor in a cache or a module, random numbers as they were, and real steps as before."""
    state = torch.get_rng_state()
    real: Any = load_backbone(DIT, SPEC)
    torch.set_rng_state(state)
    batch = make_batch(SPEC, POINTS[1], "sampling", CPU)
    before = real(batch.latents, batch.timesteps, batch.labels)
    gc.collect()
    others = fake_tensors()  # of tests that ran before this one
    for name in (DIT, UNET, LATTE):
        predictor = Predictor(name, SPEC, "bf16", "cpu")
        for phase in PHASES:
            predictor.peak(phase, POINTS[1])
        del predictor
    gc.collect()
    assert torch.equal(state, torch.get_rng_state())
    known = {id(held) for held in others}
    assert not [held for held in fake_tensors() if id(held) not in known]
    assert torch.get_default_device() == CPU
    assert not torch.is_autocast_enabled("cpu")
    after = real(batch.latents, batch.timesteps, batch.labels)
    assert all(torch.equal(a, b) and not isinstance(b, FakeTensor) for a, b in zip(before, after, strict=True))


def fake_tensors() -> list[FakeTensor]:
    return [held for held in gc.get_objects() if issubclass(type(held), FakeTensor)]


class Tied(nn.Module):
    """Two layers of one weight, and a table that is a plain attribute."""

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.first = nn.Linear(spec.latent_channels, spec.latent_channels, bias=False)
        self.second = nn.Linear(spec.latent_channels, spec.latent_channels, bias=False)
        self.second.weight = self.first.weight
        self.table = torch.ones(spec.latent_channels, 1, 1, 1)

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        return [(self.second(self.first(clip.movedim(0, -1)))).movedim(-1, 0) + self.table for clip in latents]

    def num_tokens(self, shape: Shape) -> int:
        return 1

    def check(self, shape: Shape) -> None:
        return None


def test_tied_weights_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "load_backbone", lambda name, spec: Tied(spec))
    peak = Predictor("x:y", SPEC, "fp32", "cpu").peak("sampling", POINTS[1])
    assert peak.split["weights"] == 4 * 4 * 4
    assert peak.split["buffers"] == 4 * 4


class Curious(Linear):
    """Looks at what a tensor holds."""

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        return super().forward([clip[:, : 1 + int(clip.sum() > 0)] for clip in latents], timesteps, labels)


def test_code_that_looks_at_values_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "load_backbone", lambda name, spec: Curious(spec))
    with pytest.raises(ValueError, match="x:y cannot be predicted: its code depends on what a tensor holds"):
        Predictor("x:y", SPEC, "fp32", "cpu").peak("sampling", POINTS[1])


def test_the_code_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert [code_path(kind) for kind in ("cpu", "cuda")] == ["cpu", "cpu"]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert [code_path(kind) for kind in ("cpu", "cuda")] == ["cpu", "cuda"]


def test_a_long_clip_of_a_gpu_needs_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the DiT has bfloat16 attention as products, whose scores grow with the square of the length; a GPU's kernel has none."""
    monkeypatch.setattr(torch.version, "cuda", None)
    name, point, twice = "dit:DiT-S/2{depth: 2}", StepPoint(batch_size=1, shape=(256, 16, 16)), StepPoint(batch_size=1, shape=(512, 16, 16))
    on_gpu = Predictor(name, SPEC, "bf16", "cuda")
    on_cpu = Predictor(name, SPEC, "bf16", "cpu")
    growth = [predictor.peak("sampling", twice).num_bytes / predictor.peak("sampling", point).num_bytes for predictor in (on_gpu, on_cpu)]
    assert growth[0] < 2.0 < growth[1]
