"""Branches of a run: each is a run of its own, bit for bit, and the run that it leaves does not notice."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from bench.meters.clock import StopWatch
from bench.study.cell import Cell
from bench.study.scale import scaled_budget
from bench.training.step import SCHEDULES
from bench.training.trainer import Interrupted
from tests.tiny import Linear, linear_trainer, mixed_set, tiny_cell

OPTIONS = {"schedule": "cooldown", "warmup_steps": 2, "ema_decay": 0.9, "learning_rate": 0.05}
PARTS = (0.25, 0.5, 0.75)


def branched(**changes: object) -> Cell:
    return tiny_cell(**{"budget": {"samples": 80}, "optimizer": OPTIONS, "branches": PARTS, **changes})


def folder(base: Path, name: str) -> Path:
    (base / name).mkdir()
    return base / name


class Dropping(Linear):
    """Draws from the global generator and counts its passes in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, latents: list[torch.Tensor], timesteps: torch.Tensor, labels: torch.Tensor | None) -> list[torch.Tensor]:
        if self.training:
            self.passes += 1
            latents = [torch.nn.functional.dropout(clip, 0.1) for clip in latents]
        return super().forward(latents, timesteps, labels)


@pytest.mark.parametrize("budget", [{"samples": 80}, {"steps": 40}, {"latent_voxels": 24 * 80}, {"train_flops": 3 * 1000 * 80.0}])
def test_a_branch_is_a_run_of_its_own_and_the_run_does_not_notice(tmp_path: Path, budget: dict[str, float]) -> None:
    cell = branched(budget=budget)
    plain = linear_trainer(branched(budget=budget, branches=()), folder(tmp_path, "plain"))
    whole = linear_trainer(cell, folder(tmp_path, "whole"))
    alone, training = plain.train(), whole.train()
    assert training.loss == alone.loss and training.grad_norm == alone.grad_norm
    assert training.validation_by_timestep == alone.validation_by_timestep and training.step_work == alone.step_work
    assert [branch.part for branch in training.branches] == list(PARTS) and not alone.branches
    for branch in training.branches:
        small = branched(budget=scaled_budget(cell.budget, branch.part).model_dump(), branches=())
        trainer = linear_trainer(small, folder(tmp_path, f"{branch.part}"))
        own = trainer.train()
        assert branch.loss_by_timestep == own.validation_by_timestep
        assert (branch.step, branch.num_samples, branch.forward_flops) == (own.num_steps, own.num_samples, trainer.state.forward_flops)
        assert branch.latent_voxels == trainer.state.num_voxels
        assert branch.loss == pytest.approx(own.validation[-1].loss)


def test_what_draws_from_the_global_generator_is_put_back_too(tmp_path: Path) -> None:
    losses, passes = [], []
    for parts in ((), PARTS):
        trainer = linear_trainer(branched(branches=()), folder(tmp_path, f"{len(parts)}"))
        torch.manual_seed(0)
        again = type(trainer)(
            branched(branches=parts), Dropping(), train=trainer.drawer.data, val=trainer.val, inputs="x", folder=trainer.folder,
            flops_of=lambda shape: 1000, device=torch.device("cpu"),
        )  # fmt: skip
        losses.append(again.train().loss)
        passes.append(float(again.train_step.module.passes))
    assert losses[0] == losses[1] and passes[0] == passes[1]


def test_many_shapes_branch_too(tmp_path: Path) -> None:
    shapes = [(4, 3, 4, 2), (4, 1, 4, 4), (4, 3, 2, 2), (4, 2, 4, 2)]
    options = {"train": mixed_set(shapes * 3), "val": mixed_set(shapes, seed=1)}
    fields = {"batching": {"policy": "pack", "voxel_budget": 48}, "budget": {"latent_voxels": 2000}}
    alone = linear_trainer(branched(**fields, branches=()), folder(tmp_path, "a"), **options).train()
    training = linear_trainer(branched(**fields), folder(tmp_path, "b"), **options).train()
    assert training.loss == alone.loss and len(training.branches) == 3


def test_seconds_of_a_branch_are_not_the_budgets(tmp_path: Path) -> None:
    trainer = linear_trainer(branched(), tmp_path)
    training = trainer.train()
    assert len(training.loss) == len(training.step_time_s) == len(training.step_work) == 40
    assert training.wall_time_s >= training.step_end_s[-1] and training.num_samples == 80


@pytest.mark.parametrize("stop_after", [3, 10, 19, 20, 21, 22, 46])
def test_a_stopped_run_has_the_same_branches(tmp_path: Path, stop_after: int) -> None:
    """Asked to stop in the run or inside a branch, before its first step or after: 40 steps, and 1, 2 and 4 of branches."""
    whole = linear_trainer(branched(), folder(tmp_path, "a")).train()
    calls = iter(range(10**6))
    with pytest.raises(Interrupted):
        linear_trainer(branched(), folder(tmp_path, "b"), should_stop=lambda: next(calls) == stop_after - 1).train()
    again = linear_trainer(branched(), tmp_path / "b").train()
    assert again.loss == whole.loss and again.branches == whole.branches
    assert again.validation_by_timestep == whole.validation_by_timestep


def test_a_killed_run_keeps_the_branches_of_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = linear_trainer(branched(), folder(tmp_path, "a")).train()
    trainer = linear_trainer(branched(), folder(tmp_path, "b"))
    step = trainer.step

    def killed(watch: StopWatch) -> None:
        step(watch)
        if trainer.state.step == 15:  # the first branch is in, the second is not
            with trainer._pause(watch):
                trainer.save()
        if trainer.state.step == 16:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = linear_trainer(branched(), tmp_path / "b")
    assert len(resumed.state.branches) == 1
    again = resumed.train()
    assert again.loss == whole.loss and again.branches == whole.branches


def test_the_rate_is_constant_and_falls_to_nothing_at_the_end() -> None:
    rate = SCHEDULES["cooldown"]
    assert [rate(used) for used in (0.0, 0.5, 0.8499)] == [1.0, 1.0, 1.0]
    assert rate(0.925) == pytest.approx(0.5) and rate(1.0) == 0.0 and rate(1.1) == 0.0


def test_a_cell_without_branches_is_as_before_there_were_any() -> None:
    plain = tiny_cell()
    assert "branches" not in plain.model_dump_json()
    assert plain.fingerprint() == "d089709d42408b8a0700ca4e09c1008589f3728e1ab19155e4ec4a9bb1651196"
    assert branched().fingerprint() != branched(branches=(0.5,)).fingerprint()
    assert Cell.model_validate_json(branched().model_dump_json()) == branched()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"branches": (0.5, 0.25)}, r"branches are parts of the budget .* got \[0.5, 0.25\]"),
        ({"branches": (1.0,)}, "between 0 and 1"),
        ({"budget": {"seconds": 5}}, "does not pass with the clock, got budget.seconds; use one of steps, samples"),
        ({"optimizer": {"schedule": "constant"}}, "branches need optimizer.schedule cooldown, .* got 'constant'"),
        ({"parallel": {"kind": "ddp", "processes": 2}}, "branches keep the state of one process, got parallel.kind 'ddp'"),
    ],
)
def test_branches_that_mean_nothing_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        branched(**changes)
