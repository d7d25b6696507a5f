"""The extractor `motion`: milliseconds a clip on one thread."""

import numpy as np
import pytest
import torch

from bench.metrics.extractors.motion import load_motion

ROUNDS = 50
LARGEST_S = 0.05  # a clip


@pytest.mark.perf
@pytest.mark.parametrize("size", [32, 64])
def test_clip(benchmark, one_thread: None, size: int) -> None:
    network = load_motion(torch.device("cpu"))
    clip = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 16, size, size, 3), dtype=np.uint8))
    benchmark.pedantic(network, args=(clip,), rounds=ROUNDS, warmup_rounds=5)
    benchmark.extra_info["clip"] = f"16x{size}x{size}"
    assert benchmark.stats["median"] < LARGEST_S
