"""What each change to a backbone gains: a training step with it and with the plain code it replaced, in turn, one thread.

A change is a name in the table of a backbone's package, `kernels.OPERATIONS`, which has the plain formula and the fast way.
"""

import importlib
from functools import partial
from typing import Any

import pytest
import torch

from bench.backbone import Operations, load_backbone
from bench.perf.turns import SPEC, RandomClips, alternate, peak_bytes, randomised, report, step_s
from bench.shapes import Shape

# case -> backbone, latents (T, H, W), batch, what autocast casts to, rounds
CASES: dict[str, tuple[str, Shape, int, torch.dtype | None, int]] = {
    "DiT-XS/2": ("dit:DiT-XS/2", (10, 6, 6), 12, None, 25),
    "DiT-S/2": ("dit:DiT-S/2", (1, 32, 32), 4, None, 9),
    "DiT-S/2 bf16": ("dit:DiT-S/2", (1, 32, 32), 4, torch.bfloat16, 9),
    "UNet-XS": ("baselines:UNet-XS", (10, 6, 6), 12, None, 15),
    "UNet (64, 128)": ("baselines:UNet-S{block_channels: [64, 128]}", (8, 16, 16), 4, None, 9),
}


def operations(name: str) -> Operations:
    """The table of this backbone."""
    return importlib.import_module(f"{name.partition(':')[0]}.kernels").OPERATIONS


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("case", "change"), [(case, change) for case, (name, *_) in CASES.items() for change in [*operations(name), "all of them"]]
)
def test_gain(benchmark: Any, case: str, change: str) -> None:
    name, shape, batch_size, half, rounds = CASES[case]
    plainly = operations(name).plain(*(operations(name) if change == "all of them" else [change]))
    model, batch = randomised(load_backbone(name, SPEC)), RandomClips([shape] * batch_size, half=half)
    as_it_is = {"peak_bytes": peak_bytes(model, batch), "plain_peak_bytes": plainly(peak_bytes)(model, batch)}
    calls = {"as it is": partial(step_s, model, batch), f"without: {change}": partial(plainly(step_s), model, batch)}
    report(benchmark, "gains", case, alternate(benchmark, rounds, calls), **as_it_is)
