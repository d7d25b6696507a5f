"""Trainings by several processes, to be compared with those by one: `python -m tests.several FOLDER SCENARIO...`, RANK and others set."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.backbone import load_backbone
from bench.meters.process import leave_out_imports
from bench.records.artefacts import load_tensors, save_tensors
from bench.shapes import LatentSpec
from bench.study.cell import Cell
from bench.training.ranks import ALONE, Ranks, join, leave
from bench.training.trainer import Interrupted, Trainer
from tests.commands import ROOT
from tests.slurm_cluster import free_ports
from tests.tiny import latent_set, mixed_set, tiny_cell

SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=3)
STEPS, BATCH = 4, 4
# Scenario -> backbone, batching. Clips of several shapes for policies that take them.
SCENARIOS: dict[str, tuple[str, dict[str, Any]]] = {
    "dit-crop": ("tests.small:DiT-XXS/2", {"batch_size": BATCH}),
    "unet-crop": ("tests.small:UNet-XXS", {"batch_size": BATCH}),
    "dit-bucket": ("tests.small:DiT-XXS/2", {"policy": "bucket", "voxel_budget": 128}),
    "unet-bucket": ("tests.small:UNet-XXS", {"policy": "bucket", "voxel_budget": 128}),
    "dit-pack": ("tests.small:DiT-XXS/2", {"policy": "pack", "voxel_budget": 160}),
    "dit-dropping": (
        "tests.small:DiT-XXS/2",
        {"policy": "pack", "voxel_budget": 160, "token_dropping": {"kind": "per_resolution", "rate": 0.5}},
    ),
    "unet-pad": ("tests.small:UNet-XXS", {"policy": "pad", "voxel_budget": 128}),
}
SHAPES = [(4, 2, 4, 4), (4, 1, 4, 8), (4, 2, 4, 4), (4, 4, 4, 4), (4, 1, 4, 8), (4, 2, 4, 4), (4, 4, 4, 4), (4, 2, 4, 4)] * 2


def cell(scenario: str, kind: str, processes: int, **changes: Any) -> Cell:
    name, batching = SCENARIOS[scenario]
    optimizer = {"warmup_steps": 0, "learning_rate": 1e-3, "ema_decay": 0.9}
    parallel = {"kind": kind, "processes": processes}
    fields = {"backbone": name, "batching": batching, "optimizer": optimizer, "budget": {"steps": STEPS}, "parallel": parallel}
    return tiny_cell(**{**fields, **changes})


def trainer(own: Cell, folder: Path, ranks: Ranks = ALONE, **options: Any) -> Trainer:
    torch.manual_seed(0)
    data = latent_set(8, (4, 2, 4, 4)) if own.batching.batch_size else mixed_set(SHAPES)

    def anew() -> Any:
        return load_backbone(own.backbone, SPEC)

    given = {"train": data, "val": latent_set(5, (4, 2, 4, 4), seed=1), "inputs": "x", "flops_of": lambda shape: 1000 * shape[0]}
    return Trainer(own, anew(), folder=folder, device=torch.device("cpu"), ranks=ranks, anew=anew, **{**given, **options})


def result(own: Trainer, file: Path) -> None:
    """Train, and what came of it into a file: weights, losses, and the gradients of the first step."""
    step, grads = own.train_step, dict[str, torch.Tensor]()
    update = step.update

    def watched(number: int, used: float) -> torch.Tensor:
        if number == 0:
            for name, weight in step.module.named_parameters():
                grad: Any = weight.grad
                grads[f"grad.{name}"] = (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).clone()
        return update(number, used)

    step.update = watched  # type: ignore[method-assign]
    training = own.train()
    weights = own.averaged_backbone().state_dict()
    if own.ranks.leads:
        losses = [*training.loss, *training.grad_norm, *training.validation_by_timestep.values()]
        save_tensors(file, {**weights, **grads, "losses": torch.tensor(losses, dtype=torch.float64)})
        file.with_suffix(".json").write_text(
            json.dumps({"work": training.step_work, "imbalance": training.imbalance, "peaks": training.peaks_by_process})
        )


def stopped(own: Cell, folder: Path, ranks: Ranks) -> bool:
    """Whether training ends by a checkpoint after two steps, when the last process alone is asked to."""
    steps: list[Trainer] = []
    steps.append(trainer(own, folder, ranks, should_stop=lambda: steps[0].state.step >= 2 and ranks.rank == ranks.num - 1))
    try:
        steps[0].train()
    except Interrupted:
        return True
    return False


def main(folder: Path, scenarios: Sequence[str]) -> None:
    """SCENARIO:KIND or SCENARIO:KIND:stop (a checkpoint after two steps) or SCENARIO:KIND:resume."""
    ranks = join()
    torch.set_num_threads(1)
    leave_out_imports()  # each trainer collects
    own = {"big": 2**40 + ranks.rank} | ({"leader's": 1} if ranks.leads else {})
    assert ranks.counts(own, ("big", "leader's", "nobody's")) == {"big": [2**40 + rank for rank in range(ranks.num)]}
    for each in scenarios:
        scenario, kind, *what = each.split(":")
        own = cell(scenario, kind, ranks.num)
        place = folder / f"{scenario}-{kind}"
        if what == ["stop"]:
            if not stopped(own, place, ranks):
                raise AssertionError("it went on")
            continue
        again = trainer(own, place if what else folder / f"{scenario}-{kind}-{ranks.num}", ranks)
        assert again.state.step == (2 if what else 0)
        result(again, folder / f"{scenario}-{kind}-{ranks.num}{'-resumed' if what else ''}.safetensors")
    leave()


def several(num: int, folder: Path, *scenarios: str) -> None:
    """Run them by so many processes."""
    (port,) = free_ports(1)
    shared = {"WORLD_SIZE": num, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    words = [sys.executable, "-m", "tests.several", str(folder), *scenarios]
    ranks = []
    for rank in range(num):
        environment = os.environ | {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        ranks.append(subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    said = [rank.communicate(timeout=500)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * num, "\n".join(said)[-3000:]


def differences(first: Path, second: Path) -> dict[str, float]:
    """Largest difference of losses and gradient norms, of the first step's gradients, and of averaged weights, over the largest of them.

    Of weights whose gradient is but rounding, Adam makes steps as large as of others, to whichever side: they tell nothing.
    """
    a, b = load_tensors(first), load_tensors(second)
    resumed = a.keys() - b.keys()
    assert {name for name in resumed if not name.startswith("grad.")} == set()
    names = [name.removeprefix("grad.") for name in a if name.startswith("grad.")]
    largest = max(float(a[f"grad.{name}"].abs().max()) for name in names)
    told = {name: a[f"grad.{name}"].abs() > 1e-4 * largest for name in names}
    apart = {"losses": float(((a["losses"] - b["losses"]) / a["losses"]).abs().max())}
    if not resumed:
        apart["gradients"] = max(float((a[f"grad.{name}"] - b[f"grad.{name}"]).abs().max()) for name in names) / largest
    most = max(float(a[name].abs().max()) for name in names)
    apart["weights"] = max(float(((a[name] - b[name]).abs() * told[name]).max()) for name in names) / most
    return apart


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
