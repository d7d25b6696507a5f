"""What a cell does not share with its rivals: its device, its backbone with the weights of its seed, and what it was trained on."""

from typing import Any

import torch
from torch import nn

from bench.backbone import load_backbone
from bench.data.seeds import stream_seed
from bench.run.stages import Stages
from bench.study.cell import Cell, content_hash

INPUTS = "inputs.txt"  # in a cell's folder: identity of what it was trained on


def inputs_of(cell: Cell, stages: Stages) -> str:
    """Identity of a cell and of what it trains on: a checkpoint or weights of other inputs are of no use to it."""
    return content_hash([cell.fingerprint(), stages.clips.digest, stages.autoencoder.key])


def build_backbone(cell: Cell, stages: Stages) -> Any:
    """The cell's backbone with the initial weights of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(cell.seed, "weights", 0))
        return load_backbone(cell.backbone, stages.spec)


def pick_device(cell: Cell) -> torch.device:
    """The device of a cell. ValueError where it asks for CUDA and there is none."""
    if cell.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' is asked for and torch sees no CUDA device; use device=cpu or device=auto")
    return torch.device("cpu" if cell.device == "cpu" or not torch.cuda.is_available() else "cuda")


def device_name(device: torch.device) -> str:
    """What the record calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def num_params(backbone: nn.Module) -> int:
    """Trainable parameters."""
    return sum(weight.numel() for weight in backbone.parameters() if weight.requires_grad)
