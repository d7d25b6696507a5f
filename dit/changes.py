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

from dit import attention, attention_cpu, gelu, linear, model, modulation, packing, positions
from dit.modulation import EPS, Clips, Modulation


def _gelu(self: Any, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _to_tokens(row: Tensor, clips: Clips) -> Tensor:
    return row.unsqueeze(1) if clips.spread is None else row.index_select(0, clips.spread.segments).unsqueeze(0)


def _modulated_norm(tokens: Tensor, shift: Tensor, scale: Tensor, clips: Clips) -> Tensor:
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=EPS)
    return torch.addcmul(_to_tokens(shift, clips), normed, _to_tokens(1 + scale, clips))


def _gated_sum(tokens: Tensor, gate: Tensor, branch: Tensor, clips: Clips) -> Tensor:
    return torch.addcmul(tokens, _to_tokens(gate, clips), branch)


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
    "rows of a mixed pack not copied": lambda: patch.object(modulation, "in_turn", lambda tokens: False),
    "clips of one length side by side": lambda: patch.object(packing, "side_by_side", lambda seqlens: tuple(range(len(seqlens)))),
    "tables cached by pack": lambda: patch.object(positions, "_cached_pack_tables", positions._pack_tables),
    "one derivative for a pack's attention": lambda: patch.object(attention, "attend_on_cpu", attention_cpu.attend_in_turn),
    "long and bfloat16 attention by products": lambda: patch.object(attention_cpu, "choose", lambda query: None),
    "modulation in the weights' precision": lambda: patch.object(modulation.Modulation, "forward", _modulation),
}
