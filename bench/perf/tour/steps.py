"""Training steps of one backbone: as it is, by the fastest way, and diffusers' network of its size by a plain loop, in turns.

`python -m bench.perf.tour.steps BACKBONE --rows FILE`, a process of its own. A row is written once a way is through: what ends the process
later costs no earlier one.
"""

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.autograd import DeviceType

from bench.backbone import load_backbone, short_name, split_name
from bench.meters.clock import StopWatch
from bench.meters.flops import count_flops
from bench.meters.memory import PhaseMemory
from bench.meters.operators import OperatorCounter
from bench.meters.peak import matmul_peak
from bench.meters.process import keep_freed_memory, use_exact_float32
from bench.perf.models import NUM_LABELS, trainer_of
from bench.perf.tour.result import StepRow, StepWay
from bench.perf.turns import seconds
from bench.perf.twins import DiffusersDiT, DiffusersUNet
from bench.shapes import LatentSpec, Shape
from bench.study.cell import Cell
from bench.training.acceleration import HALF, autocast
from bench.training.objective import mean_square
from bench.training.trainer import Trainer

SPEC = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=NUM_LABELS)
PRECISION = "bf16"
WARMUP = 4  # steps; the second of a trainer is metered
PROFILED = 3  # steps


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a backbone steps on, and how often."""

    shape: Shape  # latents (T, H, W); of a transformer images, as diffusers' takes no clips
    batch_size: int
    window: int  # steps of a window
    rounds: int


CASES = {
    "baselines:UNet-S": Case(shape=(16, 8, 8), batch_size=32, window=10, rounds=7),
    "dit:DiT-S/2": Case(shape=(1, 32, 32), batch_size=128, window=10, rounds=7),
    "baselines:UNet-B": Case(shape=(16, 8, 8), batch_size=32, window=5, rounds=5),
    "dit:DiT-B/2": Case(shape=(1, 32, 32), batch_size=128, window=5, rounds=5),
    "baselines:UNet-L": Case(shape=(16, 8, 8), batch_size=32, window=4, rounds=5),
    "dit:DiT-L/2": Case(shape=(1, 32, 32), batch_size=64, window=4, rounds=5),
}
DRY = {  # the same ways through the same code, on a CPU in seconds
    "baselines:UNet-XS": Case(shape=(2, 4, 4), batch_size=2, window=1, rounds=2),
    "dit:DiT-XS/2": Case(shape=(1, 4, 4), batch_size=2, window=1, rounds=2),
}


@dataclass(frozen=True, kw_only=True)
class Stepping:
    """A step that can be taken again and again."""

    step: Callable[[], Any]
    loss: Callable[[], float]  # of the last step; waits for the device
    device: torch.device
    window: int

    def window_s(self) -> float:
        """Mean seconds of a step."""

        def some() -> None:
            for _ in range(self.window):
                self.step()

        found = seconds(some, self.device) / self.window
        self.loss()  # outside of the window
        return found

    def warmed_up(self) -> "Stepping":
        """Itself, after steps that allocate and choose kernels."""
        for _ in range(WARMUP):
            self.step()
        self.loss()
        return self


def of_suite(name: str, case: Case, way: str, folder: Path, device: torch.device) -> tuple[Stepping, Trainer]:
    """A trainer of the suite on random latents."""
    cell = Cell.model_validate(
        {
            "backbone": name,
            "data": {"source": "worlds", "num_frames": 1, "height": 8, "width": 8, "num_train": 1, "num_val": 1, "num_test": 1},  # unused
            "batching": {"batch_size": case.batch_size},
            "autoencoder": {"kind": "trained", "num_steps": 1},
            "budget": {"steps": 10**9},
            "evaluation": {"num_samples": 0},
            "precision": PRECISION,
            "acceleration": {"compile": way},
            "device": device.type,
        }
    )
    torch.manual_seed(0)
    backbone: Any = load_backbone(name, SPEC)
    trainer = trainer_of(cell, backbone, SPEC, case.shape, folder, device)
    watch = StopWatch(device)

    def loss() -> float:
        trainer._read(watch)
        return trainer.state.loss[-1]

    return Stepping(step=lambda: trainer.step(watch), loss=loss, device=device, window=case.window).warmed_up(), trainer


def of_diffusers(name: str, case: Case, device: torch.device) -> Stepping:
    """Diffusers' network in the loop that people write: autocast, backward, clipping, fused AdamW, EMAModel; data on the device."""
    network = twin(name, case).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    average: Any = EMAModel(network.parameters(), foreach=True)
    generator = torch.Generator().manual_seed(0)
    size = (case.batch_size, SPEC.latent_channels, *case.shape)
    latents, targets = (list(torch.randn(size, generator=generator).to(device)) for _ in range(2))
    times = torch.rand(case.batch_size, generator=generator).to(device)
    labels = (torch.arange(case.batch_size) % NUM_LABELS).to(device)
    last: list[Tensor] = []

    def step() -> None:
        with autocast(device, HALF[PRECISION]):
            predictions = network(latents, times, labels)
        loss = mean_square(predictions, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.step(network.parameters())
        last[:] = [loss.detach()]

    return Stepping(step=step, loss=lambda: float(last[0]), device=device, window=case.window).warmed_up()


def twin(name: str, case: Case) -> nn.Module:
    """Diffusers' network of the size of a backbone."""
    from dit import SIZES  # depth, width, heads

    torch.manual_seed(0)
    if name.startswith("dit:"):
        return DiffusersDiT(SIZES[short_name(split_name(name)[0]).removeprefix("DiT-").partition("/")[0]], case.shape[1], SPEC)
    return DiffusersUNet(load_backbone(name, SPEC), dropout=False).train()


def busy(step: Callable[[], Any], step_s: float, device: torch.device) -> tuple[float | None, int | None]:
    """Share of a step in which the device works, by the profiler's times of kernels and the step's own without it; kernels of a step."""
    if device.type != "cuda":
        return None, None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        for _ in range(PROFILED):
            step()
        torch.cuda.synchronize(device)
    spans = [(event.time_range.start, event.time_range.end) for event in profile.events() if event.device_type == DeviceType.CUDA]
    return covered(spans) / 1e6 / PROFILED / step_s, len(spans) // PROFILED


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans (start, end).

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def measure(name: str, case: Case, device: torch.device, tell: Callable[[StepRow], None]) -> None:
    """A row for each way, as soon as it is through."""
    flops = 3 * case.batch_size * count_flops(name, SPEC, case.shape)
    peak = matmul_peak(device, HALF[PRECISION] or torch.float32)

    def row(way: StepWay, contender: Stepping, times_s: list[float], rival_s: list[float], **more: Any) -> None:
        with OperatorCounter() as counter:
            contender.step()
        share, num_kernels = busy(contender.step, statistics.median(times_s), device)
        tell(
            StepRow(
                backbone=name,
                way=way,
                precision=PRECISION,
                batch_size=case.batch_size,
                shape=case.shape,
                step_s=times_s,
                against=[rival / own for rival, own in zip(rival_s, times_s, strict=True)] if rival_s else [],
                flops=flops,
                peak_flop_per_s=peak,
                busy_share=share,
                num_kernels=num_kernels,
                num_launches=counter.num_launches,
                loss=contender.loss(),
                **more,
            )
        )

    with TemporaryDirectory() as folder:
        memory = Beyond(device)
        eager, _ = of_suite(name, case, "none", Path(folder), device)
        eager_bytes = memory.of(eager)
        memory = Beyond(device)
        plain = of_diffusers(name, case, device)
        plain_bytes = memory.of(plain)
        eager_s, plain_s = in_turns(case.rounds, eager, plain)
        row("eager", eager, eager_s, plain_s, **eager_bytes)
        row("diffusers", plain, plain_s, [], **plain_bytes)
        del eager
        memory = Beyond(device)
        auto, trainer = of_suite(name, case, "auto", Path(folder), device)
        auto_bytes = memory.of(auto)
        auto_s, plain_s = in_turns(case.rounds, auto, plain)
        trial = trainer.state.acceleration
        assert trial is not None
        row("auto", auto, auto_s, plain_s, chosen=trial.chosen, trial_s=trial.wall_time_s, left_out=trial.left_out, **auto_bytes)


class Beyond:
    """What CUDA's allocator holds for a contender beyond what was there when this was made; on other devices nothing is known."""

    def __init__(self, device: torch.device) -> None:
        gc.collect()
        self._device = device
        self._before_bytes = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    def of(self, contender: Stepping) -> dict[str, int]:
        """Peaks of a window: fields of a row."""
        if self._device.type != "cuda":
            return {}
        meter = PhaseMemory(self._device)
        meter.start()
        contender.window_s()
        peaks = meter.peaks()
        allocated_bytes = peaks["peak_allocated_bytes"] - self._before_bytes
        return {"peak_allocated_bytes": allocated_bytes, "peak_reserved_bytes": peaks["peak_reserved_bytes"]}


def in_turns(rounds: int, first: Stepping, second: Stepping) -> tuple[list[float], list[float]]:
    """Windows of both, another one first each time."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        pair = [(first, times[0]), (second, times[1])]
        for contender, own in pair if number % 2 == 0 else reversed(pair):
            own.append(contender.window_s())
    return times


def main(name: str, rows: Annotated[Path, typer.Option(help="File that a line is added to for each way.")], dry: bool = False) -> None:
    """Measure one backbone."""
    use_exact_float32()
    keep_freed_memory()
    if dry:
        torch.set_num_threads(1)  # whoever waits for another on a busy machine waits long
    case = (DRY if dry else CASES)[name]
    rows.parent.mkdir(parents=True, exist_ok=True)

    def tell(row: StepRow) -> None:
        with rows.open("a", encoding="utf-8") as file:
            file.write(row.model_dump_json() + "\n")
        typer.echo(f"{row.backbone} {row.way}: {1000 * statistics.median(row.step_s):.1f} ms a step")

    measure(name, case, torch.device("cpu" if dry else "cuda"), tell)


if __name__ == "__main__":
    typer.run(main)
