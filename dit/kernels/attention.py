"""Attention of a pack: for each length of clips the kernel that is fastest there, and on a CPU one derivative for the pack.

Torch's fused kernel multiplies small blocks by MKL, which leaves half of some processors idle (see `linear.py`) and gains
nothing in bfloat16. So in bfloat16 attention is products of many heads at once, and in float32, where clips are long and oneDNN is the
faster library of every kind of product, products of whole matrices by oneDNN, a head at a time; short clips keep the fused kernel, and so
do narrow heads in bfloat16 on several threads. `bench/perf/test_packing.py` measures all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.backbone import PRODUCTS, Operation
from dit import attention
from dit.kernels import private, products
from dit.kernels.linear import takes_onednn
from dit.kernels.products import ManyHeads, Products, WholeMatrices
from dit.packing import PackClips, Runs

# Multiply-adds of one product of one head (length x length x E) from which whole matrices are faster than the fused kernel: on one
# thread, and on several, which share out one call better than many and wait at the end of each.
LONG = (2**22, 2**26)
WIDE = 64  # of a head, from which bfloat16 products are faster than the fused kernel on several threads too
MANY_HEADS, WHOLE_MATRICES = ManyHeads(), WholeMatrices()


def attend_by_length(qkv: Tensor, clips: PackClips) -> Tensor:
    """`attention.attend` by the kernels that are fastest on the device."""
    if torch.compiler.is_compiling():  # one graph for all packs: lengths of clips would be constants of it
        return attention.attend_masked(qkv, clips)
    if qkv.device.type == "cpu":
        return attend_on_cpu(qkv, clips)
    if len(clips.runs) > 1 and qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(length for _, length in clips.runs)
        query, key, value = (part.contiguous() for part in qkv.unbind(1))  # (N, K, E) each
        heads = varlen_attn(query, key, value, clips.cu_seqlens, clips.cu_seqlens, longest, longest)
        assert isinstance(heads, Tensor)
        return heads
    return attention.attend(qkv, clips)


def attend_to_text(query: Tensor, key_value: Tensor, mask: Tensor, clips: PackClips) -> Tensor:
    """`attention.attend_to_text`; for a compiler one graph for all packs."""
    masked = torch.compiler.is_compiling()
    return (attention.attend_to_text_masked if masked else attention.attend_to_text)(query, key_value, mask, clips)


def attend_on_cpu(qkv: Tensor, clips: PackClips) -> Tensor:
    """Each run by the products that are chosen for it, or by the fused kernel, which the plain formula takes for a run alone."""
    qkv = qkv.contiguous()
    chosen = [attention_products(qkv, length) for _, length in clips.runs]
    if None in chosen and (len(chosen) == 1 or private.FLASH is None or private.FLASH_BACKWARD is None):
        return attention.attend(qkv, clips)
    return PackAttention.apply(qkv, clips.runs, chosen)


class PackAttention(torch.autograd.Function):
    """Softmax attention inside each clip: queries, keys and values (N, 3, K, E) -> (N, K, E)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, runs: Runs, chosen: list[Products | None]) -> Tensor:
        outputs, saved = [], []
        for heads, way in zip(heads_of_runs(qkv, runs), chosen, strict=True):
            if way is None:
                output, log_sums = private.FLASH(*heads)
                saved += [heads, log_sums]
            else:
                rows = heads.flatten(1, 2)  # (3, num_clips K, length, E)
                output = products.attend(way, rows).view(heads.shape[1:])
                saved.append(rows)
            outputs.append(output.transpose(1, 2).flatten(0, 1))  # (num_clips length, K, E)
        packed = outputs[0].contiguous() if len(outputs) == 1 else torch.cat(outputs)
        ctx.save_for_backward(packed, *saved)
        ctx.runs, ctx.chosen = runs, chosen
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        packed, *tensors = ctx.saved_tensors
        saved = iter(tensors)
        num_tokens, num_heads, head_dim = packed.shape
        grads = grad.new_empty(num_tokens, 3, num_heads, head_dim)
        of_runs = (heads_of_runs(part, ctx.runs) for part in (packed.unsqueeze(1), grad.contiguous().unsqueeze(1), grads))
        for way, output, grad_output, grad_heads in zip(ctx.chosen, *of_runs, strict=True):
            heads = next(saved)
            if way is None:
                torch.stack(private.FLASH_BACKWARD(grad_output[0], *heads, output[0], next(saved), 0.0, False), out=grad_heads)
            else:
                grad_heads.copy_(products.attend_backward(way, heads, grad_output[0].flatten(0, 1)).view(grad_heads.shape))
        return grads, None, None


def heads_of_runs(packed: Tensor, runs: Runs) -> Iterator[Tensor]:
    """(N, parts, K, E), contiguous -> for each run (parts, num_clips, K, length, E), a view."""
    for (num_clips, length), part in zip(runs, packed.split([num_clips * length for num_clips, length in runs]), strict=True):
        yield part.view(num_clips, length, *packed.shape[1:]).permute(2, 0, 3, 1, 4)


def fastest_products(qkv: Tensor, length: int) -> Products | None:
    """How to multiply the heads (N, 3, K, E) of clips of this length; None for the fused kernel."""
    head_dim, several_threads = qkv.shape[-1], torch.get_num_threads() > 1
    if private.SOFTMAX_BACKWARD is None:
        return None
    if qkv.dtype == torch.bfloat16:
        return None if several_threads and head_dim < WIDE else MANY_HEADS
    pays = length**2 * head_dim >= LONG[several_threads] and set(PRODUCTS.values()) == {"onednn"}  # forward and backward have every kind
    return WHOLE_MATRICES if pays and takes_onednn(qkv) else None


attention_products = Operation(lambda qkv, length: None, fastest_products)
attend = Operation(attention.attend, attend_by_length)
