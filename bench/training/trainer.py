"""The one training loop: optimiser, weight average, budget, checkpoint and exact resume. The same code for every backbone.

What the k-th drawn clip is, its noise, its timestep and whether its label is dropped depend on the run's seed and k alone.
"""

import dataclasses
import functools
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from bench.data.files import replacing
from bench.data.latents.latents import LatentSet
from bench.data.progress import Progress
from bench.data.seeds import stream_seed
from bench.meters.clock import StepTimer, StopWatch
from bench.meters.device import EnergyMeter, Neighbours
from bench.meters.memory import PhaseMemory
from bench.meters.storage import StorageMeter, optimizer_state
from bench.meters.warmup import num_warmup_steps
from bench.records.record import Training
from bench.shapes import Refusal, Shape
from bench.study.budget import Spent
from bench.study.cell import Cell
from bench.training.draws import Drawer, Drawn
from bench.training.validation import mean_loss, validation_losses

CURVE_FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the budget, where the validation curve is taken
CURVE_CLIPS = 16  # validation clips of a point of the curve; the final value uses them all
READ_INTERVAL = 20  # steps between reads of losses on a GPU, each of which waits for the device
SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda used: 1.0, "linear": lambda used: max(0.0, 1.0 - used)}
EXPLODED = 5.0  # diverged: the mean loss of 20 steps is this many times that of the first step


class Diverged(Exception):
    """The loss became infinite, not a number, or exploded. A result, not a fault."""


class Interrupted(Exception):
    """Asked to stop; the checkpoint is written."""


@dataclass
class State:
    """Where a run is and what it has seen. Lists have one entry a step."""

    inputs: str  # identity of the cell and of its latents: a checkpoint of other inputs is not resumed
    step: int = 0
    num_samples: int = 0
    num_voxels: int = 0  # as in WORK, of all steps
    forward_flops: int = 0
    wall_time_s: float = 0.0
    peak_storage_bytes: int = 0
    storage_by_kind: dict[str, int] = field(default_factory=dict)  # bytes alive at that peak: weights, gradients, activations, ...
    storage_by_module: dict[str, int] = field(default_factory=dict)
    energy_j: float | None = None  # of the whole device, over the loop; None where it does not tell
    other_processes: int = 0  # most seen on the GPU at once, beside this one
    other_cpu_share: float = 0.0  # part of the processors that others took, the largest of the processes that trained
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    step_time_s: list[float] = field(default_factory=list)
    step_end_s: list[float] = field(default_factory=list)
    data_time_s: list[float] = field(default_factory=list)
    step_work: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # the fields of WORK
    validation: list[dict[str, float]] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)  # every one that worked on the run
    machines: list[str] = field(default_factory=list)  # device, threads and torch of every process that did
    peaks: dict[str, int] = field(default_factory=dict)  # highest memory of every process that did, in bytes

    @property
    def spent(self) -> Spent:
        """What the budget's axes count."""
        return Spent(
            steps=self.step,
            samples=self.num_samples,
            latent_voxels=self.num_voxels,
            forward_flops=self.forward_flops,
            seconds=self.wall_time_s,
        )


class Trainer:
    """One run of one backbone. `train` goes on from the checkpoint in `folder`, where there is one."""

    def __init__(
        self,
        cell: Cell,
        backbone: nn.Module,
        *,
        train: LatentSet,
        val: LatentSet,
        inputs: str,
        folder: Path,
        flops_of: Callable[[Shape], int],
        device: torch.device,
        commit: str = "unknown",
        should_stop: Callable[[], bool] = lambda: False,
        progress: Progress = lambda done, total, what: None,
    ):
        self.cell, self.data, self.val = cell, train, val
        network: Any = backbone
        self.flops_of, self.should_stop, self.progress = functools.cache(flops_of), should_stop, progress
        self.checkpoint = folder / "checkpoint.pt"
        accelerator = Accelerator(mixed_precision="bf16" if cell.precision == "bf16" else "no", cpu=device.type == "cpu")
        if accelerator.device.type != device.type:
            raise Refusal(
                f"accelerate picked device {accelerator.device}, the cell runs on {device}; unset ACCELERATE_* or name the device"
            )
        if accelerator.num_processes != 1:
            raise Refusal(f"a cell trains in one process, got {accelerator.num_processes}; start it with `python -m bench run`")
        self.accelerator, self.device = accelerator, accelerator.device
        options = cell.optimizer
        optimizer = torch.optim.AdamW(
            backbone.parameters(), lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay, foreach=True
        )
        self.backbone, self.optimizer = accelerator.prepare(backbone, optimizer)
        self.params = [weight for weight in self.backbone.parameters() if weight.requires_grad]
        # diffusers' warm-up is ours: decay = min(ema_decay, (1 + n) / (10 + n)) at step n.
        self.ema = EMAModel(self.params, decay=options.ema_decay, foreach=True)
        self.drawer = Drawer(cell, train, backbone, self.device)
        self.num_tokens: Callable[[Shape], int] = functools.cache(network.num_tokens)
        self.state = State(inputs=inputs)
        self.memory = PhaseMemory(self.device)
        self.memory.start()
        # A plug-in may draw from the global generator, as dropout does; ours do not.
        torch.manual_seed(stream_seed(cell.seed, "training", 0))
        self._unread: list[tuple[Tensor, Tensor]] = []  # (loss, gradient norm) of steps the host has not read
        self._timer = StepTimer(self.device)
        self._neighbours = Neighbours(self.device)
        self._resume()
        machine = f"{self.device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        for seen, new in ((self.state.commits, commit), (self.state.machines, machine)):
            if new not in seen:
                seen.append(new)

    def train(self) -> Training:
        """Train until the budget is used. Raises Diverged, or Interrupted after writing a checkpoint."""
        state = self.state
        watch = StopWatch(self.device, state.wall_time_s)
        energy, self._neighbours = EnergyMeter(self.device), Neighbours(self.device)
        before_j = state.energy_j or 0.0
        saved_s, save_cost_s = time.perf_counter(), 0.0
        while (fraction := self._fraction()) < 1:
            if len(state.validation) < len(CURVE_FRACTIONS) and fraction >= CURVE_FRACTIONS[len(state.validation)]:
                with watch.pause():
                    self._read()
                    self._add_curve_point()
            self.step(watch)
            if self.device.type == "cpu" or state.step % READ_INTERVAL == 0:
                self._read()
                self._show()
            if self.should_stop():
                self.save()
                raise Interrupted(f"stopped at step {state.step}; the next `run` goes on from there")
            if time.perf_counter() - saved_s > max(self.cell.checkpoint_interval_s, 20 * save_cost_s):
                with watch.pause():
                    save_start_s = time.perf_counter()
                    self.save()
                    saved_s = time.perf_counter()
                    save_cost_s = saved_s - save_start_s
        with watch.pause():
            state.wall_time_s = watch.elapsed_s()  # the device has been waited for
            if (joules := energy.joules()) is not None:
                state.energy_j = before_j + joules
            state.other_cpu_share = max(state.other_cpu_share, self._neighbours.cpu_share())
            self._read()
            self.save()
            by_timestep = self.validate(len(self.val))
        last = {
            "step": float(state.step),
            "wall_time_s": state.wall_time_s,
            "loss": mean_loss(by_timestep),
            "num_clips": float(len(self.val)),
        }
        return self.course([last], by_timestep)

    def course(self, last: list[dict[str, float]] | None = None, by_timestep: dict[float, float] | None = None) -> Training:
        """What the run has seen so far, for the record; of a run that diverged, too."""
        state = self.state
        return Training(
            num_steps=state.step,
            num_samples=state.num_samples,
            wall_time_s=state.wall_time_s,
            loss=state.loss,
            grad_norm=state.grad_norm,
            step_time_s=state.step_time_s,
            step_end_s=state.step_end_s,
            data_time_s=state.data_time_s,
            step_work=state.step_work,
            num_warmup_steps=num_warmup_steps(state.step_time_s),
            storage_by_kind=state.storage_by_kind,
            storage_by_module=state.storage_by_module,
            energy_j=state.energy_j,
            other_processes=state.other_processes,
            other_cpu_share=state.other_cpu_share,
            validation=[*state.validation, *(last or [])],
            validation_by_timestep={f"{timestep:g}": loss for timestep, loss in (by_timestep or {}).items()},
        )

    def step(self, watch: StopWatch) -> None:
        """Draw a batch, take an optimiser step, and keep its times; what the loop does again and again."""
        state = self.state
        with self._timer.step():
            start_s = time.perf_counter()
            drawn = self.draw(state.step)
            state.data_time_s.append(time.perf_counter() - start_s)
            if state.step == 1:  # the first step that finds the optimiser's state in place; a warm-up step of the timings
                alive = {"optimiser": optimizer_state(self.optimizer), "average": self.ema.shadow_params}
                with StorageMeter(vars(drawn), list(self.backbone.buffers()), model=self.backbone, **alive) as meter:
                    self._unread.append(self.update(drawn))
                state.peak_storage_bytes = meter.peak_bytes
                state.storage_by_kind, state.storage_by_module = meter.split(), meter.by_module()
            else:
                self._unread.append(self.update(drawn))
        state.step += 1
        work = drawn.work(self.flops_of, self.num_tokens)
        state.num_samples += work[0]
        state.num_voxels += work[2]
        state.forward_flops += work[4]
        state.step_work.append(work)
        state.wall_time_s = watch.elapsed_s()
        state.step_end_s.append(state.wall_time_s)

    def draw(self, step: int) -> Drawn:
        """What optimiser step `step` trains on."""
        return self.drawer.draw(self.drawer.stream.batch(step))

    def update(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """One optimiser step. Returns loss and gradient norm, still on the device."""
        options = self.cell.optimizer
        rate = (
            options.learning_rate
            * min(1.0, (self.state.step + 1) / max(1, options.warmup_steps))
            * SCHEDULES[options.schedule](self._fraction())
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = drawn.loss(self.backbone)
        self.accelerator.backward(loss)
        grad_norm = self.accelerator.clip_grad_norm_(self.params, options.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.params)
        return loss.detach(), grad_norm

    @torch.no_grad()
    def validate(self, num_clips: int) -> dict[float, float]:
        """Timestep -> loss of the averaged weights on the first validation clips, with noise that no seed changes."""
        self.ema.store(self.params)
        self.ema.copy_to(self.params)
        self.backbone.eval()
        losses = validation_losses(self.backbone, self.val, num_clips, self.cell, self.device)
        self.backbone.train()
        self.ema.restore(self.params)
        return losses

    def averaged_backbone(self) -> nn.Module:
        """The backbone with the averaged weights, in evaluation mode; the last step of a run."""
        self.ema.copy_to(self.params)
        return self.accelerator.unwrap_model(self.backbone, keep_fp32_wrapper=False).eval()

    def save(self) -> None:
        """Write the checkpoint: all or nothing. StoreError where the disk is full."""
        self._read()
        peaks = self.memory.peaks()
        self.state.peaks = {name: max(peaks[name], self.state.peaks.get(name, 0)) for name in peaks}
        content = {
            "state": dataclasses.asdict(self.state),
            "backbone": self.accelerator.unwrap_model(self.backbone).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        with replacing(self.checkpoint) as temp, temp.open("wb") as file:
            torch.save(content, file)

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        try:
            content: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            state = State(**content["state"])
            if state.inputs != self.state.inputs:  # the data changed under the same cell: start over
                return
            self.accelerator.unwrap_model(self.backbone).load_state_dict(content["backbone"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.ema.load_state_dict(content["ema"])
            self.ema.to(self.device)
            torch.set_rng_state(content["rng"])
            if content["cuda_rng"] and self.device.type == "cuda":
                torch.cuda.set_rng_state_all(content["cuda_rng"])
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Refusal(f"checkpoint {self.checkpoint} cannot be read ({reason}); remove it to start over") from error
        self.state = state

    def release(self) -> None:
        """Let go of all that only training needs, so that sampling is measured without it. Keeps `state`."""
        del self.optimizer, self.ema, self.params, self.backbone
        self.accelerator.free_memory()

    def _fraction(self) -> float:
        """Part of the budget that is used."""
        return self.cell.budget.fraction(self.state.spent)

    def _add_curve_point(self) -> None:
        num_clips = min(CURVE_CLIPS, len(self.val))
        loss = mean_loss(self.validate(num_clips))
        point = {"step": float(self.state.step), "wall_time_s": self.state.wall_time_s, "loss": loss, "num_clips": float(num_clips)}
        self.state.validation.append(point)

    def _read(self) -> None:
        """Bring losses and times to the host, and look for divergence."""
        unread, self._unread = self._unread, []
        self.state.loss += [float(loss) for loss, _ in unread]
        self.state.grad_norm += [float(norm) for _, norm in unread]
        self.state.step_time_s += self._timer.read()
        self._neighbours.look()
        self.state.other_processes = max(self.state.other_processes, self._neighbours.most_others)
        losses = self.state.loss
        if not all(math.isfinite(loss) for loss in losses[-len(unread) :] if unread):
            raise Diverged(f"loss is {losses[-1]} at step {len(losses)}; learning rate {self.cell.optimizer.learning_rate}")
        if len(losses) >= 20 and (recent := float(np.mean(losses[-20:]))) > EXPLODED * losses[0]:
            raise Diverged(f"loss {recent:.3g} at step {len(losses)} is over {EXPLODED:g} times the first step's {losses[0]:.3g}")

    def _show(self) -> None:
        state, total = self.state, self.cell.budget.parts
        recent = state.step_time_s[-20:]
        rate = sum(work[0] for work in state.step_work[-len(recent) :]) / sum(recent)
        left_s = state.wall_time_s * (1 / max(self._fraction(), 1e-9) - 1)
        what = f"step {state.step}, loss {np.mean(state.loss[-20:]):.3f}, {rate:.1f} clips/s, {max(left_s, 0):.0f} s left"
        self.progress(min(int(self._fraction() * total), total), total, what)
