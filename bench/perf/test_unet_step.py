"""The U-Net's train step on a CPU: ours against plain diffusers with the same weights."""

import functools
from typing import Any

import pytest
import torch

from bench.backbone import load_backbone
from bench.perf.turns import SPEC, RandomClips, alternate, peak_bytes, report, step_s
from bench.perf.twins import DiffusersUNet
from bench.shapes import Shape

ROUNDS = 7
RIVALS = {"diffusers' UNet3DConditionModel, dropout 0": False, "the same with its dropout of 0.1": True}
CASES: dict[str, tuple[str, Shape, int]] = {
    #           backbone                                      latents      batch
    "64, 128": ("baselines:UNet-S{block_channels: [64, 128]}", (8, 16, 16), 4),
    "XS": ("baselines:UNet-XS", (10, 6, 6), 12),
}


@pytest.mark.perf
@pytest.mark.parametrize("case", CASES)
def test_unet_train_step_against_plain_diffusers(benchmark, case: str, threads: int) -> None:
    name, shape, batch_size = CASES[case]
    torch.manual_seed(0)
    ours: Any = load_backbone(name, SPEC)
    networks = {"ours": ours.train(), **{rival: DiffusersUNet(ours, dropout=dropout) for rival, dropout in RIVALS.items()}}
    batch = RandomClips([shape] * batch_size)
    plain, _ = RIVALS
    torch.testing.assert_close(batch.loss(ours), batch.loss(networks[plain]), rtol=1e-4, atol=0)
    peaks = {whose: peak_bytes(network, batch) for whose, network in networks.items()}
    ratios = alternate(benchmark, ROUNDS, {whose: functools.partial(step_s, network, batch) for whose, network in networks.items()})
    for rival, pairs in ratios.items():
        fields = {"threads": threads, "peak_bytes": peaks["ours"], "diffusers_peak_bytes": peaks[rival]}
        report(benchmark, "rivals", f"UNet ({case})", {rival: pairs}, **fields)
