"""Packs of clips of many shapes on a CPU: against padding, against equal clips, what each part gains, and which kernel is fastest.

A step is forward, mean squared error and backward. Every round takes clips of other shapes, as training does, and all ratios are of pairs
that alternate within it.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from bench.backbone import load_backbone
from bench.perf.controls import KERNELS, Padded
from bench.perf.mix import num_tokens, packs, uniform_like
from bench.perf.speed import of_pairs
from bench.shapes import LatentSpec, Shape
from bench.training.objective import mean_square
from dit.kernels import OPERATIONS

SPEC = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=10)
BUDGET = 2048  # tokens of a pack
ROUNDS = {"XS": 24, "S": 12}
SIX_SHAPES: tuple[Shape, ...] = ((8, 12, 12), (8, 12, 24), (8, 24, 12), (4, 16, 16), (1, 12, 24), (1, 24, 12))  # as a set of worlds has
# fmt: off
HEADS = {
    #     heads  width of one
    "XS": (  4,     32),
    "S":  (  6,     64),
    "B":  ( 12,     64),
}
# fmt: on
IN_PACKS = {  # change -> operations of the backbone's table: those that matter to packs
    "rows of a mixed pack not copied": ("over_clips", "sum_of_clips"),
    "clips of one length side by side": ("clip_order",),
    "one derivative for a pack's attention": ("attend",),
    "long and bfloat16 attention by products": ("attention_products",),
}


Ratios = dict[str, list[float]]  # name of a contender -> of every round, its seconds over those of ours


class Batch:
    """Random clips and what to predict of them."""

    def __init__(self, shapes: Sequence[Shape], device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.latents, self.targets = ([torch.randn(4, *shape, generator=generator).to(device) for shape in shapes] for _ in range(2))
        self.timesteps = torch.rand(len(shapes), generator=generator).to(device)
        self.labels = (torch.arange(len(shapes)) % SPEC.num_labels).to(device)
        self.num_tokens = sum(map(num_tokens, shapes))


def dit(size: str) -> Any:
    """With random weights: those of a new model leave most gradients zero."""
    generator = torch.Generator().manual_seed(0)
    model: Any = load_backbone(f"dit:DiT-{size}/2", SPEC)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return model


def step_s(model: nn.Module, batch: Batch, **kwargs: Any) -> float:
    """Seconds of forward, mean square and backward; on a GPU in bfloat16 under autocast, waited for."""
    device = batch.timesteps.device.type
    model.zero_grad(set_to_none=True)
    wait(device)
    start_s = time.perf_counter()
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device == "cuda"):
        predictions = model(batch.latents, batch.timesteps, batch.labels, **kwargs)
    mean_square(predictions, batch.targets).backward()
    wait(device)
    return time.perf_counter() - start_s


def wait(device: str) -> None:
    """For what was asked of a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def alternate(benchmark: Any, rounds: int, calls: Callable[[int], dict[str, Callable[[], float]]], *, warm: bool = False) -> Ratios:
    """Of every round, (seconds of each other call / seconds of the first). `calls` makes those of a round; order alternates.

    With `warm` each is called twice and the second counts: for shapes that are new, the first looks for kernels or fills caches.
    """
    times: dict[str, list[float]] = {}

    def one_round() -> None:
        number = len(next(iter(times.values()), []))
        made = list(calls(number).items())
        for name, call in made if number % 2 else reversed(made):
            if warm:
                call()
            times.setdefault(name, []).append(call())

    one_round()
    times.clear()  # the warm-up
    benchmark.pedantic(one_round, rounds=rounds)
    benchmark.extra_info.update(times_s=times, torch=torch.__version__)
    first = next(name for name in calls(0))
    return {name: [other / own for other, own in zip(series, times[first], strict=True)] for name, series in times.items() if name != first}


def report(benchmark: Any, table: str, case: str, ratios: Ratios, **fields: Any) -> None:
    """A row for each ratio."""
    benchmark.extra_info["rows"] = [
        {"table": table, "case": case, "against": name, **fields, **of_pairs(values)} for name, values in ratios.items()
    ]


def against_padding(benchmark: Any, size: str, shapes: list[list[Shape]], device: str = "cpu", **fields: Any) -> None:
    """A step of each pack of `shapes` after the first, against the same clips padded to the longest and masked."""
    model = dit(size).to(device)
    padded = Padded(model)

    def calls(number: int) -> dict[str, Callable[[], float]]:
        batch = Batch(shapes[number], device)
        return {"packed": partial(step_s, model, batch), "padded to the longest clip, masked": partial(step_s, padded, batch)}

    ratios = alternate(benchmark, len(shapes) - 1, calls, warm=device == "cuda")
    real = [sum(map(num_tokens, pack)) / len(pack) / max(map(num_tokens, pack)) for pack in shapes]
    report(benchmark, "packing", f"DiT-{size}/2", ratios, **fields, padding=1 - sum(real) / len(real))


def against_equal_clips(benchmark: Any, size: str, shapes: list[list[Shape]], device: str = "cpu", **fields: Any) -> None:
    """A token of a pack against a token of a batch of one shape, as many of them and each seeing as many."""
    model = dit(size).to(device)

    def calls(number: int) -> dict[str, Callable[[], float]]:
        mixed, uniform = Batch(shapes[number], device), Batch(uniform_like(shapes[number]), device)
        return {
            "packed": lambda: step_s(model, mixed) / mixed.num_tokens,
            "equal clips, a token": lambda: step_s(model, uniform) / uniform.num_tokens,
        }

    ratios = alternate(benchmark, len(shapes) - 1, calls, warm=device == "cuda")
    report(benchmark, "packing", f"DiT-{size}/2", ratios, **fields, padding=0.0)


def by_kernel(benchmark: Any, size: str, shapes: list[list[Shape]], precision: torch.dtype, device: str = "cpu", **fields: Any) -> None:
    """Attention alone, forward and backward, inside each clip of a pack, as the second and later blocks of a network meet its shapes."""

    def attend_s(kernel: Any, shapes: list[Shape]) -> float:
        seqlens = tuple(map(num_tokens, shapes))
        generator = torch.Generator().manual_seed(0)
        qkv = torch.randn(sum(seqlens), 3, *HEADS[size], generator=generator).to(device, precision).requires_grad_()
        upper = torch.randn(sum(seqlens), *HEADS[size], generator=generator).to(device, precision)
        wait(device)
        start_s = time.perf_counter()
        kernel(qkv, seqlens).backward(upper)
        wait(device)
        return time.perf_counter() - start_s

    def calls(number: int) -> dict[str, Callable[[], float]]:
        return {name: partial(attend_s, kernel, shapes[number]) for name, kernel in KERNELS.items()}

    case = f"{HEADS[size][0]} heads of {HEADS[size][1]}, {str(precision).removeprefix('torch.')}"
    report(benchmark, "attention", case, alternate(benchmark, len(shapes) - 1, calls, warm=True), **fields)


@pytest.mark.perf
@pytest.mark.parametrize("size", ROUNDS)
def test_pack_against_padding(benchmark: Any, size: str, threads: int) -> None:
    against_padding(benchmark, size, list(itertools.islice(packs(BUDGET), ROUNDS[size] + 1)), threads=threads)


@pytest.mark.perf
@pytest.mark.parametrize("size", ROUNDS)
def test_pack_against_equal_clips(benchmark: Any, size: str, threads: int) -> None:
    against_equal_clips(benchmark, size, list(itertools.islice(packs(BUDGET, seed=1), ROUNDS[size] + 1)), threads=threads)


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("size", ROUNDS)
def test_dropping_half_of_the_tokens(benchmark: Any, size: str) -> None:
    """The clips of a pack with every second token kept, against all of them."""
    model, shapes = dit(size), list(itertools.islice(packs(BUDGET, seed=2), ROUNDS[size] + 1))

    def calls(number: int) -> dict[str, Callable[[], float]]:
        batch = Batch(shapes[number])
        kept = [torch.arange(0, num_tokens(shape), 2) for shape in shapes[number]]
        return {"half": lambda: step_s(model, batch, kept=kept), "all tokens": lambda: step_s(model, batch)}

    report(benchmark, "dropping", f"DiT-{size}/2, half of the tokens", alternate(benchmark, ROUNDS[size], calls), threads=1)


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mix", ["any shape", "six shapes"])
@pytest.mark.parametrize("change", [*IN_PACKS, "all of them"])
def test_gain_in_packs(benchmark: Any, change: str, mix: str) -> None:
    """The packed step with the plain code that a change replaced, over the step as it is."""
    size = "XS"
    model = dit(size)
    operations = [name for each, names in IN_PACKS.items() if change in (each, "all of them") for name in names]
    any_shape = list(itertools.islice(packs(BUDGET, seed=3), ROUNDS[size] + 1))
    shapes = any_shape if mix == "any shape" else [list(SIX_SHAPES * 3)] * (ROUNDS[size] + 1)

    def plainly(batch: Batch) -> float:
        with OPERATIONS.plain(*operations):
            return step_s(model, batch)

    def calls(number: int) -> dict[str, Callable[[], float]]:
        batch = Batch(shapes[number])
        return {"as it is": lambda: step_s(model, batch), f"without: {change}": lambda: plainly(batch)}

    report(benchmark, "packed_gains", f"DiT-XS/2, {mix}", alternate(benchmark, ROUNDS[size], calls), threads=1)


@pytest.mark.perf
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ROUNDS)
def test_attention_kernels(benchmark: Any, size: str, precision: torch.dtype, threads: int) -> None:
    by_kernel(benchmark, size, list(itertools.islice(packs(BUDGET, seed=4), ROUNDS[size] + 1)), precision, threads=threads)
