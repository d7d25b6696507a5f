"""The one training loop: draw, step, budget, checkpoint and exact resume. The same code for every backbone.

What the k-th drawn clip is, its noise, its timestep and whether its label is dropped depend on the run's seed and k alone.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.latents.latents import LatentSet
from bench.data.policy.stills import first_of_clips
from bench.data.progress import Progress, silent
from bench.data.seeds import stream_seed
from bench.meters.clock import StepTimer, StopWatch, seconds_between
from bench.meters.device import EnergyMeter, Neighbours
from bench.meters.memory import FOUND, PhaseMemory, let_go
from bench.meters.storage import StorageMeter
from bench.records.artefacts import point_file, save_tensors
from bench.records.record import Training, ValidationPoint
from bench.shapes import Refusal, Shape
from bench.study.budget import CURVE_CLIPS, CURVE_FRACTIONS
from bench.study.cell import Cell
from bench.training import checkpoint, sharded_checkpoint
from bench.training.acceleration import HALF, accelerate
from bench.training.branch import branch_off, is_due
from bench.training.draws import Drawer, Drawn
from bench.training.ranks import ALONE, Ranks, balanced, spread
from bench.training.step import TrainStep
from bench.training.track import Track
from bench.training.trial import candidates, choose
from bench.training.validation import mean_loss, validation_losses

TRIAL_BATCHES = 4  # that ways of running a step are tried on
METERED = 1  # from here on the first step of clips has its storage metered: it finds the optimiser's state in place, a warm-up
READ_INTERVAL = 20  # steps between reads of losses on a GPU, each of which waits for the device


class Interrupted(Exception):
    """Asked to stop; the checkpoint is written."""


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
        progress: Progress = silent,
        ranks: Ranks = ALONE,
        anew: Callable[[], nn.Module] | None = None,
        track: Sequence[str] = (),
    ):
        """`ranks`: the processes that train together, each with a trainer of the same weights and data. `anew`: makes the backbone once
        more, for weights that were trained in parts. `track`: names of trackers."""
        self.cell, self.val, self.ranks, self.device = cell, val, ranks, device
        self.anew: Any = anew
        network: Any = backbone
        self.flops_of, self.should_stop, self.progress = functools.cache(flops_of), should_stop, progress
        self.num_tokens: Callable[[Shape], int] = functools.cache(network.num_tokens)
        self.folder, self.checkpoint = folder, folder / "checkpoint.pt"
        half = HALF[cell.precision]
        self.train_step = TrainStep(spread(backbone.to(device), cell.parallel, device, half), cell.optimizer, device, half)
        self.drawer = Drawer(cell, train, backbone, self.device)
        self.metered = first_of_clips(cell.batching.stills, METERED)
        self._one_shape = (
            len(set(train.shapes)) == 1
            and cell.batching.batch_size is not None
            and cell.batching.token_dropping is None
            and not cell.batching.stills
        )
        self.memory = PhaseMemory(self.device)
        self.memory.start()
        # A plug-in may draw from the global generator, as dropout does; ours do not.
        torch.manual_seed(stream_seed(cell.seed, "training", 0))
        self._unread: list[tuple[Tensor, Tensor]] = []  # (loss, gradient norm) of steps the host has not read
        self._timer = StepTimer(self.device)
        self._neighbours = Neighbours(self.device)
        self._is_sharded = cell.parallel.kind == "fsdp"
        if self._is_sharded:
            self.state = sharded_checkpoint.load(folder, self.train_step, inputs, ranks)
        else:
            self.state = checkpoint.load(self.checkpoint, self.train_step, inputs)
        if cell.acceleration.compile in ("auto", "graphs"):
            self._run_by(cell.acceleration.compile)
            self.memory.start()  # of the run, and not of a trial
        self.track = Track(track if ranks.leads else (), cell, folder.name, folder, self.state.step)
        machine = f"{self.device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        for seen, new in ((self.state.commits, commit), (self.state.machines, machine)):
            if new not in seen:
                seen.append(new)

    def _run_by(self, way: str) -> None:
        """Run steps this way. A resumed run keeps the one that its trial found: its times are then all of one kind."""
        batches = [self.draw(number) for number in range(TRIAL_BATCHES)]
        if way == "auto":
            if self.state.acceleration is None:
                has_blocks = hasattr(self.train_step.module, "repeated_blocks")
                ways = candidates(self.device, has_blocks=has_blocks, one_shape=self._one_shape)
                self.state.acceleration = choose(self.train_step, ways, self._apply, batches)
            way = self.state.acceleration.chosen
        self._apply(way, batches[0])

    def _apply(self, way: Any, batch: Drawn) -> None:
        """Make the step run this way from now on. Refusal where it cannot."""
        self.train_step.release()
        if way == "graphs":
            if self.device.type != "cuda" or not self._one_shape:
                own = "stills beside clips" if self.cell.batching.stills else f"batches of {self.cell.batching.policy}"
                where = f"a {self.device.type} device" if self.device.type != "cuda" else own
                raise Refusal(f"acceleration.compile 'graphs' captures CUDA kernels of batches of one shape, got {where}; use none or auto")
            accelerate(self.train_step.module, self.cell.acceleration.model_copy(update={"compile": "none"}))
            self.train_step.capture(batch)
        else:
            accelerate(self.train_step.module, self.cell.acceleration.model_copy(update={"compile": way}))

    def train(self) -> Training:
        """Train until the budget is used. Raises Diverged, or Interrupted after writing a checkpoint."""
        state = self.state
        watch = StopWatch(self.device, state.wall_time_s)
        energy, self._neighbours = EnergyMeter(self.device), Neighbours(self.device)
        before_j = state.energy_j or 0.0
        saved_s, save_cost_s = time.perf_counter(), 0.0
        while (fraction := self._fraction()) < 1:
            if len(state.validation) < len(CURVE_FRACTIONS) and fraction >= CURVE_FRACTIONS[len(state.validation)]:
                with self._pause(watch):
                    num_clips = min(CURVE_CLIPS, len(self.val))
                    state.validation.append(self._point(mean_loss(self.validate(num_clips)), num_clips))
                    self.track.values({"val_loss": state.validation[-1].loss}, state.step)
            self._keep_point(watch, fraction)
            while is_due(self):
                with self._pause(watch):
                    beside, found = EnergyMeter(self.device), branch_off(self)
                    before_j -= beside.joules() or 0.0
                if found is None:
                    self._stop(watch)
                state.branches.append(found)
            self.step(watch)
            if self.device.type == "cpu" or state.step % READ_INTERVAL == 0:
                self._read(watch)
                self._show()
            stop, due = self._agreed(time.perf_counter() - saved_s > max(self.cell.checkpoint_interval_s, 20 * save_cost_s))
            if stop:
                self._stop(watch)
            if due:
                with self._pause(watch):
                    save_start_s = time.perf_counter()
                    self.save()
                    saved_s = time.perf_counter()
                    save_cost_s = saved_s - save_start_s
        with self._pause(watch):
            if (joules := energy.joules()) is not None:  # of a CPU all processes see the same, of GPUs each its own
                state.energy_j = before_j + (sum(self.ranks.lists(joules)) if self.device.type == "cuda" else joules)
            state.other_cpu_share = max(state.other_cpu_share, self._neighbours.cpu_share(self.ranks.here_s))
            self.save()
            by_timestep = self.validate(len(self.val))
            self._tell(all_of_them=True)
            self.track.values({"val_loss": mean_loss(by_timestep)}, state.step)
        return state.training(self._point(mean_loss(by_timestep), len(self.val)), by_timestep)

    def _stop(self, watch: StopWatch) -> NoReturn:
        """Write a checkpoint and raise Interrupted."""
        with self._pause(watch):
            self.save()
            self._tell(all_of_them=True)
        self.track.end()
        raise Interrupted(f"stopped at step {self.state.step}; the next `run` goes on from there")

    def step(self, watch: StopWatch) -> None:
        """Draw a batch, take an optimiser step, and keep its times; what the loop does again and again."""
        state = self.state
        with self._timer.step():
            start_s = time.perf_counter()
            drawn = self.draw(state.step)
            state.data_time_s.append(time.perf_counter() - start_s)
            if state.step == self.metered and not self._is_sharded:
                backbone = self.train_step.module
                with StorageMeter(vars(drawn), model=backbone, buffers=list(backbone.buffers()), **self.train_step.alive()) as meter:
                    self._unread.append(self.update(drawn))
                state.peak_storage_bytes = meter.peak_bytes
                state.storage_by_kind, state.storage_by_module = meter.split(), meter.by_module()
            else:
                self._unread.append(self.update(drawn))
        state.add(drawn.work(self.flops_of, self.num_tokens), self._elapsed_s(watch))

    def draw(self, step: int) -> Drawn:
        """What optimiser step `step` trains on, in this process."""
        batch = self.drawer.stream.batch(step)
        if self.ranks.num == 1:
            return self.drawer.draw(batch)
        costs = self.drawer.shapes_of(batch).flops(self.flops_of, self.num_tokens)
        parts = balanced(costs, self.ranks.num)
        loads = [sum(costs[place] for place in part) for part in parts]
        self.state.imbalance.append(max(loads) * len(loads) / sum(loads) - 1)
        return self.drawer.draw(batch, parts[self.ranks.rank], self.ranks.num)

    def update(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """One optimiser step. Returns loss and gradient norm, still on the device."""
        return self.train_step(drawn.loss, self.state.step, self._fraction())

    def validate(self, num_clips: int) -> dict[float, float]:
        """Timestep -> loss of the averaged weights on the first validation clips, with noise that no seed changes."""
        with self.train_step.averaged():
            return validation_losses(self.train_step.backbone, self.val, num_clips, self.cell, self.device, self.ranks)

    def _keep_point(self, watch: StopWatch, fraction: float) -> None:
        """Keep the averaged weights where the next point is reached that samples are asked at; they are sampled after training."""
        state, asked = self.state, self.cell.evaluation.points
        if len(state.points) == len(asked) or fraction < (part := asked[len(state.points)]):
            return
        with self._pause(watch):
            with self.train_step.averaged():
                weights = self.train_step.weights()
                if self.ranks.leads:
                    save_tensors(self.folder / point_file(part), weights)
            state.points.append((part, state.step, state.wall_time_s, state.forward_flops))

    def averaged_backbone(self) -> nn.Module:
        """The backbone with the averaged weights, in evaluation mode; the last step of a run, of which only `state` is left.

        All that only training needs is let go of, so that sampling is measured without it.
        """
        self.train_step.ema.copy_to(self.train_step.own)
        backbone: nn.Module = self.train_step.module
        if self._is_sharded:  # sampling holds all weights, and nothing else
            weights = self.train_step.weights()
            backbone = self.anew().to(self.device)
            backbone.load_state_dict(weights)
        backbone.eval()
        del self.train_step
        let_go(self.device)
        return backbone

    def save(self) -> None:
        """Write the checkpoint of what has been read."""
        state = self.state
        for name, every in self.ranks.counts(self.memory.peaks(), FOUND).items():
            state.peaks[name] = max(*every, state.peaks.get(name, 0))
            if self.ranks.num > 1:
                before = state.peaks_by_process.get(name, [])  # by as many processes, or of no use
                both = (before, every) if len(before) == len(every) else (every,)
                state.peaks_by_process[name] = [max(own) for own in zip(*both, strict=True)]
        if self._is_sharded:
            sharded_checkpoint.save(self.folder, self.train_step, state, self.ranks)
        elif self.ranks.leads:
            checkpoint.save(self.checkpoint, self.train_step, state)
        self.ranks.wait()  # whoever ends first ends all

    def _agreed(self, due: bool) -> tuple[bool, bool]:
        """Whether any process was asked to stop, and whether the leading one finds a checkpoint due."""
        stop = self.should_stop()
        if self.ranks.num == 1:
            return stop, due
        any_stop, leader_due = self.ranks.total(torch.tensor([float(stop), float(due and self.ranks.leads)])).tolist()
        return any_stop > 0, leader_due > 0

    def _elapsed_s(self, watch: StopWatch) -> float:
        """Of the loop, by the leading process's clock."""
        return self.ranks.of_leader([watch.elapsed_s()])[0]

    def _fraction(self) -> float:
        """Part of the budget that is used."""
        return self.cell.budget.fraction(self.state.spent)

    def _point(self, loss: float, num_clips: int) -> ValidationPoint:
        return ValidationPoint(step=self.state.step, wall_time_s=self.state.wall_time_s, loss=loss, num_clips=num_clips)

    @contextlib.contextmanager
    def _pause(self, watch: StopWatch) -> Iterator[None]:
        """A pause of the loop, with all that the device was given before it done, counted and read."""
        with watch.pause():
            self.state.wall_time_s = self._elapsed_s(watch)
            self._read(watch)
            yield

    def _read(self, watch: StopWatch) -> None:
        """Bring losses and times to the host, and look for divergence."""
        unread, self._unread = self._unread, []
        state = self.state
        losses = [float(loss) for loss, _ in unread]
        if self.ranks.num > 1 and losses:  # the mean of the processes' is that of the step
            losses = (self.ranks.total(torch.tensor(losses)) / self.ranks.num).tolist()
        state.loss += losses
        state.grad_norm += [float(norm) for _, norm in unread]
        marks = self._timer.read_marks()
        state.step_time_s += [seconds_between(start, end) for start, end in marks]
        state.step_end_s += [watch.at(end) for _, end in marks]
        self._neighbours.look()
        state.other_processes = max(state.other_processes, self._neighbours.most_others)
        state.check(len(unread), self.cell.optimizer.learning_rate)
        self._tell()

    def _tell(self, *, all_of_them: bool = False) -> None:
        """What steps were, to those who watch."""
        state = self.state
        series = {"loss": state.loss, "grad_norm": state.grad_norm, "step_time_s": state.step_time_s}
        self.track.steps(series, len(state.step_time_s), all_of_them=all_of_them)

    def _show(self) -> None:
        state, total = self.state, self.cell.budget.parts
        recent = state.step_time_s[-20:]
        rate = sum(work[0] for work in state.step_work[-len(recent) :]) / sum(recent)
        left_s = state.wall_time_s * (1 / max(self._fraction(), 1e-9) - 1)
        what = f"step {state.step}, loss {np.mean(state.loss[-20:]):.3f}, {rate:.1f} clips/s, {max(left_s, 0):.0f} s left; budget"
        self.progress(min(int(self._fraction() * total), total), total, what)
