"""A process of a group that `group.py` started: takes training steps and collectives as it is told, by lines of JSON, and says how long.

RANK, WORLD_SIZE and where to meet are in the environment. The steps are the trainer's own, on random latents.
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.backbone import load_backbone
from bench.meters.clock import StopWatch
from bench.perf.models import trainer_of
from bench.shapes import LatentSpec, Shape
from bench.study.cell import Cell
from bench.training.ranks import ALONE, join, leave
from bench.training.trainer import Trainer

CPU = torch.device("cpu")
SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)
SHAPE: Shape = (8, 8, 8)  # latents of a clip
WARMUP_STEPS = 3  # the second weighs what is kept


class Member:
    """What one process has opened."""

    def __init__(self) -> None:
        self.ranks = join()
        self.trainers: list[tuple[Trainer, StopWatch]] = []

    def open(self, backbone: str, kind: str, batch_size: int, alone: bool) -> int:
        """A trainer, warmed up; its number. `alone`: each process has one of its own, and they say nothing to each other."""
        ranks = ALONE if alone else self.ranks
        data = {"source": "worlds", "num_frames": 8, "height": 32, "width": 32, "num_train": 64, "num_val": 2, "num_test": 2}  # unread
        cell = Cell.model_validate(
            {
                "backbone": backbone, "data": data, "batching": {"batch_size": batch_size}, "budget": {"steps": 10**6}, "device": "cpu",
                "autoencoder": {"kind": "trained", "num_steps": 1}, "evaluation": {"num_samples": 0},
                "parallel": {"kind": kind, "processes": ranks.num},
            }
        )  # fmt: skip
        torch.manual_seed(0)
        network: Any = load_backbone(backbone, SPEC)
        self.trainers.append((trainer_of(cell, network, SPEC, SHAPE, Path(tempfile.gettempdir()), CPU, ranks), StopWatch(CPU)))
        self.steps(len(self.trainers) - 1, WARMUP_STEPS)
        return len(self.trainers) - 1

    def steps(self, number: int, count: int) -> float:
        """Seconds of a step, of so many that all processes begin together; as in the trainer's loop, without pauses."""
        trainer, watch = self.trainers[number]

        def one() -> None:
            trainer.step(watch)
            trainer._read(watch)
            trainer._agreed(False)

        return self._seconds(one, count)

    def collective(self, kind: str, num_bytes: int, count: int) -> float:
        """Seconds of one of so many; `num_bytes`: of the whole, which of a gathering or scattering each process has a part of."""
        part = torch.zeros(max(1, num_bytes // 4 // self.ranks.num))
        whole = torch.zeros(len(part) * self.ranks.num)
        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda: dist.all_reduce(whole),
            "all_gather": lambda: dist.all_gather_single(whole, part),
            "reduce_scatter": lambda: dist.reduce_scatter_single(part, whole),
        }
        return self._seconds(calls[kind], count)

    def counts(self, number: int) -> dict[str, Any]:
        """Parameters, those of each unit, bytes that this process keeps between steps, and the losses so far."""
        trainer, _ = self.trainers[number]
        step, network = trainer.train_step, trainer.train_step.module
        moments = [value for state in step.optimizer.state.values() for name, value in state.items() if name != "step"]
        kept = [*step.params, *moments, *step.ema.shadow_params]
        return {
            "num_params": sum(weight.numel() for weight in step.params),
            "unit_params": [sum(weight.numel() for weight in unit) for unit in own_weights(network)],
            "kept_bytes": sum(4 * (held.to_local() if hasattr(held, "to_local") else held).numel() for held in kept),
            "losses": trainer.state.loss,
        }

    def _seconds(self, call: Callable[[], Any], count: int) -> float:
        self.ranks.wait()
        start_s = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start_s) / count


def own_weights(network: Any) -> list[list[torch.Tensor]]:
    """The weights of each unit that a backbone is sharded by, without those of the units in it, which come before."""
    seen, found = set[int](), []
    for unit in network.shard_units():
        own = {id(weight): weight for module in unit for weight in module.parameters() if id(weight) not in seen}
        seen |= own.keys()
        found.append(list(own.values()))
    return found


def main() -> None:
    """Answer until there is nothing more to read."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # of weights in channels-last
    member = Member()
    for line in sys.stdin:
        asked = json.loads(line)
        answer = getattr(member, asked.pop("do"))(**asked)
        print(json.dumps(answer), flush=True)
    leave()


if __name__ == "__main__":
    main()
