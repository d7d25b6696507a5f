"""What the harness adds to the bare training step: data, noise, timers and bookkeeping, as a ratio within one run."""

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.cell import Cell
from bench.matrix import load_study
from bench.meters.clock import StopWatch
from bench.perf.speed import of_pairs
from bench.shapes import LatentSpec
from bench.train import LatentSet, Trainer

ROUNDS = 30
SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)


def quick_trainer(backbone: str, folder: Path) -> Trainer:
    """A trainer of the quick matrix on random latents of its shape."""
    from bench.backbone import load_backbone

    cell: Cell = next(named.cell for named in load_study("quick").cells if named.cell.backbone == backbone)
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((256, 4, 10, 6, 6)).astype(np.float32)
    data = LatentSet(latents=latents, labels=generator.integers(4, size=256), null_label=4)
    torch.manual_seed(0)
    network = load_backbone(backbone, SPEC)
    return Trainer(cell, network, train=data, val=data, inputs="perf", folder=folder, flops_per_clip=1, device=torch.device("cpu"))  # type: ignore[arg-type]


def bare_step(trainer: Trainer, latents: list[Tensor], targets: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> None:
    """The least a training step can be: forward, loss, backward, clip, optimiser, average."""
    predictions = trainer.backbone(latents, timesteps, labels)
    loss = torch.stack([(p - t).square().mean() for p, t in zip(predictions, targets, strict=True)]).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.params, 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.ema.step(trainer.params)


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("backbone", ["baselines:UNet-XS", "dit:DiT-XS/2"])
def test_harness_overhead(benchmark, tmp_path: Path, backbone: str) -> None:
    trainer = quick_trainer(backbone, tmp_path)
    batch = trainer.draw(0, trainer.cell.batching.batch_size)
    watch = StopWatch(trainer.device)
    bare_s: list[float] = []
    harness_s: list[float] = []

    def pair() -> None:
        """One step of each kind, so that whatever else the machine does falls on both."""
        start_s = time.perf_counter()
        bare_step(trainer, *batch)
        middle_s = time.perf_counter()
        trainer.step(watch)
        trainer._read()
        trainer._show()
        bare_s.append(middle_s - start_s)
        harness_s.append(time.perf_counter() - middle_s)

    benchmark.pedantic(pair, rounds=ROUNDS, iterations=1, warmup_rounds=3)
    ratios = [harness / bare for harness, bare in zip(harness_s[3:], bare_s[3:], strict=True)]
    benchmark.extra_info.update(
        overhead_median=statistics.median(ratios) - 1 if ratios else None,
        data_share=statistics.median(trainer.state.data_time_s) / statistics.median(bare_s),
        bare_step_s=bare_s,
        harness_step_s=harness_s,
    )
    if ratios:
        benchmark.extra_info["rows"] = [{"table": "harness", "backbone": backbone, **of_pairs(ratios)}]
        print(f"\n{backbone}: the harness adds {statistics.median(ratios) - 1:+.2%} to the bare step (median of {len(ratios)} pairs)")
