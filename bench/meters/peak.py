"""What the machine can do at best: the rate of a large matrix product, measured here and now. The denominator of MFU."""

import functools
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.meters.clock import synchronize

SIDES = {"cpu": 2048, "cuda": 8192}  # of the square matrices: large enough that the product is all there is
REPEATS = 8
ENOUGH_S = 2.0  # of one product; a processor without bfloat16 arithmetic takes seconds for each


@functools.cache
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several products of two square matrices of `dtype`, on all threads that torch has. 2 n^3 FLOPs each."""
    side = SIDES[device.type]
    first, second = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    least_s = math.inf
    for product in PRODUCTS[device.type]:
        spent_s = 0.0
        for _ in range(REPEATS):
            synchronize(device)
            start_s = time.perf_counter()
            product(first, second)
            synchronize(device)
            least_s = min(least_s, time_s := time.perf_counter() - start_s)
            spent_s += time_s
            if spent_s > ENOUGH_S:
                break
    return 2 * side**3 / least_s


def by_convolution(first: Tensor, second: Tensor) -> Tensor:
    """rows (N, in) @ weight (out, in)^T as a 1x1 convolution over N pixels in channels-last: oneDNN's product, in float32 too."""
    return F.conv2d(first.T[None, :, None], second[:, :, None, None])[0, :, 0].T


# A CPU has two libraries of products, and which is the faster depends on its maker: torch gives float32 matrices to MKL alone.
PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], ...]] = {"cpu": (torch.mm, by_convolution), "cuda": (torch.mm,)}
