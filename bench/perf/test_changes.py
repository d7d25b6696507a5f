"""What each change to a backbone gains: a training step with it and with the plain code it replaced, in turn, one thread.

A change is a name in the table of a backbone's package, `kernels.OPERATIONS`, which has the plain formula and the fast way.
"""

import importlib
import time
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from bench.backbone import Operations, load_backbone
from bench.meters.storage import StorageMeter
from bench.perf.speed import of_pairs
from bench.shapes import LatentSpec, Shape
from bench.training.step import StepPoint, make_batch

SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)
# case -> backbone, latents (T, H, W), batch, precision, rounds
CASES: dict[str, tuple[str, Shape, int, str, int]] = {
    "DiT-XS/2": ("dit:DiT-XS/2", (10, 6, 6), 12, "fp32", 25),
    "DiT-S/2": ("dit:DiT-S/2", (1, 32, 32), 4, "fp32", 9),
    "DiT-S/2 bf16": ("dit:DiT-S/2", (1, 32, 32), 4, "bf16", 9),
    "UNet-XS": ("baselines:UNet-XS", (10, 6, 6), 12, "fp32", 15),
    "UNet (64, 128)": ("baselines:UNet-S{block_channels: [64, 128]}", (8, 16, 16), 4, "fp32", 9),
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
    name, shape, batch_size, precision, rounds = CASES[case]
    table = operations(name)
    changes = list(table) if change == "all of them" else [change]
    torch.manual_seed(0)
    model: Any = load_backbone(name, SPEC)
    for weight in model.parameters():  # those of a new model leave most gradients zero
        torch.nn.init.normal_(weight, std=0.05)
    batch = make_batch(SPEC, StepPoint(batch_size=batch_size, shape=shape), "training", torch.device("cpu"))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            predictions = model(batch.latents, batch.timesteps, batch.labels)
        torch.stack([clip.float().square().mean() for clip in predictions]).mean().backward()

    def timed(with_change: bool) -> float:
        with nullcontext() if with_change else table.plain(*changes):
            start_s = time.perf_counter()
            step()
            return time.perf_counter() - start_s

    def peak_bytes(with_change: bool) -> int:
        model.zero_grad(set_to_none=True)
        with nullcontext() if with_change else table.plain(*changes), StorageMeter(list(model.parameters())) as meter:
            step()
        return meter.peak_bytes

    times_s: dict[str, list[float]] = {"with": [], "without": []}
    peaks = {"with": peak_bytes(True), "without": peak_bytes(False)}

    def pair() -> None:
        """In turn, and turned about, so that neither always comes second."""
        for with_change in (True, False) if len(times_s["with"]) % 2 else (False, True):
            times_s["with" if with_change else "without"].append(timed(with_change))

    pair()
    for series in times_s.values():
        series.clear()  # the warm-up
    benchmark.pedantic(pair, rounds=rounds)
    ratios = [without / with_ for with_, without in zip(times_s["with"], times_s["without"], strict=True)]
    benchmark.extra_info["torch"] = torch.__version__
    row = {"table": "gains", "case": case, "change": change, **of_pairs(ratios)}
    row |= {"peak_bytes": peaks["with"], "plain_peak_bytes": peaks["without"]}
    benchmark.extra_info["rows"] = [row]
    benchmark.extra_info["times_s"] = times_s
