"""Packs of clips of many shapes on a CPU: against padding, against equal clips, what each part gains, and which kernel is fastest.

Every round takes clips of other shapes, as training does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from bench.perf.controls import KERNELS, Padded
from bench.perf.mix import mixed_packs, num_tokens, uniform_like
from bench.perf.turns import CPU, Calls, RandomClips, alternate, dit, report, seconds, step_s
from bench.shapes import Shape
from dit import SIZES  # depth, hidden, heads
from dit.kernels import OPERATIONS

BUDGET = 2048  # tokens of a pack
ROUNDS = {"XS": 24, "S": 12}
SIX_SHAPES: tuple[Shape, ...] = ((8, 12, 12), (8, 12, 24), (8, 24, 12), (4, 16, 16), (1, 12, 24), (1, 24, 12))  # as a set of worlds has
IN_PACKS = {  # change -> operations of the backbone's table: those that matter to packs
    "rows of a mixed pack not copied": ("over_clips", "sum_of_clips"),
    "clips of one length side by side": ("clip_order",),
    "one derivative for a pack's attention": ("attend",),
    "long and bfloat16 attention by products": ("attention_products",),
}

pytestmark = pytest.mark.perf


def against_padding(benchmark: Any, size: str, packs: list[list[Shape]], device: torch.device = CPU, **fields: Any) -> None:
    """A step of each pack against the same clips padded to the longest and masked."""
    model = dit(f"{size}/2", device)
    padded = Padded(model)

    def calls(number: int) -> Calls:
        batch = RandomClips(packs[number], device)
        return {"packed": partial(step_s, model, batch), "padded to the longest clip, masked": partial(step_s, padded, batch)}

    ratios = alternate(benchmark, len(packs), calls, warm=device.type == "cuda")
    real = [sum(map(num_tokens, pack)) / len(pack) / max(map(num_tokens, pack)) for pack in packs]
    report(benchmark, "packing", f"DiT-{size}/2", ratios, **fields, padding=1 - sum(real) / len(real))


def against_equal_clips(benchmark: Any, size: str, packs: list[list[Shape]], device: torch.device = CPU, **fields: Any) -> None:
    """A token of a pack against a token of a batch of one shape, as many of them and each seeing as many."""
    model = dit(f"{size}/2", device)

    def calls(number: int) -> Calls:
        batches = {"packed": RandomClips(packs[number], device), "equal clips, a token": RandomClips(uniform_like(packs[number]), device)}
        return {name: lambda batch=batch: step_s(model, batch) / batch.num_tokens for name, batch in batches.items()}  # type: ignore[misc]

    ratios = alternate(benchmark, len(packs), calls, warm=device.type == "cuda")
    report(benchmark, "packing", f"DiT-{size}/2", ratios, **fields, padding=0.0)


def by_kernel(
    benchmark: Any, size: str, packs: list[list[Shape]], precision: torch.dtype, device: torch.device = CPU, **fields: Any
) -> None:
    """Attention alone, forward and backward, inside each clip of a pack, as the second and later blocks of a network meet its shapes."""
    _, width, num_heads = SIZES[size]
    heads = num_heads, width // num_heads

    def attend_s(kernel: Any, shapes: list[Shape]) -> float:
        seqlens = tuple(map(num_tokens, shapes))
        generator = torch.Generator().manual_seed(0)
        qkv = torch.randn(sum(seqlens), 3, *heads, generator=generator).to(device, precision).requires_grad_()
        upper = torch.randn(sum(seqlens), *heads, generator=generator).to(device, precision)
        return seconds(lambda: kernel(qkv, seqlens).backward(upper), device)

    def calls(number: int) -> Calls:
        return {name: partial(attend_s, kernel, packs[number]) for name, kernel in KERNELS.items()}

    case = f"{heads[0]} heads of {heads[1]}, {str(precision).removeprefix('torch.')}"
    report(benchmark, "attention", case, alternate(benchmark, len(packs), calls, warm=True), **fields)


@pytest.mark.parametrize("against", [against_padding, against_equal_clips])
@pytest.mark.parametrize("size", ROUNDS)
def test_pack(benchmark: Any, size: str, against: Callable[..., None], threads: int) -> None:
    against(benchmark, size, mixed_packs(ROUNDS[size], BUDGET), threads=threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("size", ROUNDS)
def test_dropping_half_of_the_tokens(benchmark: Any, size: str) -> None:
    """The clips of a pack with every second token kept, against all of them."""
    model, packs = dit(f"{size}/2"), mixed_packs(ROUNDS[size], BUDGET)

    def calls(number: int) -> Calls:
        batch = RandomClips(packs[number])
        kept = [torch.arange(0, num_tokens(shape), 2) for shape in packs[number]]
        return {"half": partial(step_s, model, batch, kept=kept), "all tokens": partial(step_s, model, batch)}

    report(benchmark, "dropping", f"DiT-{size}/2, half of the tokens", alternate(benchmark, len(packs), calls), threads=1)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mix", ["any shape", "six shapes"])
@pytest.mark.parametrize("change", [*IN_PACKS, "all of them"])
def test_gain_in_packs(benchmark: Any, change: str, mix: str) -> None:
    """The packed step with the plain code that a change replaced, over the step as it is."""
    model, rounds = dit("XS/2"), ROUNDS["XS"]
    plainly = OPERATIONS.plain(*(name for each, names in IN_PACKS.items() if change in (each, "all of them") for name in names))
    packs = mixed_packs(rounds, BUDGET) if mix == "any shape" else [list(SIX_SHAPES * 3)] * rounds

    def calls(number: int) -> Calls:
        batch = RandomClips(packs[number])
        return {"as it is": partial(step_s, model, batch), f"without: {change}": partial(plainly(step_s), model, batch)}

    report(benchmark, "packed_gains", f"DiT-XS/2, {mix}", alternate(benchmark, rounds, calls), threads=1)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ROUNDS)
def test_attention_kernels(benchmark: Any, size: str, precision: torch.dtype, threads: int) -> None:
    by_kernel(benchmark, size, mixed_packs(ROUNDS[size], BUDGET), precision, threads=threads)
