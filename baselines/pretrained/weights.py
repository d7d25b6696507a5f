"""The files of a checkpoint's weights into a network: read without running anything in them, and only where every one fits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from baselines.pretrained.checkpoint import Checkpoint
from bench.shapes import Refusal


def put_weights(network: nn.Module, checkpoint: Checkpoint, *, others: frozenset[str] = frozenset()) -> None:
    """Give a network the checkpoint's weights, in its own precision; those named in `others` stay as they are.

    Refusal for a file that is damaged or would run code, and for weights of another architecture.
    """
    given: dict[str, Any] = {}
    for path in checkpoint.weight_files():
        given |= read_weights(path)
    own = {name: tensor for name, tensor in network.state_dict().items() if name not in others}
    given = {name: tensor for name, tensor in given.items() if name not in others}
    odd = [
        f"{name} is {_shape(given.get(name), 'missing')} there, {_shape(own.get(name), 'unknown')} in {checkpoint.class_name}"
        for name in sorted(own.keys() | given.keys())
        if _shape(own.get(name)) != _shape(given.get(name))
    ]
    if odd:
        raise Refusal(
            f"{checkpoint.name}: the weights are of another architecture than {checkpoint.part}/config.json: {len(odd)} tensors differ, "
            f"{odd[0]}; get the checkpoint again"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> weight. Refusal for a file that cannot be read, or is a pickle that holds more than tensors: it is not run."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refusal(f"{path} is a pickle that holds more than tensors, and loading it could run anything; use safetensors") from error
    except (SafetensorError, OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise Refusal(f"weights {path} cannot be read ({' '.join(str(error).split())[:200]}); get the checkpoint again") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        raise Refusal(f"{path} holds no table of weights by name; use safetensors")
    return found


def _shape(tensor: Tensor | None, absent: str = "") -> str:
    return absent if tensor is None else "x".join(map(str, tensor.shape)) or "one number"
