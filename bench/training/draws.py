"""The draws of a training set: integers of a batch made into what a step is given, noised latents, targets, timesteps, labels.

What a draw's noise, timestep, dropped label and dropped tokens are depends on the run's seed and its draw index alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.backbone import UnitBox
from bench.data.latents.latents import LatentSet
from bench.data.policy.batches import Batch, BatchStream
from bench.data.policy.config import TokenDropping
from bench.data.policy.table import POLICIES
from bench.data.seeds import stream_seed
from bench.shapes import Shape, bounding_shape, num_voxels
from bench.study.cell import Cell
from bench.training.known import given_of, unknown, with_given
from bench.training.objective import PATHS, differences, draw_noise, draw_uniform, mean_square, noised
from bench.training.step import StepBatch
from bench.training.units import by_units, draw_times, noised_by_unit


@dataclass(frozen=True, kw_only=True)
class StepShapes:
    """What is known of a step without its tensors."""

    shapes: list[Shape]  # latent (T, H, W) of each clip
    padded: Shape | None  # what a policy pads all of them to
    kept: list[int] | None  # tokens of each clip that are trained on; None = all

    def work(self, flops_of: Callable[[Shape], int], num_tokens: Callable[[Shape], int]) -> tuple[int, int, int, int, int]:
        """The step in the fields of `WORK` of records. A clip that drops tokens has the FLOPs of those that stay, in proportion."""
        shapes = self.shapes
        voxels, tokens = [num_voxels(shape) for shape in shapes], [num_tokens(shape) for shape in shapes]
        flops = self.flops(flops_of, num_tokens)
        if self.kept is not None:
            kept = self.kept
            voxels = [num * stay // whole for num, stay, whole in zip(voxels, kept, tokens, strict=True)]
            tokens = kept
        return len(shapes), sum(shape[0] for shape in shapes), sum(voxels), sum(tokens), sum(flops)

    def flops(self, flops_of: Callable[[Shape], int], num_tokens: Callable[[Shape], int]) -> list[int]:
        """Forward FLOPs of each clip."""
        flops = [flops_of(self.padded or shape) for shape in self.shapes]
        if self.kept is None:
            return flops
        return [num * stay // num_tokens(shape) for num, stay, shape in zip(flops, self.kept, self.shapes, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Drawn(StepBatch):
    """What an optimiser step is given, on the device: noised latents, where the policy pads all of one shape, and targets never padded."""

    kept: list[Tensor] | None  # token indices (n_i,) of each clip that are trained on; None = all
    mask: Tensor | None  # bool: which of the values of all clips in a row belong to those tokens
    num_values: int  # that are trained on, in all processes
    step: StepShapes  # of the step's clips, in all processes
    known_frames: int = 0  # of every clip, which the loss leaves out
    factor: float | None = None  # of the loss in one of several processes, whose gradients are averaged; None: all clips are here

    @property
    def shapes(self) -> list[Shape]:
        """Latent (T, H, W) of each clip, padding not counted."""
        return [(clip.shape[1], clip.shape[2], clip.shape[3]) for clip in self.targets]

    def work(self, flops_of: Callable[[Shape], int], num_tokens: Callable[[Shape], int]) -> tuple[int, int, int, int, int]:
        """The step in the fields of `WORK` of records, in all processes."""
        return self.step.work(flops_of, num_tokens)

    def loss(self, backbone: Any) -> Tensor:
        """Mean squared error over all latent voxels of the step, without known frames.

        Not over clips: a full batch of images and one of videos have equally many voxels, and so a voxel weighs the same whether its
        policy keeps images and videos apart or mixes them. In one of several processes the mean of their losses is that of the step.
        """
        if self.mask is not None:
            # By `where` and not by an index: how many voxels an index picks would have to be asked of the device.
            found = differences(backbone(self.latents, self.timesteps, self.labels, kept=self.kept, **self.told), self.targets)
            return torch.where(self.mask, found, 0).square().sum() / self.num_values * (1.0 if self.factor is None else self.factor)
        predictions = backbone(self.latents, self.timesteps, self.labels, **self.told)
        own = [prediction[:, :t, :h, :w] for prediction, (t, h, w) in zip(predictions, self.shapes, strict=True)]
        own, targets = unknown(own, self.known_frames), unknown(self.targets, self.known_frames)
        if self.factor is None:
            return mean_square(own, targets)
        return differences(own, targets).square().sum() / self.num_values * self.factor


class Drawer:
    """Draws of one training set."""

    def __init__(self, cell: Cell, data: LatentSet, backbone: Any, device: torch.device):
        self.cell, self.data, self.device = cell, data, device
        self.path = PATHS[cell.objective.name]
        self.known_frames = cell.objective.known_frames
        self.units: Callable[[Shape], list[UnitBox]] | None = backbone.units if by_units(backbone) else None
        self.pads = POLICIES.find(cell.batching.policy).pads
        dropping = cell.batching.token_dropping
        self.kept_tokens = _Dropping(dropping, data.shapes, backbone) if dropping is not None else None
        kept_voxels = self.kept_tokens.num_voxels if self.kept_tokens is not None else None
        self.stream = BatchStream(data.shapes, cell.batching, cell.seed, kept_voxels)

    def shapes_of(self, batch: Batch) -> StepShapes:
        """What is known of a step before its tensors are there."""
        shapes = self.stream.shapes_of(batch)
        kept = None
        if self.kept_tokens is not None:
            kept = [self.kept_tokens.num_kept(item, batch.epoch) for item in batch.items]
        return StepShapes(shapes=shapes, padded=bounding_shape(shapes) if self.pads else None, kept=kept)

    def draw(self, batch: Batch, places: Sequence[int] | None = None, num_processes: int = 1) -> Drawn:
        """The tensors of a batch, or of the clips at these places of it; they reach the device without waiting for it.

        A process that has no clip of a batch takes the first, and counts it as nothing: all go through the network.
        """
        step, seed = self.shapes_of(batch), self.cell.seed
        own = range(len(batch.items)) if places is None else places or [0]
        draws, items = [batch.first_draw + place for place in own], [batch.items[place] for place in own]
        factor = None if places is None else float(num_processes) if places else 0.0
        shown = [slice(None) if batch.frames is None else slice(batch.frames[place], batch.frames[place] + 1) for place in own]
        clips = [torch.from_numpy(np.array(self.data.latents[item][:, frames])) for item, frames in zip(items, shown, strict=True)]
        noise = [draw_noise(seed, "noise", draw, tuple(clip.shape)) for draw, clip in zip(draws, clips, strict=True)]
        boxes = None if self.units is None else self.units((clips[0].shape[1], clips[0].shape[2], clips[0].shape[3]))
        if boxes is None:
            timesteps = self.path.snap(torch.tensor([draw_uniform(seed, "timestep", draw) for draw in draws]))
        else:
            timesteps = self.path.snap(torch.stack([draw_times(seed, draw, len(boxes)) for draw in draws]))  # (B, U)
        labels, told = None, dict[str, Any]()
        untold = [False] * len(draws)  # which clips lose caption and label, so that guidance knows the model without either
        if self.data.captions is not None and self.cell.text is not None:
            untold = [draw_uniform(seed, "text_dropout", draw) < self.cell.text.dropout for draw in draws]
            captions = [self.data.empty_caption if drop else int(self.data.captions[i]) for drop, i in zip(untold, items, strict=True)]
            told["captions"] = to_device(torch.tensor(captions), self.device)
        if self.data.labels is not None:
            dropped = [
                lost or draw_uniform(seed, "label_dropout", draw) < self.cell.objective.label_dropout
                for lost, draw in zip(untold, draws, strict=True)
            ]
            labels = torch.tensor(
                [self.data.null_label if drop else int(self.data.labels[i]) for drop, i in zip(dropped, items, strict=True)]
            )
            labels = to_device(labels, self.device)
        here, noise = clips_to_device(clips, self.device), clips_to_device(noise, self.device)
        if boxes is None:
            mixed, targets = noised(self.path, here, noise, timesteps)
        else:
            mixed, targets = noised_by_unit(self.path, here, noise, timesteps, boxes)
        if self.known_frames:
            mixed = with_given(mixed, given_of(here, self.known_frames))
        kept = mask = None
        num_values = clips[0].shape[0] * sum(num_voxels((t - self.known_frames, h, w)) for t, h, w in step.shapes)
        if self.kept_tokens is not None:
            kept = [self.kept_tokens.draw(item, batch.epoch, seed, draw) for item, draw in zip(items, draws, strict=True)]
            voxels = [self.kept_tokens.mask(item, tokens) for item, tokens in zip(items, kept, strict=True)]
            on_host = torch.cat([stays.expand(clip.shape).flatten() for stays, clip in zip(voxels, clips, strict=True)])
            mask, num_values = to_device(on_host, self.device), int(on_host.sum())
            if places is not None:
                num_values = clips[0].shape[0] * self._kept_voxels(batch)
        if step.padded is not None:
            mixed = pad(mixed, step.padded)
        return Drawn(
            latents=mixed,
            targets=targets,
            timesteps=to_device(timesteps, self.device),
            labels=labels,
            told=told if boxes is None else told | {"clean": here},
            kept=kept,
            mask=mask,
            num_values=num_values,
            step=step,
            known_frames=self.known_frames,
            factor=factor,
        )

    def _kept_voxels(self, batch: Batch) -> int:
        """Latent voxels of a batch that are trained on, those of other processes too."""
        assert self.kept_tokens is not None
        draws = range(batch.first_draw, batch.first_draw + len(batch.items))
        kept = [self.kept_tokens.draw(item, batch.epoch, self.cell.seed, draw) for item, draw in zip(batch.items, draws, strict=True)]
        return sum(int(self.kept_tokens.mask(item, tokens).sum()) for item, tokens in zip(batch.items, kept, strict=True))


class _Dropping:
    """The tokens of each item that stay in a draw: how many, and which."""

    def __init__(self, config: TokenDropping, shapes: Sequence[Shape], backbone: Any):
        self.config, self.shapes, self.backbone = config, shapes, backbone
        self.num_tokens = [backbone.num_tokens(shape) for shape in shapes]
        self.most = max(self.num_tokens)

    def num_kept(self, item: int, epoch: int) -> int:
        """Tokens of an item that stay in an epoch; at least one."""
        num = self.num_tokens[item]
        return max(1, round(num * (1 - RATES[self.config.kind](self.config, num / self.most, epoch))))

    def num_voxels(self, item: int, epoch: int) -> int:
        """Latent voxels of those tokens."""
        return self.num_kept(item, epoch) * num_voxels(self.shapes[item]) // self.num_tokens[item]

    def draw(self, item: int, epoch: int, seed: int, draw: int) -> Tensor:
        """Increasing token indices (n,) that stay in a draw."""
        generator = torch.Generator().manual_seed(stream_seed(seed, "token_dropping", draw))
        return torch.randperm(self.num_tokens[item], generator=generator)[: self.num_kept(item, epoch)].sort().values

    def mask(self, item: int, kept: Tensor) -> Tensor:
        """The latent voxels of those tokens, (T, H, W) bool."""
        return self.backbone.kept_voxels(self.shapes[item], kept)


# kind -> (config, tokens over those of the largest item, epoch) -> share of the tokens that is left out
RATES: dict[str, Callable[[TokenDropping, float, int], float]] = {
    "constant": lambda config, size, epoch: config.rate,
    "decreasing": lambda config, size, epoch: config.rate * max(0.0, 1 - epoch / (config.epochs or 1)),
    "per_resolution": lambda config, size, epoch: config.rate * size,
}


def pad(clips: list[Tensor], shape: Shape) -> list[Tensor]:
    """Clips (C, T_i, H_i, W_i) filled up to (C, T, H, W) of `shape`, with zeros at the end."""
    frames, height, width = shape
    return [F.pad(clip, (0, width - clip.shape[3], 0, height - clip.shape[2], 0, frames - clip.shape[1])) for clip in clips]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device, which is not waited for."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def clips_to_device(clips: list[Tensor], device: torch.device) -> list[Tensor]:
    """Clips of any shapes on the device, in one copy."""
    if device.type == "cpu":
        return clips
    sizes = [math.prod(clip.shape) for clip in clips]
    flat = to_device(torch.cat([clip.flatten() for clip in clips]), device)
    return [part.view(clip.shape) for part, clip in zip(flat.split(sizes), clips, strict=True)]
