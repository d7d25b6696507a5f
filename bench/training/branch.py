"""Branches of a run: at parts of its budget the rate falls to 0 over a short stretch, the loss is taken, and the run goes on as before.

A run at a constant rate so gives the losses of runs of several budgets (a "cooldown", Haegele et al. 2024, 2405.18392). A branch takes
the draws that would follow, so it is bit for bit what a run of that part of the budget is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_map

from bench.records.record import Branch
from bench.study.scale import scaled_budget
from bench.training import checkpoint
from bench.training.checkpoint import State, named
from bench.training.step import SCHEDULES

if TYPE_CHECKING:
    from bench.training.trainer import Trainer


def is_due(trainer: Trainer) -> bool:
    """Whether the next branch leaves before the next step, which in a run of its part would be the first at a lower rate."""
    cell, state = trainer.cell, trainer.state
    if len(state.branches) == len(cell.branches):
        return False
    budget = scaled_budget(cell.budget, cell.branches[len(state.branches)])
    return SCHEDULES[cell.optimizer.schedule](budget.fraction(state.spent)) < 1


def branch_off(trainer: Trainer) -> Branch | None:
    """The next branch, trained and measured; None where the run is asked to stop. Weights, optimiser and average are then as before."""
    state, train_step = trainer.state, trainer.train_step
    part = trainer.cell.branches[len(state.branches)]
    budget = scaled_budget(trainer.cell.budget, part)
    held: dict[str, Any] = tree_map(_copied, checkpoint.kept(train_step))
    own = State(
        inputs=state.inputs,
        step=state.step,
        num_samples=state.num_samples,
        num_voxels=state.num_voxels,
        forward_flops=state.forward_flops,
    )
    try:
        while (used := budget.fraction(own.spent)) < 1:
            if trainer.should_stop():
                return None
            drawn = trainer.draw(own.step)
            train_step(drawn.loss, own.step, used)
            own.add(drawn.work(trainer.flops_of, trainer.num_tokens), 0.0)
            trainer.progress(own.step - state.step, own.step, f"branch of {part:.0%} of the budget")
        losses = trainer.validate(len(trainer.val))
    finally:
        checkpoint.put_back(train_step, held)
    return Branch(
        part=part,
        step=own.step,
        num_samples=own.num_samples,
        latent_voxels=own.num_voxels,
        forward_flops=own.forward_flops,
        loss_by_timestep=named(losses),
    )


def _copied(value: Any) -> Any:
    """A tensor on the host, so that the device does not hold it twice."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value
