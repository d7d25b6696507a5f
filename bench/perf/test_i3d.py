"""I3D on a CPU: our forward against a plain eager port of the same network, as a ratio within one run, alternating round by round."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.extractors.i3d import MIXED, load_i3d, same_pads
from bench.metrics.weights import table as weights

ROUNDS = 7  # of one reference forward and one of ours each
NUM_FRAMES, SIZE = 16, 224


class Unit(nn.Module):
    """Convolution with "same" padding, batch norm, relu: three modules, as a straightforward port has them."""

    def __init__(self, tensors: dict[str, np.ndarray], name: str, stride: int = 1):
        super().__init__()
        weight, shift, mean, var = (torch.from_numpy(tensors[f"{name}.{leaf}"]) for leaf in ("weight", "shift", "mean", "var"))
        self.conv = nn.Conv3d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), stride=stride, bias=False)  # type: ignore[arg-type]
        self.norm = nn.BatchNorm3d(len(weight), eps=1e-3)
        self.conv.load_state_dict({"weight": weight})
        statistics_ = {"running_mean": mean, "running_var": var, "num_batches_tracked": torch.tensor(0)}
        self.norm.load_state_dict({"weight": torch.ones_like(shift), "bias": shift, **statistics_})

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(padded(x, self.conv.kernel_size, self.conv.stride, 0.0))))


class PlainI3D(nn.Module):
    """Clips (B, 3, T, 224, 224) -> logits (B, 400): one module for each convolution, contiguous layout, nothing folded or merged."""

    def __init__(self, tensors: dict[str, np.ndarray]):
        super().__init__()
        self.stem = Unit(tensors, "Conv3d_1a_7x7", stride=2)
        self.reduce = Unit(tensors, "Conv3d_2b_1x1")
        self.widen = Unit(tensors, "Conv3d_2c_3x3")
        paths = {"b0": "0/Conv3d_0a_1x1", "b1a": "1/Conv3d_0a_1x1", "b1b": "1/Conv3d_0b_3x3", "b2a": "2/Conv3d_0a_1x1"}
        paths |= {"b2b": "2/Conv3d_0b_3x3", "b3": "3/Conv3d_0b_1x1"}
        self.mixed = nn.ModuleDict(
            {name: nn.ModuleDict({key: Unit(tensors, f"Mixed_{name}/Branch_{path}") for key, path in paths.items()}) for name in MIXED}
        )
        weight, bias = (torch.from_numpy(tensors[f"Logits/Conv3d_0c_1x1.{leaf}"]) for leaf in ("weight", "bias"))
        self.head = nn.Conv3d(1024, 400, 1)
        self.head.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, clips: Tensor) -> Tensor:
        x = pool(self.stem(clips), (1, 3, 3), (1, 2, 2))
        x = pool(self.widen(self.reduce(x)), (1, 3, 3), (1, 2, 2))
        for name, block in self.mixed.items():
            if name == "4b":
                x = pool(x, (3, 3, 3), (2, 2, 2))
            if name == "5b":
                x = pool(x, (2, 2, 2), (2, 2, 2))
            unit = block
            assert isinstance(unit, nn.ModuleDict)
            branches = [unit["b0"](x), unit["b1b"](unit["b1a"](x)), unit["b2b"](unit["b2a"](x))]
            x = torch.cat([*branches, unit["b3"](pool(x, (3, 3, 3), (1, 1, 1)))], dim=1)
        return self.head(F.avg_pool3d(x, (2, 7, 7), stride=1))[:, :, :, 0, 0].mean(dim=2)


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> Tensor:
    axes = reversed(list(zip(x.shape[2:], kernel, stride, strict=True)))
    return F.pad(x, [p for axis in axes for p in same_pads(*axis)], value=value)


def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(padded(x, kernel, stride, -torch.inf), kernel, stride)


def timed(forward: Callable[[Tensor], Tensor], clips: Tensor) -> tuple[float, float]:
    """(wall clock, time of all threads) of one forward, in seconds. The second is steadier where other work shares the cores."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    forward(clips)
    return time.perf_counter() - start_s, time.process_time() - start_cpu_s


@pytest.mark.perf
@pytest.mark.i3d
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_i3d_against_a_plain_eager_forward(benchmark, batch_size: int) -> None:
    ours = load_i3d()
    plain = PlainI3D(safetensors.numpy.load_file(weights.files("i3d")[0])).eval()
    clips = torch.rand((batch_size, 3, NUM_FRAMES, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    laid_out = clips.contiguous(memory_format=torch.channels_last_3d)  # as `preprocess` hands them over, at no cost to it
    times: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
    with torch.no_grad():
        expected = plain(clips)
        torch.testing.assert_close(ours(laid_out), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        benchmark.pedantic(
            lambda: times["ours"].append(timed(ours, laid_out)),
            setup=lambda: times["plain"].append(timed(plain, clips)),  # before every round, so that both see the same machine
            rounds=ROUNDS,
        )
    pairs = list(zip(times["plain"], times["ours"], strict=True))
    ratio, cpu_ratio = (statistics.median(theirs[clock] / own[clock] for theirs, own in pairs) for clock in (0, 1))
    plain_clip_s, ours_clip_s = (statistics.median(wall for wall, _ in times[whose]) / batch_size for whose in ("plain", "ours"))
    benchmark.extra_info.update(batch_size=batch_size, median_ratio=ratio, median_cpu_ratio=cpu_ratio, times=times)
    print(
        f"\nI3D, batch {batch_size}: {ratio:.2f}x a plain eager forward by the clock, {cpu_ratio:.2f}x in time of all threads; "
        f"{1000 * ours_clip_s:.0f} ms a clip against {1000 * plain_clip_s:.0f}"
    )
