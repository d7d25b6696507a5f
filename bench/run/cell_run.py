"""One cell, end to end, phase by phase: what is trained on, training, sampling, judging; and its record, whatever happens.
Runs in a process of its own, which bench/run/worker.py starts.
"""

import contextlib
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.files import StoreError, now, remove_folder, write_text
from bench.data.latents.autoencoder import decode_clips
from bench.data.plugin import BrokenPlugin
from bench.data.progress import Progress, silent
from bench.data.ragged import Frames, clip_shapes
from bench.data.sealed import warn_damaged
from bench.meters.flops import count_flops, num_params
from bench.meters.memory import FOUND, PhaseMemory, is_out_of_memory
from bench.meters.process import device_name, pick_device
from bench.records.artefacts import (
    FEATURES,
    PHYSICS,
    SHEET,
    WEIGHTS,
    load_frames,
    point_file,
    save_arrays,
    save_frames,
    save_tensors,
)
from bench.records.environment import commit, read_environment
from bench.records.record import FINAL, AutoencoderFacts, BackboneFacts, DataFacts, Measurement, Record, Sampling, Status
from bench.records.store import latest, next_attempt, write_record
from bench.run.checks import judge_of, weights_digest
from bench.run.claim import claimed
from bench.run.job import TRACEBACK, CellJob
from bench.run.measure.costs import autoencoder_measurements, sampling_measurements, training_measurements
from bench.run.measure.grid import measure_grid
from bench.run.measure.memory import memory_measurements, predicted_storage
from bench.run.measure.peak import study_peak
from bench.run.measure.physics import measure_physics
from bench.run.measure.points import measure_points
from bench.run.measure.products import use_products
from bench.run.measure.quality import Quality
from bench.run.measure.sheet import save_sheet
from bench.run.samples import INPUTS, build_backbone, inputs_of, read_inputs, sample_scored, sampling_storage, sampling_work
from bench.run.stages import ReferenceSet, TrainingSet, reference_set, training_set
from bench.shapes import Refusal, Shape
from bench.training import sharded_checkpoint
from bench.training.acceleration import HALF, accelerate
from bench.training.canary import run_canaries
from bench.training.checkpoint import Diverged
from bench.training.ranks import ALONE, Ranks, join, leave
from bench.training.track import SHOWN
from bench.training.trainer import Interrupted, Trainer

FIRST_S = 5.0  # in which the leading one of several processes tells what is wrong with all of them


def run_cell(job: CellJob, progress: Progress, should_stop: Callable[[], bool]) -> None:
    """A cell by this process, or by this and the others that its agent started; not where another worker has finished it since.

    Status 1 where one of several fails: the others, which wait for it, are then ended.
    """
    ranks = join() if job.is_spread else ALONE
    with contextlib.ExitStack() as held:
        if ranks.leads:
            held.enter_context(claimed(job.folder, job.label, should_stop))
        ranks.wait()
        record = latest(job.folder)
        if ranks.any(ranks.leads and record is not None and record.attempt > job.after and record.status in FINAL):
            return
        cell = CellRun(job, progress if ranks.leads else silent, should_stop, ranks)
        cell.run()
        if cell.failed and ranks.num > 1:
            sys.exit(1)
    leave()


class CellRun:
    """Trains, samples and measures one backbone, and writes what came of it."""

    # Each is there once its phase is through.
    training_set: TrainingSet
    backbone: Any  # from training on with the averaged weights
    shape: Shape  # latent (T, H, W) of the data's one shape
    facts: BackboneFacts
    reference: ReferenceSet
    generated: Frames
    quality: Quality

    def __init__(self, job: CellJob, progress: Progress, should_stop: Callable[[], bool], ranks: Ranks = ALONE):
        self.job, self.progress, self.should_stop, self.ranks = job, progress, should_stop, ranks
        self.name, self.cell = job.cell.name, job.cell.cell
        self.folder = job.results / job.matrix / job.cell.folder
        self.device = pick_device(self.cell)
        self.started_at = now()
        self.failed = False
        self.trainer: Trainer | None = None
        self.untrained: Frames | None = None  # clips of the initial weights, where they are asked for
        self.measurements: list[Measurement] = []
        self.time_split_s: dict[str, float] = {}
        self.artefacts: dict[str, str] = {}
        self.found: dict[str, Any] = {}  # further fields of the record, as far as they are known

    def run(self) -> None:
        """The whole cell. Whatever happens but a request to stop, a record says so."""
        phases: dict[str, Callable[[], None]] = {
            "training set": self.make_training_set,
            "backbone": self.build_backbone,
            "canaries": self.check_canaries,
            "untrained model": self.sample_untrained,
            "training": self.train,
            "sampling": self.sample,
            "reference set": self.make_reference_set,
            "costs": self.measure_costs,
            "quality": self.measure_quality,
            "quality on the way": self.measure_points,
            "shape grid": self.measure_grid,
            "physics": self.measure_physics,
        }
        if not self.cell.evaluation.num_samples:  # its training and validation loss alone are asked for
            phases = {name: phases[name] for name in ("training set", "backbone", "canaries", "training")}
        if not self.cell.evaluation.untrained or not self.cell.budget.amount:  # untrained is then all that there is
            phases.pop("untrained model", None)
        if not self.cell.evaluation.points:
            phases.pop("quality on the way", None)
        if not self.cell.evaluation.grid:
            phases.pop("shape grid", None)
        if not (self.cell.evaluation.regions or self.cell.evaluation.twins):
            phases.pop("physics", None)
        try:
            for name, phase in phases.items():
                start_s = time.perf_counter()
                try:
                    phase()
                finally:
                    self.time_split_s[name] = time.perf_counter() - start_s
                if self.ranks.any(self.should_stop()) and name != list(phases)[-1]:  # after the last phase there is nothing left to stop
                    raise Interrupted(f"stopped after {name}; the next `run` goes on from there")
        except Interrupted:
            raise
        except Diverged as diverged:
            self._write("diverged", str(diverged))
        except (Exception, SystemExit) as error:  # noqa: BLE001  the record is where a failure is reported; nothing is lost
            if isinstance(error, Refusal) and not isinstance(error, BrokenPlugin):  # its line is all there is to say
                self._write("failed", _one_line(error))
                return
            if is_out_of_memory(error):  # the peak up to there is a result
                self.measurements += memory_measurements(PhaseMemory(self.device).peaks())
                self._write("oom", _one_line(error))
                return
            with contextlib.suppress(StoreError):  # a full disk has no room for it either
                write_text(self.folder / "traceback.txt", traceback.format_exc())
            if os.environ.get(TRACEBACK):
                traceback.print_exc()
            self._write("failed", f"{type(error).__name__}: {_one_line(error)} (traceback.txt beside this record)")
        else:
            if self.ranks.leads:
                self._write("ok", None)

    # --- the phases

    def make_training_set(self) -> None:
        """Clips, autoencoder, latents; what an earlier attempt left behind goes, where its data was not this data."""
        self.training_set = training_set(self.cell, self.job.results, self.device, self.progress)
        autoencoder = self.training_set.autoencoder
        clips = vars(self.training_set.clips).copy()
        num_clips = {split: len(clip_set) for split, clip_set in clips.pop("splits").items()}
        self.found["data"] = DataFacts(num_clips=num_clips, **clips)
        self.found["ledger"] = self.training_set.ledger
        self.found["autoencoder"] = AutoencoderFacts.model_validate({"key": autoencoder.key, **autoencoder.facts})
        inputs, known = inputs_of(self.cell, self.training_set), read_inputs(self.folder)
        if known != inputs and self.ranks.leads:
            # A checkpoint says itself what it is of: it outlives a marker that is gone.
            for name in ("untrained.npz", WEIGHTS, *(["checkpoint.pt"] if known else [])):
                (self.folder / name).unlink(missing_ok=True)
            for path in sharded_checkpoint.folders(self.folder) if known else ():
                remove_folder(path)
            self._forget_points()
            write_text(self.folder / INPUTS, inputs)
        self.ranks.wait()

    def build_backbone(self) -> None:
        """The backbone with its initial weights."""
        given, data = self.training_set, self.cell.data
        self.shape = shape = given.spec.latent_shape((data.num_frames, data.height, data.width))
        self.backbone = build_backbone(self.cell, given)
        products = use_products(self.job.matrix, self.job.results, self.device)
        peak = study_peak(self.job.matrix, HALF[self.cell.precision] or torch.float32, self.device, self.job.results)
        self.flops_of = partial(count_flops, self.cell.backbone, given.spec)
        self.facts = self.found["backbone"] = BackboneFacts(
            num_params=num_params(self.backbone),
            flops_per_clip=self.flops_of(shape),
            tokens_per_clip=self.backbone.num_tokens(shape),
            peak_flop_per_s=peak.flop_per_s * self.ranks.num,
            peak_key=peak.key,
            products=products,
            latent_shape=(given.spec.latent_channels, *shape),
            match=self.job.cell.match,
            weights=weights_digest(self.cell),
        )

    def check_canaries(self) -> None:
        """The self-checks that run with every contender."""
        given, known = self.training_set, self.job.canaries
        if known is None and self.ranks.leads:
            known = tuple(run_canaries(self.cell, self.backbone, given.spec, self.shape, given.train, given.val, self.device))
        self.found["canaries"] = list(known or ())

    def sample_untrained(self) -> None:
        """Clips of the initial weights; a resumed cell has them already."""
        path = self.folder / "untrained.npz"
        if path.is_file():
            try:
                self.untrained = self._of_scored_shapes(path)
                self.artefacts["untrained"] = path.name
            except Refusal as error:
                warn_damaged(f"{self.name}: {error}; the untrained model is sampled again")
        if self.untrained is None:
            self.untrained = self._keep(self._sampled(self.backbone.to(self.device).eval())[0], "untrained")
        self.backbone.train()

    def train(self) -> None:
        """The budget, from the checkpoint on where there is one; leaves the averaged weights."""
        gc.collect()
        self.ranks.wait()
        given = self.training_set
        given.autoencoder.to("cpu")  # not in the way of what training is measured by
        accelerate(self.backbone, self.cell.acceleration)
        self.trainer = trainer = Trainer(
            self.cell,
            self.backbone,
            train=given.train,
            val=given.val,
            inputs=inputs_of(self.cell, given),
            folder=self.folder,
            flops_of=self.flops_of,
            device=self.device,
            commit=commit(),
            should_stop=self.should_stop,
            progress=self.progress,
            ranks=self.ranks,
            anew=lambda: build_backbone(self.cell, given),
            track=self.job.track,
        )
        if trainer.state.step and self.ranks.leads:
            print(f"{self.name}: resumed at step {trainer.state.step}", file=sys.stderr)
        self.found["training"] = training = trainer.train()
        peaks, storage_bytes = trainer.state.peaks, trainer.state.peak_storage_bytes
        self.measurements += training_measurements(training, self.cell, given, self.facts, peaks, storage_bytes)
        self.backbone = trainer.averaged_backbone()
        if self.ranks.leads:
            save_tensors(self.folder / WEIGHTS, self.backbone.state_dict())
        self.artefacts["weights"] = WEIGHTS

    def sample(self) -> None:
        """One clip for each test clip's class, and what that takes."""
        memory = PhaseMemory(self.device)
        memory.start()
        latents, course = self._sampled(self.backbone)
        peaks = {name: max(every) for name, every in self.ranks.counts(memory.peaks(), FOUND).items()}
        sampling = course.model_copy(update={"work": sampling_work(latents, self.backbone, self.flops_of)})
        self.found["sampling"] = sampling
        storage_bytes = sampling_storage(self.cell, self.backbone, self.training_set, self.device)
        self.measurements += sampling_measurements(sampling, self.facts, peaks, storage_bytes)
        self.training_set.autoencoder.to(self.device)
        self.generated = self._keep(latents, "samples")
        assert self.trainer is not None
        self.trainer.track.clips("samples", [np.asarray(clip) for clip in self.generated[:SHOWN]], self.trainer.state.step)
        self.trainer.track.end()

    def make_reference_set(self) -> None:
        """What the samples are judged against."""
        self.reference = reference_set(self.cell, self.training_set, self.job.results, self.device, self.progress)

    def measure_costs(self) -> None:
        """Of what all contenders share; and the memory that was to be expected of a training step."""
        if not self.ranks.leads:
            return
        assert self.trainer is not None
        self.measurements += predicted_storage(self.trainer, self.training_set.spec, self.job.predicted_bytes)
        self.measurements += autoencoder_measurements(self.training_set.autoencoder, self.reference.held_out["test"], self.device)

    def measure_quality(self) -> None:
        """Distances and all else that is measured of the clips; features and clips for others to look at."""
        self.quality = quality = Quality(self.cell, self.reference, self.device, self.progress, self.job.results, self.ranks)
        self.measurements += quality.measure(self.generated, self.untrained)
        if not self.ranks.leads:
            return
        # Features of every subject under every extractor, as `<extractor>/<subject>`: for the report, and for others to score again.
        named = {f"{name}/{subject}": values for name, sets in quality.features.items() for subject, values in sets.items()}
        save_tensors(self.folder / FEATURES, {name: torch.from_numpy(np.array(values)) for name, values in named.items()})
        self.artefacts["features"] = FEATURES
        save_sheet(self.folder / SHEET, self.reference, self.generated, self.untrained)
        self.artefacts["sheet"] = SHEET

    def measure_points(self) -> None:
        """Samples at points of the training."""
        assert self.trainer is not None
        kept = self.trainer.state.points
        self.found["points"] = measure_points(self.quality, self.backbone, self.judge, kept, self.folder, self.device, self.progress)

    def measure_grid(self) -> None:
        """Samples at other shapes."""
        if not self.ranks.leads:
            return
        where = (self.job.results, self.device, self.progress)
        self.found["grid"] = measure_grid(self.cell, self.backbone, self.reference, self.judge, *where)

    def measure_physics(self) -> None:
        """How far what is predicted follows the laws of its world."""
        if not self.ranks.leads:
            return
        given, initial = self.training_set, partial(build_backbone, self.cell, self.training_set)
        found = measure_physics(self.cell, self.backbone, initial, given, self.job.results, self.device, self.progress)
        self.measurements += found.measurements
        if found.arrays:
            save_arrays(self.folder / PHYSICS, **found.arrays)
            self.artefacts["physics"] = PHYSICS

    # --- their parts

    @property
    def judge(self) -> str:
        """The extractor of the primary measure, or the first."""
        return judge_of(self.job.asked.primary) or self.cell.evaluation.extractors[0]

    def _sampled(self, backbone: nn.Module) -> tuple[list[Tensor], Sampling]:
        return sample_scored(self.cell, backbone, self.training_set, self.device, self.progress, self.ranks)

    def _of_scored_shapes(self, path: Path) -> Frames:
        """Clips of an earlier attempt. Refusal where they are damaged, or not of the shapes that are sampled."""
        frames, given = load_frames(path), self.training_set
        if frames.dtype != np.uint8 or [given.spec.latent_shape(shape) for shape in clip_shapes(frames)] != list(given.shapes):
            raise Refusal(f"{path} holds other clips than this cell samples")
        return frames

    def _keep(self, latents: list[Tensor], kind: str) -> Frames:
        """Decode samples to clips and keep them losslessly under `kind`."""
        given = self.training_set
        frames = decode_clips(given.autoencoder, latents)
        path = self.folder / f"{kind}.npz"
        if self.ranks.leads:
            save_frames(path, frames, labels=given.labels, fps=np.float64(given.clips.fps))
        self.artefacts[kind] = path.name
        return frames

    def _write(self, status: Status, reason: str | None) -> None:
        """The record of all that is known; of several processes that fail, the first one's."""
        self.failed = status != "ok"
        if not self.ranks.leads:
            time.sleep(FIRST_S)
            known = latest(self.folder)
            if status == "diverged" or (known is not None and known.attempt > self.job.after):
                return
        state = self.trainer.state if self.trainer is not None else None
        if "training" not in self.found and state is not None and state.loss:  # training ended early: its course up to there
            self.found["training"] = state.training()
        record = Record(
            matrix=self.job.matrix,
            name=self.name,
            fingerprint=self.cell.fingerprint(),
            cell=self.cell,
            asked=self.job.asked,
            tuning=self.job.cell.tuning,
            attempt=next_attempt(self.folder),
            status=status,
            reason=reason,
            started_at=self.started_at,
            ended_at=now(),
            environment=read_environment(num_threads=torch.get_num_threads(), device=device_name(self.device)),
            commits=state.commits if state is not None else [commit()],
            machines=state.machines if state is not None else [],
            measurements=self.measurements,
            time_split_s=self.time_split_s,
            artefacts=self.artefacts,
            **self.found,
        )
        write_record(self.folder, record)
        if status == "ok":
            self._forget_points()

    def _forget_points(self) -> None:
        """Remove the averaged weights that training kept on the way."""
        for part in self.cell.evaluation.points:
            (self.folder / point_file(part)).unlink(missing_ok=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__
