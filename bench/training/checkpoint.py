"""Where a run is, and the checkpoint of it: everything that training goes on from, bit for bit, in one file that is whole or not there."""

import math
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from bench.data.files import replacing
from bench.meters.warmup import num_warmup_steps
from bench.records.artefacts import content_sha256
from bench.records.record import Course, Training, ValidationPoint, Work
from bench.shapes import Refusal
from bench.study.budget import Spent
from bench.training.step import TrainStep

# What torch raises for a broken file (found by mutating files).
BROKEN = (
    *(OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError),
    *(ArithmeticError, AssertionError, AttributeError, MemoryError, struct.error),
)
EXPLODED = 5.0  # diverged: the mean loss of 20 steps is this many times that of the first step


class Diverged(Exception):
    """The loss became infinite, not a number, or exploded. A result, not a fault."""


class State(Course):
    """Where a run is and what it has seen."""

    inputs: str  # identity of the cell and of its latents: a checkpoint of other inputs is not resumed
    step: int = 0
    num_voxels: int = 0  # as in WORK, of all steps
    forward_flops: int = 0
    peak_storage_bytes: int = 0  # of which `storage_by_kind` is the split
    commits: list[str] = Field(default_factory=list)  # every one that worked on the run
    machines: list[str] = Field(default_factory=list)  # device, threads and torch of every process that did
    peaks: dict[str, int] = Field(default_factory=dict)  # what PhaseMemory found, the highest of every process that did
    points: list[tuple[float, int, float, int]] = Field(default_factory=list)  # part, step, seconds and forward FLOPs of each kept average

    @property
    def spent(self) -> Spent:
        """What the budget's axes count."""
        return Spent(
            steps=self.step,
            samples=self.num_samples,
            latent_voxels=self.num_voxels,
            forward_flops=self.forward_flops,
            seconds=self.wall_time_s,
        )

    def add(self, work: Work, wall_time_s: float) -> None:
        """Count a step that was handed to the device at `wall_time_s`."""
        self.step += 1
        self.num_samples += work[0]
        self.num_voxels += work[2]
        self.forward_flops += work[4]
        self.step_work.append(work)
        self.wall_time_s = wall_time_s

    def check(self, num_new: int, learning_rate: float) -> None:
        """Diverged where one of the `num_new` last losses is not finite, or they exploded."""
        losses = self.loss
        if num_new and not all(math.isfinite(loss) for loss in losses[-num_new:]):
            raise Diverged(f"loss is {losses[-1]} at step {len(losses)}; learning rate {learning_rate}")
        if len(losses) >= 20 and (recent := float(np.mean(losses[-20:]))) > EXPLODED * losses[0]:
            raise Diverged(f"loss {recent:.3g} at step {len(losses)} is over {EXPLODED:g} times the first step's {losses[0]:.3g}")

    def training(self, last: ValidationPoint | None = None, by_timestep: dict[float, float] | None = None) -> Training:
        """What the record says; of a run that diverged too, which has no `last` validation."""
        shared: dict[str, Any] = {field: getattr(self, field) for field in Course.model_fields}
        shared["validation"] = [*self.validation, *([last] if last else [])]
        return Training(
            num_steps=self.step,
            num_warmup_steps=num_warmup_steps(self.step_time_s),
            validation_by_timestep=named(by_timestep or {}),
            **shared,
        )


def named(by_timestep: dict[float, float]) -> dict[str, float]:
    """Losses by timestep as records have them."""
    return {f"{timestep:g}": loss for timestep, loss in by_timestep.items()}


def kept(train_step: TrainStep) -> dict[str, Any]:
    """All that a step changes, not copied."""
    return {
        "backbone": train_step.module.state_dict(),
        "optimizer": train_step.optimizer.state_dict(),
        "ema": train_step.ema.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if train_step.device.type == "cuda" else [],
    }


def put_back(train_step: TrainStep, content: dict[str, Any]) -> None:
    """Make all that a step changes as it was when `kept` gave it."""
    train_step.module.load_state_dict(content["backbone"])
    train_step.optimizer.load_state_dict(content["optimizer"])
    train_step.ema.load_state_dict(content["ema"])
    train_step.ema.to(train_step.device)
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"] and train_step.device.type == "cuda":
        torch.cuda.set_rng_state_all(content["cuda_rng"])


def save(path: Path, train_step: TrainStep, state: State) -> None:
    """Write it. StoreError where the disk is full; the one before it is then still there."""
    content = {"state": state.model_dump(), **kept(train_step)}
    with replacing(path) as temp, temp.open("wb") as file:
        torch.save(content | {"sha256": content_sha256(content)}, file)


def load(path: Path, train_step: TrainStep, inputs: str) -> State:
    """Put weights, optimiser, average and random numbers back; where the run was.

    A new state where there is no checkpoint, or one of other `inputs`: the data changed under the same cell. Refusal for a damaged one.
    """
    fresh = State(inputs=inputs)
    if not path.is_file():
        return fresh
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if content.pop("sha256", None) != content_sha256(content):  # torch does not ask the check sums of its files
            raise ValueError("its content is not what was written")
        state = State.model_validate(content["state"])
        if state.inputs != inputs:
            return fresh
        put_back(train_step, content)
    except (*BROKEN, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Refusal(f"checkpoint {path} cannot be read ({reason}); remove it to start over") from error
    return state
