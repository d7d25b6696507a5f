"""The checkpoint of a run whose weights lie in parts in several processes: each writes its own, and any number of them reads all.

A folder `checkpoint-<step>` of safetensors files by torch's distributed checkpoint, and what the parts share in `state.json`, written
last: a folder without it is of a stop in between, and the one before it is still there.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from bench.data.files import refuse_link, remove_folder, temporary, write_text
from bench.data.sealed import check_seal, seal
from bench.shapes import Refusal
from bench.training.checkpoint import BROKEN, State
from bench.training.ranks import Ranks
from bench.training.step import TrainStep

STATE = "state.json"


def folders(folder: Path) -> list[Path]:
    """Checkpoints in a cell's folder, the newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal() and (path / STATE).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def save(folder: Path, train_step: TrainStep, state: State, ranks: Ranks) -> None:
    """Write it; the one before it goes once this one is whole."""
    target = folder / f"checkpoint-{state.step}"
    work = folder / f".checkpoint-{state.step}.parts"
    if ranks.leads:
        refuse_link(target)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    ranks.wait()
    with warnings.catch_warnings(action="ignore"):  # of what is new in torch
        distributed.save(_tensors(train_step), storage_writer=HuggingFaceStorageWriter(str(work), save_distributed=True))
    ranks.wait()
    if ranks.leads:
        write_text(work / STATE, json.dumps({"state": state.model_dump(mode="json"), "rng": torch.get_rng_state().tolist()}))
        seal(work)
        if target.exists():  # of this very step: it was resumed, and asked to stop at once
            target.rename(temporary(target))
        work.rename(target)
        for old in folders(folder)[1:]:
            remove_folder(old)
    ranks.wait()


def load(folder: Path, train_step: TrainStep, inputs: str, ranks: Ranks) -> State:
    """Put weights, optimiser and average back, by however many processes they were written; where the run was.

    A new state where there is no checkpoint, or one of other `inputs`. Refusal for a damaged one.
    """
    found = folders(folder)
    if not found:
        return State(inputs=inputs)
    path = found[0]
    try:
        if ranks.leads:
            check_seal(path)
        ranks.wait()
        content = json.loads((path / STATE).read_text())
        state = State.model_validate(content["state"])
        if state.inputs != inputs:
            return State(inputs=inputs)
        train_step.prepare_optimizer()
        with warnings.catch_warnings(action="ignore"):
            distributed.load(_tensors(train_step), storage_reader=HuggingFaceStorageReader(str(path)))
        train_step.ema.optimization_step = state.step
        for each in train_step.optimizer.state.values():
            each["step"].fill_(float(state.step))
        torch.set_rng_state(torch.tensor(content["rng"], dtype=torch.uint8))
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise Refusal(f"checkpoint {path} cannot be read ({reason}); remove it to start over") from error
    return state


def _tensors(train_step: TrainStep) -> dict[str, Any]:
    """All that lies in parts, under names that no number of processes changes."""
    found: dict[str, Any] = {f"backbone.{name}": tensor for name, tensor in train_step.module.state_dict().items()}
    names = {id(weight): name for name, weight in train_step.module.named_parameters()}
    for weight, average in zip(train_step.params, train_step.ema.shadow_params, strict=True):
        name = names[id(weight)]
        found[f"average.{name}"] = _as(weight, average)
        for key in ("exp_avg", "exp_avg_sq"):
            if weight in train_step.optimizer.state:
                found[f"optimizer.{key}.{name}"] = train_step.optimizer.state[weight][key]
    return found


def _as(weight: Tensor, part: Tensor) -> Tensor:
    """What is here of a tensor, as such a part of it as is here of the weight."""
    if not isinstance(weight, DTensor):
        return part
    return DTensor.from_local(part, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride())
