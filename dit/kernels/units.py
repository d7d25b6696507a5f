"""Attention of an autoregressive training pass in parts: what a noised token sees is two softmaxes, of its unit and of the clean units
before it, and torch's fused kernel says what each sums to, so that they merge into one.

No key is copied, and noised tokens of other units are never multiplied with. A clean unit sees keys in one run, its own last, and needs no
merging. The derivative of each part is the fused kernel's own: it needs the output and the sum of the whole softmax, and not which part of
the keys it is given. `bench/perf/test_units.py` measures the ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from bench.backbone import Operation
from dit import unit_attention
from dit.kernels import private
from dit.unit_attention import Arrangement

LONG = 32  # tokens of a unit from which a call of the kernel for each unit is faster than one for all, half of it masked away
FEW = 64  # units up to which a device without the fused kernel of a CPU takes them in turn, with no mask


def attend_by_parts(qkv: Tensor, units: Arrangement) -> Tensor:
    """`unit_attention.attend_units` by the kernels that are fastest on the device."""
    if torch.compiler.is_compiling():  # one graph: a unit in turn would be code of its own
        return unit_attention.attend_units(qkv, units)
    if qkv.device.type == "cpu" and private.FLASH is not None and private.FLASH_BACKWARD is not None:
        return UnitAttention.apply(qkv.contiguous(), units)
    # On `meta` FLOPs are counted: of what is seen, and not of what a mask hides.
    in_turn = qkv.device.type == "meta" or (units.units <= FEW and not is_in_torch_dispatch_mode())
    return (unit_attention.attend_in_turn if in_turn else unit_attention.attend_units)(qkv, units)


class UnitAttention(torch.autograd.Function):
    """Softmax attention over what each token sees: (B (2 U - 1) n, 3, K, E), contiguous -> (B (2 U - 1) n, K, E)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, units: Arrangement) -> Tensor:
        packed = qkv.new_empty(len(qkv), *qkv.shape[2:])
        noised, clean = unit_attention.split(packed, units)
        num_out = noised.shape[0] * noised.shape[1] if units.ends else len(packed)
        own_out = by_unit(noised, units)  # (B U, K, n, E)
        own, log_sums = private.FLASH(*by_unit(unit_attention.split(qkv, units)[0], units))
        own_out.copy_(own)
        # (B, K, U n) and (B, K, (U - 1) n): the logarithm of what each softmax sums to.
        of_noised = log_sums.view(len(noised), units.units, -1, units.length).transpose(1, 2).flatten(2).contiguous()
        of_clean = log_sums.new_empty(*of_noised.shape[:2], clean.shape[1])
        outs, sums = (noised, clean), (of_noised, of_clean)
        for part, queries, heads, causal, mask in passes(qkv, units):
            out, log_sum = private.FLASH(*heads, 0.0, causal, attn_mask=mask)
            found, known = outs[part][:, queries].transpose(1, 2), sums[part][:, :, queries]  # (B, K, q, E), (B, K, q)
            if part == CLEAN:
                found.copy_(out)
                known.copy_(log_sum)
                continue
            total = torch.logaddexp(known, log_sum)
            share = (log_sum - total).exp().unsqueeze(-1)  # of the clean units before
            found.lerp_(out, share.to(out.dtype))
            known.copy_(total)
        ctx.save_for_backward(qkv, packed, *sums)
        ctx.units = units
        return packed[:num_out]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, packed, *sums = ctx.saved_tensors
        units: Arrangement = ctx.units
        outs = unit_attention.split(packed, units)
        grad = grad.contiguous()
        grads_out = (grad.view_as(outs[0]), outs[1]) if units.ends else unit_attention.split(grad, units)
        grads = torch.empty_like(qkv)
        own_noised, of_clean = unit_attention.split(grads, units)
        of_clean.zero_()
        num_clips = len(own_noised)
        log_sums = sums[0].view(num_clips, -1, units.units, units.length).transpose(1, 2).flatten(0, 1).contiguous()
        heads = by_unit(unit_attention.split(qkv, units)[0], units)
        found = private.FLASH_BACKWARD(by_unit(grads_out[0], units), *heads, by_unit(outs[0], units), log_sums, 0.0, False)
        for place, part in zip(by_unit(own_noised, units), found, strict=True):
            place.copy_(part)
        of_noised_queries = own_noised[:, :, 0]  # (B, U n, K, E)
        keys = of_clean[:, :, 1:]  # (B, (U - 1) n, 2, K, E)
        for part, queries, each, causal, mask in passes(qkv, units):
            out, grad_out = outs[part][:, queries].transpose(1, 2), grads_out[part][:, queries].transpose(1, 2)
            sums_here = sums[part][:, :, queries].contiguous()
            of_query, of_key, of_value = private.FLASH_BACKWARD(grad_out, *each, out, sums_here, 0.0, causal, attn_mask=mask)
            into = of_clean[:, queries, 0] if part == CLEAN else of_noised_queries[:, queries]
            into.add_(of_query.transpose(1, 2))
            seen = of_key.shape[2]
            keys[:, :seen, 0].add_(of_key.transpose(1, 2))
            keys[:, :seen, 1].add_(of_value.transpose(1, 2))
        return grads, None


def by_unit(noised: Tensor, units: Arrangement) -> Any:
    """Noised (B, U n, 3, K, E) -> queries, keys and values (B U, K, n, E) each; (B, U n, K, E) -> (B U, K, n, E). Views."""
    rows = noised.flatten(0, 1).unflatten(0, (-1, units.length))  # (B U, n, ...)
    return rows.permute(2, 0, 3, 1, 4).unbind() if rows.dim() == 5 else rows.transpose(1, 2)


NOISED, CLEAN = 0, 1


class Pass(NamedTuple):
    """Queries of one kind and the clean keys that they see."""

    part: int  # NOISED or CLEAN
    queries: slice  # which of them
    heads: list[Tensor]  # (B, K, q, E) of queries, (B, K, m, E) of keys and of values
    causal: bool  # each query sees one key more than the one before it
    mask: Tensor | None  # (q, m), added; None: each sees all


def passes(qkv: Tensor, units: Arrangement) -> Iterator[Pass]:
    """What is attended to beside each noised unit's self.

    Of units of one token it is two triangles; of short ones two squares, half of each masked away; of long ones a rectangle for each.
    """
    noised, clean = (part.permute(2, 0, 3, 1, 4) for part in unit_attention.split(qkv, units))  # (3, B, K, tokens, E)
    length, every = units.length, slice(None)
    if units.units == 1:
        return
    if length < LONG:
        after = slice(length, None)
        causal = length == 1
        made = steps.__wrapped__ if is_in_torch_dispatch_mode() else steps  # what a fake pass makes is of no use to another
        mask = None if causal else made(units, qkv.dtype)
        yield Pass(NOISED, after, [noised[0, :, :, after], clean[1], clean[2]], causal, mask)
        if not units.ends:
            yield Pass(CLEAN, every, list(clean), causal, mask)
        return
    for unit in range(1, units.units):
        keys = [part[:, :, : unit * length] for part in clean[1:]]
        before, own = slice((unit - 1) * length, unit * length), slice(unit * length, (unit + 1) * length)
        yield Pass(NOISED, own, [noised[0, :, :, own], *keys], False, None)
        if units.ends:
            continue
        yield Pass(CLEAN, before, [clean[0, :, :, before], *keys], False, None)


@lru_cache(8)
def steps(units: Arrangement, dtype: torch.dtype) -> Tensor:
    """Of clean units each sees those up to itself, of noised ones from the second on each those before it, the same keys: 0, else -inf."""
    with torch.inference_mode(False), torch.no_grad():
        seen = torch.ones(units.units - 1, units.units - 1, dtype=torch.bool).tril()
        return (
            torch.zeros(seen.shape, dtype=dtype)
            .masked_fill_(~seen, -torch.inf)
            .repeat_interleave(units.length, 0)
            .repeat_interleave(units.length, 1)
        )


attend_units = Operation(unit_attention.attend_units, attend_by_parts)
