"""What the harness adds to the least that a training step can be, and how much of it the meters: ratios within one run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.backbone import load_backbone
from bench.meters.clock import StopWatch
from bench.perf.models import trainer_of
from bench.perf.turns import CPU, alternate, report, seconds
from bench.shapes import LatentSpec
from bench.study.matrix import load_study
from bench.training.draws import Drawn
from bench.training.trainer import Trainer

ROUNDS = 45  # three kinds of step in each; a multiple of three, so that each kind is first equally often
SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)  # of the quick matrix


def bare_step(trainer: Trainer, drawn: Drawn) -> None:
    """The least a training step can be: forward, loss, backward, clip, optimiser, average."""
    predictions = trainer.train_step.backbone(drawn.latents, drawn.timesteps, drawn.labels)
    loss = torch.stack([(p - t).square().mean() for p, t in zip(predictions, drawn.targets, strict=True)]).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.train_step.params, 1.0)
    trainer.train_step.optimizer.step()
    trainer.train_step.optimizer.zero_grad(set_to_none=True)
    trainer.train_step.ema.step(trainer.train_step.params)


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("backbone", ["baselines:UNet-XS", "dit:DiT-XS/2"])
def test_harness_overhead(benchmark: Any, tmp_path: Path, backbone: str) -> None:
    cell = next(named.cell for named in load_study("quick").cells if named.cell.backbone == backbone)
    torch.manual_seed(0)
    trainer = trainer_of(cell, load_backbone(backbone, SPEC), SPEC, (10, 6, 6), tmp_path, CPU)
    watch = StopWatch(CPU)

    def metered() -> None:
        """As in the loop where it reads and shows after each step."""
        trainer.step(watch)
        trainer._read(watch)
        trainer._show()

    for _ in range(2):
        metered()  # the second step also weighs what is kept
    kinds: dict[str, Callable[[], object]] = {
        "metered": metered,
        "the least that a step can be": partial(bare_step, trainer, trainer.draw(0)),
        "the same step without its meters": lambda: trainer.update(trainer.draw(0)),
    }
    ratios = alternate(benchmark, ROUNDS, {kind: partial(seconds, step) for kind, step in kinds.items()})
    report(benchmark, "harness", backbone, {kind: [1 / ratio for ratio in pairs] for kind, pairs in ratios.items()})
