"""What the harness adds to the least that a training step can be, and how much of it the meters: ratios within one run."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.latents.latents import LatentSet
from bench.meters.clock import StopWatch
from bench.perf.speed import of_pairs
from bench.shapes import LatentSpec
from bench.study.cell import Cell
from bench.study.matrix import load_study
from bench.training.draws import Drawn
from bench.training.trainer import Trainer

ROUNDS = 45  # three kinds of step in each; a multiple of three, so that each kind is first equally often
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
    return Trainer(cell, network, train=data, val=data, inputs="perf", folder=folder, flops_of=lambda shape: 1, device=torch.device("cpu"))  # type: ignore[arg-type]


def bare_step(trainer: Trainer, drawn: Drawn) -> None:
    """The least a training step can be: forward, loss, backward, clip, optimiser, average."""
    predictions = trainer.train_step.backbone(drawn.latents, drawn.timesteps, drawn.labels)
    loss = torch.stack([(p - t).square().mean() for p, t in zip(predictions, drawn.targets, strict=True)]).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.train_step.params, 1.0)
    trainer.train_step.optimizer.step()
    trainer.train_step.optimizer.zero_grad(set_to_none=True)
    trainer.train_step.ema.step(trainer.train_step.params)


def unmetered_step(trainer: Trainer) -> None:
    """What the harness does, and nothing that measures."""
    trainer.update(trainer.draw(0))


def metered_step(trainer: Trainer, watch: StopWatch) -> None:
    """What the harness does, as in the loop where it reads and shows after each step."""
    trainer.step(watch)
    trainer._read()
    trainer._show()


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("backbone", ["baselines:UNet-XS", "dit:DiT-XS/2"])
def test_harness_overhead(benchmark, tmp_path: Path, backbone: str) -> None:
    trainer = quick_trainer(backbone, tmp_path)
    drawn = trainer.draw(0)
    watch = StopWatch(trainer.device)
    kinds: dict[str, Callable[[], None]] = {
        "bare": lambda: bare_step(trainer, drawn),
        "unmetered": lambda: unmetered_step(trainer),
        "metered": lambda: metered_step(trainer, watch),
    }
    times_s: dict[str, list[float]] = {kind: [] for kind in kinds}

    def in_turn() -> None:
        """One step of each kind, so that whatever else the machine does falls on all; another one is first each time."""
        first = len(times_s["bare"]) % len(kinds)
        for kind in [*kinds, *kinds][first : first + len(kinds)]:
            start_s = time.perf_counter()
            kinds[kind]()
            times_s[kind].append(time.perf_counter() - start_s)

    for _ in range(3):
        in_turn()
    for series in times_s.values():
        series.clear()  # the warm-up; the second step also weighs what is kept
    benchmark.pedantic(in_turn, rounds=ROUNDS)
    rows = [("all of it", "metered", "bare"), ("its meters", "metered", "unmetered")]
    benchmark.extra_info["rows"] = [
        {"table": "harness", "backbone": backbone, "what": what, **of_pairs([a / b for a, b in zip(times_s[of], times_s[to], strict=True)])}
        for what, of, to in rows
    ]
    benchmark.extra_info["times_s"] = times_s
