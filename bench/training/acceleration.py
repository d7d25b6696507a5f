"""What may be done to any backbone without changing what it computes: compile its blocks, recompute them in backward.

A backbone that offers it has `repeated_blocks()`: the modules that are compiled one by one (regional compilation: one compilation serves
all blocks of a kind) or whose activations are dropped and computed again (Chen et al., 1604.06174).
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.shapes import Refusal
from bench.study.cell import Acceleration


def accelerate(backbone: nn.Module, acceleration: Acceleration) -> None:
    """Apply a cell's choice to a backbone, in place. Refusal where the backbone offers no blocks."""
    if acceleration == Acceleration():
        return
    blocks = getattr(backbone, "repeated_blocks", None)
    if blocks is None:
        raise Refusal(
            f"acceleration needs a backbone with repeated_blocks(), and {type(backbone).__name__} has none; use acceleration.compile=none "
            "and acceleration.checkpointing=none"
        )
    block: Any
    for block in blocks():
        if acceleration.compile == "blocks":
            block.forward = torch.compile(block.forward)  # before it is wrapped: what checkpointing adds is not for a compiler
        if acceleration.checkpointing == "blocks":
            # A backbone draws nothing at random, so no generator's state need be kept.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
