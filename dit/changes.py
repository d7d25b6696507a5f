"""What was done for speed and memory, each with the plain code that it replaced: so that its gain can be measured, and is.

`bench/perf/test_changes.py` takes steps with and without each in turn. Nothing else uses this file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from dit import attention, gelu, linear, model, modulation, positions
from dit.modulation import EPS, Modulation, Spread, to_tokens


def _gelu(self: Any, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _modulated_norm(tokens: Tensor, shift: Tensor, scale: Tensor, spread: Spread | None) -> Tensor:
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=EPS)
    return torch.addcmul(to_tokens(shift, spread), normed, to_tokens(1 + scale, spread))


def _gated_sum(tokens: Tensor, gate: Tensor, branch: Tensor, spread: Spread | None) -> Tensor:
    return torch.addcmul(tokens, to_tokens(gate, spread), branch)


def _rotate_query_key(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.cat([positions.rotate(qkv[:, :, :2], cos, sin), qkv[:, :, 2:]], dim=2)


def _modulation(self: Modulation, cond: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return F.linear(cond, self.weight, self.bias).to(dtype).chunk(self.num_parts, dim=-1)


# Change -> a context in which the plain code runs.
PLAIN: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float32 products by oneDNN": lambda: patch.object(linear, "takes_onednn", lambda rows: False),
    "GELU from the sigmoid": lambda: patch.object(gelu.GELU, "forward", _gelu),
    "rotation into one buffer": lambda: patch.object(attention, "rotate_query_key", _rotate_query_key),
    "norm and modulation in one": lambda: patch.object(model, "modulated_norm", _modulated_norm),
    "gated sum with a written derivative": lambda: patch.object(model, "gated_sum", _gated_sum),
    "tables cached by grid": lambda: patch.object(positions, "_cached_grid_tables", positions._grid_tables),
    "bfloat16 attention by products": lambda: patch.object(attention, "attend_batch", F.scaled_dot_product_attention),
    "modulation in the weights' precision": lambda: patch.object(modulation.Modulation, "forward", _modulation),
}
