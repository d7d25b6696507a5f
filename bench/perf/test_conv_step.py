"""Training steps of the modern convolution against those of its rivals, at equal parameters."""

import functools
from typing import Any

import pytest
import torch

from bench.backbone import load_backbone
from bench.perf.turns import SPEC, RandomClips, alternate, peak_bytes, report, step_s
from bench.shapes import Shape

CONV_ROUNDS = 9
CONV, CONV_RIVALS = "baselines:Conv-XS", ("baselines:UNet-XS", "dit:DiT-XS/2")
CONV_CASES: dict[str, tuple[Shape, int]] = {"backbone": ((10, 4, 4), 6), "larger": ((10, 6, 6), 12)}  # the first is the study's


@pytest.mark.perf
@pytest.mark.parametrize("case", CONV_CASES)
def test_conv_train_step_against_unet_and_dit(benchmark: Any, case: str, threads: int) -> None:
    shape, batch_size = CONV_CASES[case]
    torch.manual_seed(0)
    networks: dict[str, Any] = {name: load_backbone(name, SPEC) for name in (CONV, *CONV_RIVALS)}
    batch = RandomClips([shape] * batch_size)
    peaks = {name: peak_bytes(network, batch) for name, network in networks.items()}
    steps = {name: functools.partial(step_s, network.train(), batch) for name, network in networks.items()}
    ratios = alternate(benchmark, CONV_ROUNDS, steps)
    for rival, pairs in ratios.items():
        fields = {"threads": threads, "peak_bytes": peaks[CONV], "rival_peak_bytes": peaks[rival]}
        report(benchmark, "contenders", f"Conv-XS ({case})", {rival: pairs}, **fields)
