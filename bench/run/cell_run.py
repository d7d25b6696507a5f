"""One cell, end to end: shared stages, canaries, training, sampling, quality; and its record, whatever happens.

Runs in a process of its own, which bench/run/worker.py starts.
"""

import contextlib
import gc
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.backbone import check_latents
from bench.data.files import now, write_text
from bench.data.latents import autoencoder as autoencoders
from bench.data.progress import Reporter
from bench.data.ragged import Frames
from bench.meters.flops import count_flops, num_params
from bench.meters.memory import PhaseMemory
from bench.meters.peak import matmul_peak
from bench.meters.process import device_name, pick_device
from bench.meters.storage import StorageMeter
from bench.records.artefacts import FEATURES, SHEET, WEIGHTS, framed, load_frames, save_arrays, save_frames, save_tensors
from bench.records.environment import commit, read_environment
from bench.records.record import Measurement, Record, Sampling
from bench.records.store import next_attempt, write_record
from bench.run import stages as stages_of
from bench.run.job import TRACEBACK, Job
from bench.run.measure.costs import Costed, autoencoder_measurements, sampling_measurements, training_measurements
from bench.run.measure.grid import measure_grid
from bench.run.measure.quality import Quality
from bench.run.samples import INPUTS, build_backbone, held_out_shapes, inputs_of, sampling_work
from bench.run.stages import SHEET_CLIPS, Stages
from bench.study.cell import Cell
from bench.training.acceleration import accelerate
from bench.training.canary import run_canaries
from bench.training.course import Diverged
from bench.training.precision import HALF, autocast
from bench.training.sampling import SamplePlan, Samples, guided, sample
from bench.training.trainer import Interrupted, Trainer


class CellRun:
    """Trains, samples and measures one backbone, and writes what came of it."""

    def __init__(self, job: Job, progress: Reporter, should_stop: Callable[[], bool]):
        self.job, self.progress, self.should_stop = job, progress, should_stop
        self.named = job.cells[0]
        self.cell = Cell.model_validate(self.named.cell)
        self.folder = job.results / self.named.folder
        self.device = pick_device(self.cell)
        self.started_at = now()
        self.trainer: Trainer | None = None
        self.outcome: dict[str, Any] = {"measurements": [], "canaries": [], "time_split_s": {}, "artefacts": {}}

    def run(self) -> None:
        """The whole cell. Whatever happens but a request to stop, a record says so."""
        try:
            self._measure()
        except Interrupted:
            raise
        except Diverged as diverged:
            if self.trainer is not None:
                self.outcome["training"] = self.trainer.state.training()
            self._write("diverged", str(diverged))
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._write_oom(error)
        except Exception as error:  # noqa: BLE001  the record is where a failure is reported; nothing is lost
            if "can't allocate memory" in str(error):  # torch's CPU allocator raises a plain RuntimeError
                self._write_oom(error)
                return
            with contextlib.suppress(OSError):  # a full disk has no room for it either
                (self.folder / "traceback.txt").write_text(traceback.format_exc())
            if os.environ.get(TRACEBACK):
                traceback.print_exc()
            self._write("failed", f"{type(error).__name__}: {_one_line(error)} (traceback.txt beside this record)")
        else:
            self._write("ok", None)

    def _measure(self) -> None:
        cell, outcome = self.cell, self.outcome
        with self._phase("shared stages"):
            stages = stages_of.prepare(cell, self.job.results, self.device, self.progress)
        outcome["data"] = describe_data(stages)
        outcome["ledger"] = asdict(stages.ledger)
        outcome["autoencoder"] = {"key": stages.autoencoder.key, **stages.autoencoder.facts}
        inputs = inputs_of(cell, stages)
        self._start_over_unless(inputs)

        shape = stages.spec.latent_shape((cell.data.num_frames, cell.data.height, cell.data.width))
        backbone = build_backbone(cell, stages)
        for latent_shape in dict.fromkeys((*stages.train.shapes, *stages.val.shapes)):
            check_latents(backbone, latent_shape)
        flops_of = partial(count_flops, cell.backbone, stages.spec)
        flops = flops_of(shape)
        outcome["backbone"] = {
            "num_params": num_params(backbone),
            "flops_per_clip": flops,
            "tokens_per_clip": backbone.num_tokens(shape),
            "peak_flop_per_s": matmul_peak(self.device, torch.bfloat16 if cell.precision == "bf16" else torch.float32),
            "latent_shape": [stages.spec.latent_channels, *shape],
            "match": self.named.match,
        }
        with self._phase("canaries"):
            outcome["canaries"] = run_canaries(cell, backbone, stages.spec, shape, stages.train, stages.val, self.device)

        untrained = None
        if cell.evaluation.untrained:
            with self._phase("untrained model"):
                untrained = self._untrained(backbone.to(self.device).eval(), stages)
            backbone.train()
        gc.collect()

        encoder = stages.autoencoder.autoencoder.to("cpu")  # not in the way of what training is measured by
        accelerate(backbone, cell.acceleration)
        with self._phase("training"):
            self.trainer = Trainer(
                cell,
                backbone,
                train=stages.train,
                val=stages.val,
                inputs=inputs,
                folder=self.folder,
                flops_of=flops_of,
                device=self.device,
                commit=commit(),
                should_stop=self.should_stop,
                progress=self.progress,
            )
            if self.trainer.state.step:
                print(f"{self.named.name}: resumed at step {self.trainer.state.step}", file=sys.stderr)
            outcome["training"] = training = self.trainer.train()
        subject = Costed(
            cell=cell,
            stages=stages,
            flops=flops,
            num_params=outcome["backbone"]["num_params"],
            peak_flop_per_s=outcome["backbone"]["peak_flop_per_s"],
        )
        outcome["measurements"] += training_measurements(training, subject, self.trainer.state.peaks, self.trainer.state.peak_storage_bytes)
        outcome["machines"] = self.trainer.state.machines
        backbone = self.trainer.averaged_backbone()
        save_tensors(self.folder / WEIGHTS, backbone.state_dict())
        outcome["artefacts"]["weights"] = WEIGHTS

        memory = PhaseMemory(self.device)
        memory.start()
        with self._phase("sampling"):
            samples = self._sample(backbone, stages)
        peaks = memory.peaks()
        encoder.to(self.device)
        generated = self._keep(samples, stages, "samples")
        outcome["sampling"] = Sampling(
            num_clips=len(samples.latents),
            num_evals=samples.num_evals,
            batch_time_s=samples.batch_time_s,
            batch_clips=samples.batch_clips,
            work=sampling_work(samples, backbone, flops_of),
            warmup_time_s=self.warmup_s,
        )
        storage = self._sampling_storage(backbone, stages)
        outcome["measurements"] += sampling_measurements(outcome["sampling"], subject, peaks, storage)
        outcome["measurements"] += autoencoder_measurements(stages, self.device)
        with self._phase("quality"):
            quality = Quality(cell, stages, self.device, self.progress, self.job.results)
            outcome["measurements"] += quality.measure(generated, untrained)
            outcome["artefacts"]["features"] = self._save_features(quality)
            outcome["artefacts"]["sheet"] = self._save_sheet(stages, generated, untrained)
        if cell.evaluation.grid:
            with self._phase("shape grid"):
                trained = stages.trained_shapes
                outcome["grid"] = measure_grid(cell, backbone, stages, trained, self.job.results, self.device, self.progress)

    def _untrained(self, backbone: nn.Module, stages: Stages) -> Frames:
        """Clips of the initial weights; a resumed cell has them already."""
        path = self.folder / "untrained.npz"
        if path.is_file():
            self.outcome["artefacts"]["untrained"] = path.name
            return load_frames(path)
        return self._keep(self._sample(backbone, stages), stages, "untrained")

    def _sample(self, backbone: nn.Module, stages: Stages) -> Samples:
        """One clip for each test clip's class, after a warm-up call that no rate counts."""
        labels, shapes = stages.labels, held_out_shapes(stages)
        count = min(self.cell.sampler.batch_size, len(labels))
        one_step = self.cell.model_copy(update={"sampler": self.cell.sampler.model_copy(update={"num_steps": 1})})
        warm_up = SamplePlan(cell=one_step, spec=stages.spec, shapes=shapes[:count], labels=labels[:count])
        self.warmup_s = sum(sample(backbone, warm_up, self.device).batch_time_s)
        return sample(backbone, SamplePlan(cell=self.cell, spec=stages.spec, shapes=shapes, labels=labels), self.device, self.progress)

    def _keep(self, samples: Samples, stages: Stages, kind: str) -> Frames:
        """Decode samples to clips and keep them losslessly under `kind`."""
        frames = autoencoders.decode_clips(stages.autoencoder.autoencoder, samples.latents)
        path = self.folder / f"{kind}.npz"
        save_frames(path, frames, labels=stages.labels, fps=np.float64(stages.clips.fps))
        self.outcome["artefacts"][kind] = path.name
        return frames

    @torch.no_grad()  # in inference mode autocast's casts are lost on a meter
    def _sampling_storage(self, backbone: Any, stages: Stages) -> int:
        """Peak bytes of tensor storage of one denoising evaluation at the sampler's batch size, weights included."""
        cell = self.cell
        labels = None
        count = min(cell.sampler.batch_size, cell.evaluation.num_samples)
        largest = max(held_out_shapes(stages), key=math.prod)  # a full batch of the largest clips
        if stages.spec.num_labels:
            labels = torch.zeros(count, dtype=torch.long, device=self.device)
        latents = [torch.zeros((stages.spec.latent_channels, *largest), device=self.device) for _ in range(count)]
        times = torch.full((count,), 0.5, device=self.device)
        with (
            StorageMeter(list(backbone.parameters()), list(backbone.buffers()), latents) as meter,
            autocast(self.device, HALF[cell.precision]),
        ):
            guided(backbone, latents, times, labels, stages.spec.num_labels, cell.sampler.guidance_scale)
        return meter.peak_bytes

    def _save_features(self, quality: Quality) -> str:
        """Features of every subject under every extractor, as `<extractor>/<subject>`: for the report, and for others to score again."""
        named = {f"{name}/{subject}": values for name, sets in quality.features.items() for subject, values in sets.items()}
        save_tensors(self.folder / FEATURES, {name: torch.from_numpy(np.array(values)) for name, values in named.items()})
        return FEATURES

    def _save_sheet(self, stages: Stages, generated: Frames, untrained: Frames | None) -> str:
        """The few clips that the report shows: real test clips, the same through the autoencoder, and generated ones of their classes."""
        real, encoder = stages.held_out["test"][:SHEET_CLIPS], stages.autoencoder.autoencoder
        latents = [autoencoders.encode_clips(encoder, np.array(clip)[None])[0] for clip in real]
        sets = {"real": real, "reconstruction": autoencoders.decode_clips(encoder, latents), "generated": generated[:SHEET_CLIPS]}
        if untrained is not None:
            sets["untrained"] = untrained[:SHEET_CLIPS]
        arrays = {name: framed(frames) for name, frames in sets.items()}
        labels = stages.labels[:SHEET_CLIPS]
        save_arrays(self.folder / SHEET, **arrays, labels_real=labels, labels_generated=labels, fps=np.float64(stages.clips.fps))
        return SHEET

    def _start_over_unless(self, inputs: str) -> None:
        """Remove what an earlier attempt left behind, where its data was not this data."""
        marker = self.folder / INPUTS
        known = marker.read_text() if marker.is_file() else None
        if known == inputs:
            return
        if known is not None:
            for name in ("checkpoint.pt", "untrained.npz", WEIGHTS):
                (self.folder / name).unlink(missing_ok=True)
        write_text(marker, inputs)

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.outcome["time_split_s"][name] = time.perf_counter() - start_s
        if self.should_stop() and name != "quality":  # after the last phase there is nothing left to stop
            raise Interrupted(f"stopped after {name}; the next `run` goes on from there")

    def _write_oom(self, error: BaseException) -> None:
        """A record of where memory ended: the peak up to there is a result."""
        peaks = PhaseMemory(self.device).peaks()
        self.outcome["measurements"] += [Measurement(name=name, value=peak, unit="B", better="lower") for name, peak in peaks.items()]
        self._write("oom", _one_line(error))

    def _write(self, status: str, reason: str | None) -> None:
        commits = self.trainer.state.commits if self.trainer is not None else [commit()]
        record = Record(
            matrix=self.job.matrix,
            name=self.named.name,
            fingerprint=self.cell.fingerprint(),
            cell=self.named.cell,
            attempt=next_attempt(self.folder),
            status=status,
            reason=reason,
            started_at=self.started_at,
            ended_at=now(),
            environment=read_environment(num_threads=torch.get_num_threads(), device=device_name(self.device)),
            commits=commits,
            **self.outcome,
        )
        write_record(self.folder, record)


def describe_data(stages: Stages) -> dict[str, Any]:
    """What the record says of the clips."""
    clips = stages.clips
    return {
        "digest": clips.digest,
        "num_clips": {split: len(clip_set) for split, clip_set in clips.splits.items()},
        "label_names": list(clips.label_names),
        "fps": clips.fps,
        "skipped": [{"name": each.name, "reason": each.reason} for each in clips.skipped],
        "lost": dict(clips.lost),
        "notes": list(clips.notes),
    }


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__
