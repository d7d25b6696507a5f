"""How a backbone is run: in which precision, and its blocks compiled or recomputed. One way for every backbone.

Weights stay float32, `bf16` casts inside. A backbone that offers it has `repeated_blocks()`: the modules that are compiled one by one
(regional compilation: one compilation serves all blocks of a kind) or whose activations are dropped and computed again in the backward
pass (Chen et al., 1604.06174); neither changes what it computes.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.shapes import Refusal
from bench.study.cell import Acceleration

HALF: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}  # precision of a cell -> what autocast casts to


@contextlib.contextmanager
def autocast(device: torch.device, half: torch.dtype | None) -> Iterator[None]:
    """Autocast to `half`, or none. Where a fake CUDA device has no driver `torch.autocast` would switch itself off."""
    kind = device.type
    if half is None:
        yield
    elif kind == "cpu" or torch.cuda.is_available():
        with torch.autocast(kind, dtype=half):
            yield
    else:
        torch.set_autocast_enabled(kind, True)
        torch.set_autocast_dtype(kind, half)
        try:
            yield
        finally:
            torch.set_autocast_enabled(kind, False)
            torch.clear_autocast_cache()


def accelerate(backbone: nn.Module, acceleration: Acceleration) -> None:
    """Apply a cell's choice to the blocks of a backbone, in place of an earlier one. Refusal where the backbone offers none.

    What `auto` chooses, and graphs, which need batches, are the trainer's: here they leave blocks uncompiled.
    """
    blocks = getattr(backbone, "repeated_blocks", None)
    block: Any
    for block in blocks() if blocks is not None else ():
        vars(block).pop("forward", None)
    if acceleration.compile != "blocks" and acceleration.checkpointing == "none":
        return
    if blocks is None:
        raise Refusal(
            f"acceleration needs a backbone with repeated_blocks(), and {type(backbone).__name__} has none; use acceleration.compile=none "
            "and acceleration.checkpointing=none"
        )
    for block in blocks():
        if acceleration.compile == "blocks":
            block.forward = torch.compile(block.forward)  # before it is wrapped: what checkpointing adds is not for a compiler
        if acceleration.checkpointing == "blocks":
            # A backbone draws nothing at random, so no generator's state need be kept.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
