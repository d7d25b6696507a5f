"""What the machine can do at best: the rate of a large matrix product, measured here and now. The denominator of MFU."""

import functools
import time

import torch

from bench.meters.clock import synchronize

SIDES = {"cpu": 2048, "cuda": 8192}  # of the square matrices: large enough that the product is all there is
REPEATS = 8


@functools.cache
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several products of two square matrices of `dtype`, on all threads that torch has. 2 n^3 FLOPs each."""
    side = SIDES[device.type]
    first, second = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(first)
    times_s = []
    for _ in range(REPEATS):
        synchronize(device)
        start_s = time.perf_counter()
        torch.mm(first, second, out=out)
        synchronize(device)
        times_s.append(time.perf_counter() - start_s)
    return 2 * side**3 / min(times_s)
