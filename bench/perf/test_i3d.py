"""I3D on a CPU: our forward against a plain one of the same network, as a ratio within one run, alternating round by round."""

from functools import partial
from typing import Any

import pytest
import safetensors.numpy
import torch

from bench.metrics.extractors.i3d import SIZE, load_i3d
from bench.metrics.weights import table as weights
from bench.perf.controls import plain_i3d
from bench.perf.turns import alternate, report, seconds

ROUNDS = 7
NUM_FRAMES = 16


@pytest.mark.perf
@pytest.mark.i3d
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_i3d_against_a_plain_eager_forward(benchmark: Any, batch_size: int) -> None:
    clips = torch.rand((batch_size, 3, NUM_FRAMES, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    laid_out = clips.contiguous(memory_format=torch.channels_last_3d)  # as `preprocess` hands them over, at no cost to it
    tensors = safetensors.numpy.load_file(weights.files("i3d")[0])
    forwards = {"ours": partial(load_i3d(), laid_out), "a plain eager forward": partial(plain_i3d, tensors, clips)}
    with torch.no_grad():
        ours, expected = (forward() for forward in forwards.values())
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        ratios = alternate(benchmark, ROUNDS, {name: partial(seconds, forward) for name, forward in forwards.items()})
    report(benchmark, "i3d", f"batch {batch_size}", ratios)
