"""A training step of the patch transformer on one thread: against diffusers' network of the same sizes, and bfloat16 against float32."""

from functools import partial
from typing import Any

import pytest
import torch

from bench.meters.flops import count_flops
from bench.perf.turns import SPEC, RandomClips, alternate, dit, peak_bytes, randomised, report, seconds, step_s
from bench.perf.twins import DiffusersDiT
from bench.shapes import Shape
from dit import SIZES  # depth, hidden, heads
from dit.kernels.linear import product, takes_onednn

PEAK_SIZE = 2048  # side of the matrices whose product is the measured peak
# size -> latents, batch, rounds
CASES: dict[str, tuple[Shape, int, int]] = {"XS": ((1, 16, 16), 16, 25), "S": ((1, 32, 32), 4, 9), "B": ((1, 32, 32), 4, 5)}

pytestmark = [pytest.mark.perf, pytest.mark.usefixtures("one_thread")]


def batch_of(size: str, half: torch.dtype | None = None) -> RandomClips:
    shape, batch_size, _ = CASES[size]
    return RandomClips([shape] * batch_size, half=half)


@pytest.mark.parametrize("size", ["XS", "S"])
def test_step_against_diffusers(benchmark: Any, size: str) -> None:
    ours, theirs, batch = dit(f"{size}/2-sincos"), randomised(DiffusersDiT(SIZES[size], CASES[size][0][1], SPEC)), batch_of(size)
    peer = "diffusers' DiTTransformer2DModel"
    ratios = alternate(benchmark, CASES[size][-1], {"ours": partial(step_s, ours, batch), peer: partial(step_s, theirs, batch)})
    peaks = {"peak_bytes": peak_bytes(ours, batch), "diffusers_peak_bytes": peak_bytes(theirs, batch)}
    report(benchmark, "rivals", f"DiT-{size}/2", ratios, threads=1, **peaks)


@pytest.mark.parametrize("size", ["S", "B"])
def test_step_in_bfloat16_against_float32(benchmark: Any, size: str) -> None:
    model = dit(f"{size}/2-sincos")
    calls = {str(half): partial(step_s, model, batch_of(size, half)) for half in (torch.bfloat16, None)}
    ratios = alternate(benchmark, CASES[size][-1], calls)
    report(benchmark, "precision", f"DiT-{size}/2", {"float32": ratios["None"]}, width=SIZES[size][1], threads=1)


def test_share_of_the_matrix_product_peak(benchmark: Any) -> None:
    """The peak is torch's own float32 product. Where oneDNN's is faster, ours takes that one, and the share may pass 1."""
    size = "S"
    shape, batch_size, rounds = CASES[size]
    share = 3 * batch_size * count_flops(f"dit:DiT-{size}/2-sincos", SPEC, shape) / (2 * PEAK_SIZE**3)  # backward costs two forwards
    left, right = torch.randn(2, PEAK_SIZE, PEAK_SIZE).unbind()
    products = {"torch's product": lambda: torch.mm(left, right)}
    if takes_onednn(left):
        products["oneDNN's product"] = lambda: product(left, right)
    calls = {"step": partial(step_s, dit(f"{size}/2-sincos"), batch_of(size))}
    calls |= {name: partial(seconds, multiply) for name, multiply in products.items()}
    ratios = alternate(benchmark, rounds, calls)
    shares = {name: [ratio * share for ratio in pairs] for name, pairs in ratios.items()}
    report(benchmark, "peak", f"DiT-{size}/2, float32", shares, side=PEAK_SIZE, threads=1)
