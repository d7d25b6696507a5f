"""What was done for speed and memory, each with the plain code that it replaced: so that its gain can be measured, and is.

`bench/perf/test_changes.py` takes steps with and without each in turn. Nothing else uses this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from baselines import blocks, operators, unet
from baselines.blocks import TemporalConvolution


def _temporal_convolution(self: TemporalConvolution, maps: Tensor, num_frames: int) -> Tensor:
    clips = maps.unflatten(0, (-1, num_frames)).transpose(1, 2)  # (B, C, T, H, W)
    hidden = clips
    for norm, *_, conv in (self.conv1, self.conv2, self.conv3, self.conv4):
        hidden = F.conv3d(F.silu(norm(hidden)), conv.weight, conv.bias, padding=(1, 0, 0))
    return (clips + hidden).transpose(1, 2).flatten(0, 1)


def _linear(layer: nn.Linear, tokens: Tensor, residual: Tensor | None = None) -> Tensor:
    output = F.linear(tokens, layer.weight, layer.bias)
    return output if residual is None else residual + output


def _norm_silu(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    return F.silu(norm(maps))


def _gated_gelu(projected: Tensor) -> Tensor:
    values, gates = projected.chunk(2, dim=-1)
    return values * F.gelu(gates)


def _attention_over_time(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (each.permute(0, 2, 3, 1, 4).flatten(0, 1) for each in (query, key, value))  # (B S, K, T, E)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.unflatten(0, (len(query), -1)).permute(0, 3, 1, 2, 4)


def _attend_context(attention: Attention, tokens: Tensor, context: Tensor, *, residual: Tensor) -> Tensor:
    """Keys and values of the context once a frame."""
    context = context.repeat_interleave(len(tokens) // len(context), dim=0)  # (F, n, context_width)
    query, key, value = (
        _linear(project, rows).unflatten(2, (attention.heads, -1)).transpose(1, 2)  # (F, K, S or n, E)
        for project, rows in ((attention.to_q, tokens), (attention.to_k, context), (attention.to_v, context))
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    return _linear(attention.to_out[0], mixed.transpose(1, 2).flatten(2), residual)


@contextmanager
def _everywhere(name: str, plain: Callable[..., Any], *modules: Any) -> Iterator[None]:
    """A function is known under its name in each module that imported it."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch.object(module, name, plain))
        yield


# Change -> a context in which the plain code runs.
PLAIN: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "temporal convolutions in two dimensions": lambda: patch.object(TemporalConvolution, "forward", _temporal_convolution),
    "linear layers by oneDNN": lambda: patch.object(blocks, "linear", _linear),
    "channels-last maps": lambda: _everywhere("laid_out", Tensor.contiguous, operators, unet),
    "group norm and SiLU in one": lambda: _everywhere("norm_silu", _norm_silu, blocks, unet),
    "gated GELU in one": lambda: patch.object(blocks, "gated_gelu", _gated_gelu),
    "attention over time by products": lambda: patch.object(blocks, "attention_over_time", _attention_over_time),
    "context weights multiplied in, once a clip": lambda: patch.object(blocks, "attend_context", _attend_context),
}
