"""The checkpoint: everything that training goes on from, bit for bit, in one file that is whole or not there."""

import pickle
from pathlib import Path
from typing import Any

import torch

from bench.data.files import replacing
from bench.shapes import Refusal
from bench.training.course import State
from bench.training.step import TrainStep


def save(path: Path, train_step: TrainStep, state: State) -> None:
    """Write it. StoreError where the disk is full; the one before it is then still there."""
    content = {
        "state": state.model_dump(),
        "backbone": train_step.backbone.state_dict(),
        "optimizer": train_step.optimizer.state_dict(),
        "ema": train_step.ema.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if train_step.device.type == "cuda" else [],
    }
    with replacing(path) as temp, temp.open("wb") as file:
        torch.save(content, file)


def load(path: Path, train_step: TrainStep, inputs: str) -> State:
    """Put weights, optimiser, average and random numbers back; where the run was.

    A new state where there is no checkpoint, or one of other `inputs`: the data changed under the same cell. Refusal for a damaged one.
    """
    fresh = State(inputs=inputs)
    if not path.is_file():
        return fresh
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = State.model_validate(content["state"])
        if state.inputs != inputs:
            return fresh
        train_step.backbone.load_state_dict(content["backbone"])
        train_step.optimizer.load_state_dict(content["optimizer"])
        train_step.ema.load_state_dict(content["ema"])
        train_step.ema.to(train_step.device)
        torch.set_rng_state(content["rng"])
        if content["cuda_rng"] and train_step.device.type == "cuda":
            torch.cuda.set_rng_state_all(content["cuda_rng"])
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Refusal(f"checkpoint {path} cannot be read ({reason}); remove it to start over") from error
    return state
