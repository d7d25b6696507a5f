"""Benchmarks of networks: the training, sampling and packed steps of a backbone, the autoencoder, I3D.

Each step is the suite's own code path (the trainer's step, the sampler's loop), with timers put around its parts from outside.
Weights are random: time and memory do not depend on them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.backbone import load_backbone
from bench.data.latents.autoencoder import FrameAutoencoder, decode_clips, encode_clips
from bench.data.latents.latents import LatentSet
from bench.meters.clock import StepTimer, StopWatch
from bench.meters.flops import count_flops
from bench.perf.workload import Workload
from bench.run.checks import latent_spec
from bench.shapes import LatentSpec, Shape
from bench.study.cell import Cell
from bench.training.acceleration import HALF, accelerate
from bench.training.objective import mean_square
from bench.training.ranks import ALONE, Ranks
from bench.training.sampling import SamplePlan, sample
from bench.training.step import PARTS, TrainStep
from bench.training.trainer import Trainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_LABELS = 4
NUM_CLIPS = 64
PACKED_SHAPES: tuple[Shape, ...] = ((8, 6, 6), (4, 6, 8), (1, 8, 8), (6, 4, 6), (8, 4, 4), (2, 6, 6), (1, 4, 8), (8, 6, 4))  # latents


def train_step(definition: dict[str, Any], folder: Path) -> Workload:
    """The trainer's step: draw, forward, backward, clip, optimiser, weight average, bookkeeping."""
    cell, spec, shape, backbone = _opened(definition)
    trainer = trainer_of(cell, backbone, spec, shape, folder, DEVICE)
    timers = {"data": StepTimer(DEVICE)} | _timed(trainer.train_step)
    trainer.draw = timers["data"].timed(trainer.draw)  # type: ignore[method-assign]
    watch = StopWatch(DEVICE)

    def step() -> None:
        trainer.step(watch)
        trainer._read(watch)

    return Workload(
        step=step,
        device=DEVICE,
        alive=lambda: (trainer.train_step.params, list(backbone.buffers()), trainer.train_step.alive()),
        parts=timers,
        counts=lambda: _num_params(backbone) | {"flops_per_clip": count_flops(cell.backbone, spec, shape)},
    )


def trainer_of(
    cell: Cell, backbone: Any, spec: LatentSpec, shape: Shape, folder: Path, device: torch.device, ranks: Ranks = ALONE
) -> Trainer:
    """A trainer of the cell on random latents (T, H, W)."""
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((NUM_CLIPS, spec.latent_channels, *shape)).astype(np.float32)
    data = LatentSet(latents=latents, labels=generator.integers(NUM_LABELS, size=NUM_CLIPS), null_label=NUM_LABELS)
    given: dict[str, Any] = {"train": data, "val": data, "inputs": "perf", "folder": folder, "flops_of": lambda shape: 1}
    return Trainer(cell, backbone, device=device, ranks=ranks, **given)


def sampling_step(definition: dict[str, Any], folder: Path) -> Workload:
    """One batch through every denoising step, guided."""
    cell, spec, shape, backbone = _opened(definition)
    backbone.eval()
    timer = StepTimer(DEVICE)
    backbone.forward = timer.timed(backbone.forward)
    num = cell.sampler.batch_size
    plan = SamplePlan(cell=cell, spec=spec, shapes=[shape] * num, labels=[index % NUM_LABELS for index in range(num)])
    return Workload(
        step=lambda: sample(backbone, plan, DEVICE),
        device=DEVICE,
        alive=lambda: (list(backbone.parameters()), list(backbone.buffers())),
        parts={"forward": timer},
        counts=lambda: _num_params(backbone) | {"flops_per_clip": count_flops(cell.backbone, spec, shape)},
    )


def packed_step(definition: dict[str, Any], folder: Path) -> Workload:
    """The optimiser's step on a pack of clips of eight shapes."""
    cell, spec, _, backbone = _opened(definition)
    train_step = TrainStep(backbone, cell.optimizer, DEVICE, HALF[cell.precision])
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn((spec.latent_channels, *shape), generator=generator).to(DEVICE) for shape in PACKED_SHAPES]
    times = torch.linspace(0.1, 0.9, len(latents)).to(DEVICE)
    labels = (torch.arange(len(latents)) % NUM_LABELS).to(DEVICE)
    return Workload(
        step=lambda: train_step(lambda predict: mean_square(predict(latents, times, labels), latents), 0, 0.0),
        device=DEVICE,
        alive=lambda: (train_step.params, list(backbone.buffers()), train_step.alive(), latents),
        parts=_timed(train_step),
        counts=lambda: _num_params(backbone),
    )


def _timed(train_step: TrainStep) -> dict[str, StepTimer]:
    """Timers of the parts of the step: attributes of the instances shadow the methods, so that its code runs as it is."""
    timers = {name: StepTimer(train_step.device) for name in PARTS}
    for owner, method, part in zip((train_step.backbone, train_step, train_step), ("forward", "backward", "update"), PARTS, strict=True):
        setattr(owner, method, timers[part].timed(getattr(owner, method)))
    return timers


def autoencoder(definition: dict[str, Any], folder: Path) -> Workload:
    """Encode and decode one clip with an autoencoder as a cell trains it."""
    from diffusers import AutoencoderTiny

    width = definition["width"]
    torch.manual_seed(0)
    network = AutoencoderTiny(
        in_channels=12, out_channels=12, latent_channels=4, encoder_block_out_channels=(width, width),
        decoder_block_out_channels=(width, width), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    frames_autoencoder = FrameAutoencoder(network.eval().requires_grad_(False), unshuffle=2).to(DEVICE)
    frames = np.random.default_rng(0).integers(0, 256, (1, *definition["frames"], 3), dtype=np.uint8)
    timers = {name: StepTimer(DEVICE) for name in ("encode", "decode")}

    def step() -> None:
        with timers["encode"].step():
            latents = encode_clips(frames_autoencoder, frames)
        with timers["decode"].step():
            decode_clips(frames_autoencoder, list(latents))

    return Workload(step=step, device=DEVICE, alive=lambda: list(frames_autoencoder.parameters()), parts=timers)


def i3d(definition: dict[str, Any], folder: Path) -> Workload:
    """I3D's features of one clip: resize and forward."""
    from bench.metrics.extractors.i3d import load_i3d, preprocess

    network = load_i3d().to(DEVICE)
    num_frames, height, width = definition["clip"]
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, num_frames, height, width, 3), dtype=np.uint8))

    @torch.inference_mode()
    def step() -> None:
        network(preprocess(frames.to(DEVICE)))

    return Workload(step=step, device=DEVICE, alive=lambda: list(network.buffers()))


def _opened(definition: dict[str, Any]) -> tuple[Cell, LatentSpec, Shape, Any]:
    """A cell with the definition's fields, its latent space and latents (T, H, W), and its backbone on the device."""
    fields = {key: value for key, value in definition.items() if key not in ("step", "version")}
    unused = {"autoencoder": {"kind": "trained", "num_steps": 1}, "budget": {"steps": 10**9}, "evaluation": {"num_samples": 2}}
    cell = Cell.model_validate({**fields, **unused})
    spec = latent_spec(cell, NUM_LABELS)
    assert spec is not None
    torch.manual_seed(0)
    backbone: Any = load_backbone(cell.backbone, spec)
    accelerate(backbone, cell.acceleration)
    shape = spec.latent_shape((cell.data.num_frames, cell.data.height, cell.data.width))
    return cell, spec, shape, backbone.to(DEVICE)


def _num_params(backbone: torch.nn.Module) -> dict[str, int]:
    return {"num_params": sum(weight.numel() for weight in backbone.parameters())}
