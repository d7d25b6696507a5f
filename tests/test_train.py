"""The training loop: it learns, resumes bit for bit, obeys its budget, and notices divergence."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch.testing import assert_close

from bench.data.latents.latents import LatentSet
from bench.data.policy.batches import Batch
from bench.meters.clock import StepTimer, StopWatch
from bench.records.record import BackboneFacts, ValidationPoint
from bench.run.measure.costs import training_measurements
from bench.shapes import num_voxels
from bench.study.budget import CURVE_FRACTIONS
from bench.training.checkpoint import Diverged
from bench.training.trainer import Interrupted
from bench.training.validation import validation_losses
from tests.late_device import LateDevice
from tests.tiny import Linear, latent_set, linear_trainer, mixed_set, tiny_cell


def test_it_learns(tmp_path: Path) -> None:
    cell = tiny_cell(
        budget={"steps": 150}, batching={"batch_size": 8}, optimizer={"learning_rate": 0.02, "warmup_steps": 5, "ema_decay": 0.9}
    )
    training = linear_trainer(cell, tmp_path).train()
    assert np.mean(training.loss[-20:]) < 0.85 * np.mean(training.loss[:5])
    assert training.validation[-1].loss < training.validation[0].loss
    assert (
        len(training.loss) == len(training.step_time_s) == len(training.data_time_s) == len(training.grad_norm) == training.num_steps == 150
    )
    assert set(training.validation_by_timestep) == {"0.0625", "0.1875", "0.3125", "0.4375", "0.5625", "0.6875", "0.8125", "0.9375"}
    assert len(training.validation) == len(CURVE_FRACTIONS) + 1


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    cell = tiny_cell(budget={"steps": 6})
    whole = linear_trainer(cell, tmp_path / "a").train() if (tmp_path / "a").mkdir() is None else None
    (tmp_path / "b").mkdir()
    asked = iter([False] * (stop_after - 1) + [True])
    with pytest.raises(Interrupted, match=f"step {stop_after}"):
        linear_trainer(cell, tmp_path / "b", should_stop=lambda: next(asked)).train()
    torch.randn(5)  # global randomness moved on: it must not matter
    resumed = linear_trainer(cell, tmp_path / "b")
    assert resumed.state.step == stop_after
    again = resumed.train()
    assert whole is not None
    assert again.loss == whole.loss
    assert again.grad_norm == whole.grad_norm
    assert again.validation_by_timestep == whole.validation_by_timestep
    assert [point.loss for point in again.validation] == [point.loss for point in whole.validation]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    cell = tiny_cell()
    first = linear_trainer(cell, tmp_path).train()
    second = linear_trainer(cell, tmp_path)
    assert second.state.step == 6
    assert second.train().loss == first.loss


def test_a_checkpoint_of_other_data_is_not_resumed(tmp_path: Path) -> None:
    linear_trainer(tiny_cell(), tmp_path).train()
    assert linear_trainer(tiny_cell(), tmp_path, inputs="y").state.step == 0


@pytest.mark.parametrize("damage", ["truncate", "garbage", "pickle", "bit"])
def test_damaged_checkpoints_are_an_error_that_names_the_file(tmp_path: Path, damage: str) -> None:
    linear_trainer(tiny_cell(), tmp_path).train()
    path = tmp_path / "checkpoint.pt"
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "garbage":
        path.write_bytes(b"garbage")
    elif damage == "bit":
        content = torch.load(path, weights_only=True)
        content["optimizer"]["param_groups"][0]["weight_decay"] = 0.5  # torch.load takes it for good, whatever its check sums say
        torch.save(content, path)
    else:
        torch.save({"state": os.system}, path)
    with pytest.raises(ValueError, match="remove it to start over"):
        linear_trainer(tiny_cell(), tmp_path)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 3}, 3),
        ({"latent_voxels": 3 * 24 * 2}, 3),
        ({"samples": 5}, 3),
        ({"train_flops": 3 * 1000 * 2 * 4.0}, 4),
        ({"seconds": 1e-9}, 1),
    ],
)
def test_budgets(tmp_path: Path, budget: dict[str, float], steps: int) -> None:
    training = linear_trainer(tiny_cell(budget=budget), tmp_path).train()
    assert (training.num_steps, training.num_samples) == (steps, 2 * steps)


MIXED = [(4, 3, 4, 2), (4, 1, 4, 4), (4, 3, 2, 2), (4, 2, 4, 2)]


@pytest.mark.parametrize("policy", ["crop", "bucket", "pack", "pad"])
def test_any_policy_resumes_in_the_middle_of_an_epoch_bit_for_bit(tmp_path: Path, policy: str) -> None:
    cell = tiny_cell(budget={"steps": 9}, batching={"policy": policy, "voxel_budget": 48})
    options = {"train": mixed_set(MIXED * 3), "val": mixed_set(MIXED, seed=1)}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    whole = linear_trainer(cell, tmp_path / "a", **options).train()
    asked = iter([False] * 3 + [True] + [False] * 2 + [True])
    for _ in range(2):
        with pytest.raises(Interrupted):
            linear_trainer(cell, tmp_path / "b", **options, should_stop=lambda: next(asked)).train()
    resumed = linear_trainer(cell, tmp_path / "b", **options)
    assert resumed.state.step == 7
    again = resumed.train()
    assert again.loss == whole.loss and again.step_work == whole.step_work
    assert again.validation_by_timestep == whole.validation_by_timestep
    assert all(work[2] <= 48 for work in whole.step_work)
    assert len({work[:3] for work in whole.step_work}) > 1


def test_work_of_a_step_by_hand(tmp_path: Path) -> None:
    cell = tiny_cell(budget={"steps": 1}, batching={"policy": "pad", "voxel_budget": 96})
    data = mixed_set([(4, 3, 4, 2), (4, 1, 4, 4)])
    trainer = linear_trainer(cell, tmp_path, train=data, val=data, flops_of=lambda shape: 10 * num_voxels(shape))
    training = trainer.train()
    assert training.step_work == [(2, 4, 24 + 16, 24 + 16, 10 * 2 * 48)]  # FLOPs count the padding, latent voxels do not
    assert (trainer.state.num_voxels, trainer.state.forward_flops) == (40, 960)


def test_the_validation_loss_does_not_depend_on_batches(tmp_path: Path) -> None:
    val = mixed_set(MIXED * 3, seed=1)
    losses = [
        linear_trainer(tiny_cell(batching={"policy": "pack", "voxel_budget": budget}), tmp_path, train=val, val=val).validate(12)
        for budget in (24, 1000)
    ]
    assert_close(*losses, rtol=1e-6, atol=0)


def test_seconds_count_training_and_not_pauses(tmp_path: Path) -> None:
    training = linear_trainer(tiny_cell(budget={"seconds": 0.5}), tmp_path).train()
    assert training.wall_time_s >= 0.5
    assert training.step_end_s == sorted(training.step_end_s)
    assert sum(training.step_time_s) <= training.wall_time_s


def test_a_rate_is_what_the_device_does_and_not_what_the_host_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device that takes a second for a step and a host that takes none, the window starts where warm-up ends on the device."""
    trainer, device = linear_trainer(tiny_cell(budget={"steps": 40}), tmp_path), LateDevice(monkeypatch)
    trainer._timer, watch = StepTimer(torch.device("cuda")), StopWatch(torch.device("cuda"))
    update = trainer.update
    for step in range(40):
        trainer.update = lambda drawn, step=step: [device.work(3.0 if step < 2 else 1.0), update(drawn)][1]  # type: ignore[assignment, method-assign, misc]
        trainer.step(watch)
        assert not trainer.state.step_end_s  # nothing waits
    with trainer._pause(watch):
        training = trainer.state.training(ValidationPoint(step=40, wall_time_s=0.0, loss=1.0, num_clips=1))
    assert training.step_end_s == [3.0, 6.0, *np.arange(7.0, 45.0)]
    assert (training.wall_time_s, training.num_warmup_steps) == (44.0, 2)
    facts = BackboneFacts(num_params=1, flops_per_clip=1, tokens_per_clip=1, peak_flop_per_s=1.0, latent_shape=(1, 1, 1, 1))
    given: Any = SimpleNamespace(clips=SimpleNamespace(digest="x"), val=[], autoencoder=SimpleNamespace(key="x"))
    rates = {found.name: found.value for found in training_measurements(training, trainer.cell, given, facts, {}, 0)}
    assert rates["train_clips_per_s"] == 2.0  # two clips a step, a step a second


def test_what_the_device_still_had_to_do_is_in_the_time_of_a_stopped_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, device = linear_trainer(tiny_cell(budget={"steps": 40}), tmp_path), LateDevice(monkeypatch)
    trainer._timer, watch = StepTimer(torch.device("cuda")), StopWatch(torch.device("cuda"))
    device.work(10.0)
    trainer.step(watch)
    with trainer._pause(watch):
        trainer.save()
    again = linear_trainer(tiny_cell(budget={"steps": 40}), tmp_path)
    assert again.state.wall_time_s == again.state.step_end_s[-1] == 10.0


def test_backbones_draw_the_same(tmp_path: Path) -> None:
    first, second = linear_trainer(tiny_cell(), tmp_path), linear_trainer(tiny_cell(backbone="baselines:UNet-XS"), tmp_path)
    one, other = (vars(trainer.draw(3)) for trainer in (first, second))
    assert one.pop("step") == other.pop("step")
    for name, values in one.items():
        assert_close(values, other[name])
    whole, part = (first.drawer.draw(Batch((5, 1, 4, 0)[skip:], skip)) for skip in (0, 2))
    assert_close(whole.latents[2:], part.latents)  # a draw does not depend on its batch
    other_seed = linear_trainer(tiny_cell(seed=1), tmp_path)
    assert not torch.equal(first.draw(0).latents[0], other_seed.draw(0).latents[0])


def test_label_dropout_share(tmp_path: Path) -> None:
    trainer = linear_trainer(tiny_cell(objective={"label_dropout": 0.3}), tmp_path)
    labels = trainer.drawer.draw(Batch(tuple(range(8)) * 250, 0)).labels
    assert labels is not None
    assert 0.26 < float((labels == 3).float().mean()) < 0.34
    assert linear_trainer(tiny_cell(), tmp_path, train=latent_set(labelled=False)).draw(0).labels is None


def test_divergence_is_detected_and_its_course_kept(tmp_path: Path) -> None:
    broken = LatentSet(latents=np.full((8, 4, 3, 4, 2), np.nan, np.float32), labels=None, null_label=3)
    trainer = linear_trainer(tiny_cell(), tmp_path, train=broken)
    with pytest.raises(Diverged, match="step 1"):
        trainer.train()
    assert len(trainer.state.training().loss) == 1
    exploding = tiny_cell(budget={"steps": 200}, optimizer={"learning_rate": 30.0, "warmup_steps": 60})
    (tmp_path / "b").mkdir()
    with pytest.raises(Diverged, match="times the first"):
        linear_trainer(exploding, tmp_path / "b").train()


def test_averaged_weights_follow_the_warm_up_of_the_decay(tmp_path: Path) -> None:
    trainer = linear_trainer(tiny_cell(budget={"steps": 3}, optimizer={"ema_decay": 0.999}), tmp_path)
    weights = [trainer.train_step.params[0].detach().clone()]
    for _ in range(3):
        trainer.update(trainer.draw(trainer.state.step))
        trainer.state.step += 1
        weights.append(trainer.train_step.params[0].detach().clone())
    expected = weights[1]  # before step 1 the average is the weights themselves
    for step, weight in enumerate(weights[2:], start=1):
        decay = min(0.999, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert_close(trainer.train_step.ema.shadow_params[0], expected, atol=1e-6, rtol=1e-5)


def test_storage_peak_is_exact_and_recorded(tmp_path: Path) -> None:
    peaks = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trainer = linear_trainer(tiny_cell(), tmp_path / name)
        trainer.train()
        peaks.add(trainer.state.peak_storage_bytes)
    assert len(peaks) == 1
    assert peaks.pop() > 0


def test_bf16_trains_resumes_and_keeps_float32_weights(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        cell = tiny_cell(precision="bf16", budget={"steps": 6})
        asked = iter([False, False, True])
        with pytest.raises(Interrupted):
            linear_trainer(cell, tmp_path, should_stop=lambda: next(asked)).train()
        trainer = linear_trainer(cell, tmp_path)
        training = trainer.train()
        (tmp_path / "fp32").mkdir()
        backbone = trainer.averaged_backbone()
        assert all(weight.dtype == torch.float32 for weight in backbone.parameters())
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    exact = linear_trainer(tiny_cell(budget={"steps": 6}), tmp_path / "fp32").train()
    assert training.loss != exact.loss
    assert_close(training.loss, exact.loss, rtol=0.05, atol=0)


def test_validation_uses_the_average_and_leaves_training_as_it_was(tmp_path: Path) -> None:
    trainer = linear_trainer(tiny_cell(), tmp_path)
    with torch.no_grad():
        for average in trainer.train_step.ema.shadow_params:
            average.zero_()
    before = [weight.detach().clone() for weight in trainer.train_step.params]
    of_average = trainer.validate(4)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.train_step.params, strict=True))
    assert trainer.train_step.backbone.training
    trainer.train_step.ema.shadow_params = [weight.detach().clone() for weight in trainer.train_step.params]
    assert trainer.validate(4) != of_average


def test_validation_is_in_the_precision_of_the_cell(tmp_path: Path) -> None:
    """Wherever it is asked for: in the run, and of any backbone at a shape of the grid."""
    backbone, val = Linear(), latent_set(4)
    losses = [validation_losses(backbone, val, 4, tiny_cell(precision=precision), torch.device("cpu")) for precision in ("fp32", "bf16")]
    assert losses[0] != losses[1]
    assert_close(list(losses[0].values()), list(losses[1].values()), rtol=0.05, atol=0)
