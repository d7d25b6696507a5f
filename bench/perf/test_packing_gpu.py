"""Packs of clips of many shapes on a GPU, in bfloat16: against padding, against equal clips, against other libraries, and by kernel.

As `test_packing.py` and `test_peers.py`, with larger packs and networks: small ones measure how fast a host launches kernels.
"""

import importlib
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from bench.meters.flops import flops_of
from bench.perf.mix import num_tokens, packs, uniform_like
from bench.perf.test_packing import HEADS, SPEC, Batch, alternate, dit, report, step_s
from bench.perf.test_peers import Latte, NaViT, logits_step_s, rates
from bench.shapes import Shape

pytestmark = [pytest.mark.perf, pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

BUDGET = {"S": 32768, "B": 16384}  # tokens of a pack
IMAGES_BUDGET = 8192  # and of one of images: NaViT's mask has the square of it
LATTE_CLIPS = {"S": 32, "B": 16}
ROUNDS = 9
SIZES = ["S", "B"]


def batches(size: str, budget: int, seed: int, **kwargs: Any) -> list[list[Shape]]:
    return list(itertools.islice(packs(budget, seed=seed, **kwargs), ROUNDS + 1))


def on_gpu(size: str) -> Any:
    return dit(size).cuda()


def warm_s(step: Callable[..., float], model: Any, batch: Batch) -> float:
    """Seconds of the second of two steps: for shapes that are new, the first looks for kernels."""
    step(model, batch)
    return step(model, batch)


@pytest.mark.parametrize("size", SIZES)
def test_pack_against_padding(benchmark: Any, size: str) -> None:
    model, shapes = on_gpu(size), batches(size, BUDGET[size], seed=0)
    padded = importlib.import_module("dit.controls").Padded(model)

    def calls(number: int) -> dict[str, Callable[[], float]]:
        batch = Batch(shapes[number], "cuda")
        return {
            "packed": partial(warm_s, step_s, model, batch),
            "padded to the longest clip, masked": partial(warm_s, step_s, padded, batch),
        }

    ratios = alternate(benchmark, ROUNDS, calls)
    real = [sum(map(num_tokens, pack)) / len(pack) / max(map(num_tokens, pack)) for pack in shapes]
    report(benchmark, "packing", f"DiT-{size}/2", ratios, tokens=BUDGET[size], padding=1 - sum(real) / len(real))


@pytest.mark.parametrize("size", SIZES)
def test_pack_against_equal_clips(benchmark: Any, size: str) -> None:
    model, shapes = on_gpu(size), batches(size, BUDGET[size], seed=1)

    def calls(number: int) -> dict[str, Callable[[], float]]:
        mixed, uniform = Batch(shapes[number], "cuda"), Batch(uniform_like(shapes[number]), "cuda")
        return {
            "packed": lambda: warm_s(step_s, model, mixed) / mixed.num_tokens,
            "equal clips, a token": lambda: warm_s(step_s, model, uniform) / uniform.num_tokens,
        }

    report(benchmark, "packing", f"DiT-{size}/2", alternate(benchmark, ROUNDS, calls), tokens=BUDGET[size], padding=0.0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("size", SIZES)
def test_attention_kernels(benchmark: Any, size: str) -> None:
    """Attention alone, forward and backward, inside each clip of a pack."""
    kernels = importlib.import_module("dit.controls").KERNELS
    shapes = batches(size, IMAGES_BUDGET, seed=4)

    def attend_s(kernel: Any, shapes: list[Shape]) -> float:
        seqlens = tuple(map(num_tokens, shapes))
        qkv = torch.randn(sum(seqlens), 3, *HEADS[size], device="cuda", dtype=torch.bfloat16).requires_grad_()
        upper = torch.randn(sum(seqlens), *HEADS[size], device="cuda", dtype=torch.bfloat16)
        kernel(qkv, seqlens).backward(upper)
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        kernel(qkv, seqlens).backward(upper)
        torch.cuda.synchronize()
        return time.perf_counter() - start_s

    def calls(number: int) -> dict[str, Callable[[], float]]:
        return {name: partial(attend_s, kernel, shapes[number]) for name, kernel in kernels.items()}

    case = f"{HEADS[size][0]} heads of {HEADS[size][1]}"
    report(benchmark, "attention", case, alternate(benchmark, ROUNDS, calls), tokens=IMAGES_BUDGET)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("module", ["na_vit", "na_vit_nested_tensor"])
@pytest.mark.parametrize("size", SIZES)
def test_packed_images_against_vit_pytorch(benchmark: Any, size: str, module: str) -> None:
    theirs, ours = NaViT(module, size).cuda(), on_gpu(size)
    shapes = batches(size, IMAGES_BUDGET, seed=0, max_frames=1)
    peer = "vit-pytorch's NaViT" + (", nested tensors" if theirs.nested else "")

    def calls(number: int) -> dict[str, Callable[[], float]]:
        batch = Batch(shapes[number], "cuda")
        return {
            "ours": partial(warm_s, step_s, ours, batch),
            peer: partial(warm_s, logits_step_s, theirs, Batch(shapes[number], "cuda")),
        }

    ratios = alternate(benchmark, ROUNDS, calls)
    report(benchmark, "peers", f"DiT-{size}/2, images of any size", ratios, **rates(benchmark, IMAGES_BUDGET, peer))


@pytest.mark.parametrize("size", SIZES)
def test_equal_clips_against_latte(benchmark: Any, size: str) -> None:
    theirs, ours = Latte(size).cuda(), on_gpu(size)
    shapes: list[Shape] = [(8, 16, 16)] * LATTE_CLIPS[size]
    peer = "diffusers' LatteTransformer3DModel"
    batch = Batch(shapes, "cuda")

    def calls(number: int) -> dict[str, Callable[[], float]]:
        return {"ours": partial(warm_s, step_s, ours, batch), peer: partial(warm_s, step_s, theirs, batch)}

    ratios = alternate(benchmark, ROUNDS, calls)
    with torch.device("meta"):
        models: list[Any] = [dit(size), Latte(size)]
        flops = [flops_of(model, SPEC, shapes[0]) for model in models]
    fields = rates(benchmark, batch.num_tokens, peer) | {"our_flops_over_theirs": flops[0] / flops[1]}
    report(benchmark, "peers", f"DiT-{size}/2, {len(shapes)} clips of 8x16x16", ratios, **fields)
