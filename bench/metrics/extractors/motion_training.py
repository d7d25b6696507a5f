"""Trains the extractor `motion`: `python -m bench.metrics.extractors.motion_training --out bench/metrics/extractors/motion.safetensors`.

Worlds of one to three objects, half of them on other backgrounds, lightly noisy. From one frame's numbers a small clean picture must be
drawn; from their sequence: where what moves how fast, the clip's mean picture and its spread over time, the order of frames, the frozen
share, a switch to another clip, the pace and how it changes. The tasks' own layers are thrown away.

Knows nothing of distances, and never sees the damage by which the extractor is judged, save what SEEN says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.files import write_bytes, write_text
from bench.data.progress import Reporter
from bench.data.seeds import stream_seed
from bench.data.sources.worlds import Config, simulate
from bench.data.worlds.drawing import BACKGROUND, STATE, render
from bench.metrics.extractors import golden
from bench.metrics.extractors.motion import DIM, FRAME_DIM, HIDDEN, LEARNED, SIZE, Motion, resize

SPLIT = "motion"  # a split of its own: its worlds are in no train, val or test split of any seed
FIRST_VAL = 1_000_000  # index of the first validation world
LENGTH = 24  # frames of a world
FRAMES = (5, 13)  # frames of a training clip, smallest and largest
VAL_FRAMES = 16
GRID = 8  # side of the maps of motion and of the clip's mean picture
BATCH_SIZE, LEARNING_RATE = 32, 2e-3  # the largest rate, of a cycle that ends at 0
PICTURE = 16  # side of the picture that a frame's numbers must draw
SIZES = (24, 32, 32, 64)  # resolutions that worlds are rendered at, before the network's own resize
LARGEST_SIGMA = 0.04  # of the light noise in half of the clips, of the range 0..1
MANIPULATIONS = {"plain": 0.25, "backwards": 0.2, "shuffled": 0.15, "swapped": 0.15, "frozen": 0.15, "switched": 0.1}
ORDERS = ("plain", "backwards", "shuffled", "swapped")  # what the task `order` tells apart
LOSS_WEIGHTS = {"picture": 10.0, "flow": 8.0, "album": 5.0, "order": 0.5, "frozen": 0.5, "switched": 0.5, "pace": 3.0}
GOLDEN = ("rms checkerboard 16x32x32", "mean checkerboard 16x32x32", "rms checkerboard 10x24x24", "rms checkerboard 4x64x40")
SEEN = (
    f"saw light noise (sigma up to {LARGEST_SIGMA}), neighbour swaps, full shuffles, reversal, frozen tails and switches to another clip; "
    "never saw stronger noise, blur, occluders, salt and pepper, elastic distortion, flicker, far swaps, interleaving or double speed"
)


@dataclass(frozen=True)
class Worlds:
    """Clips as the network sees them, and what moves in them."""

    frames: Tensor  # (N, LENGTH, 32, 32, 3) uint8
    motion: Tensor  # (N, LENGTH, 3, GRID, GRID): see `motion_map`
    damped: Tensor  # (N,) bool: backwards, it would speed up


@dataclass(frozen=True, kw_only=True)
class ManipulatedClips:
    """Manipulated clips, and what the tasks ask of them."""

    images: Tensor  # (B, T, 3, 32, 32) in [-1, 1], lightly noisy
    clean: Tensor  # (B, T, 3, PICTURE, PICTURE)
    motion: Tensor  # (B, T, 3, GRID, GRID)
    moving: Tensor  # (B,) bool: `motion` tells what happens in this clip
    order: Tensor  # (B,) index into ORDERS
    ordered: Tensor  # (B,) bool: `order` applies and can be known
    frozen: Tensor  # (B,) share of steps that do not move
    switched: Tensor  # (B,) 0 or 1


def draw_config(rng: np.random.Generator, seed: int) -> Config:
    """A world of one to three objects with a size, speed, gravity and damping of its own."""
    num_objects = int(rng.choice([1, 1, 1, 2, 3]))
    radius = rng.uniform(0.1, {1: 0.32, 2: 0.22, 3: 0.18}[num_objects])
    return Config(
        num_frames=LENGTH,
        height=SIZE,
        width=SIZE,
        num_train=1,
        num_val=1,
        num_test=1,
        seed=seed,
        num_objects=num_objects,
        radius=(0.8 * radius, radius),
        speed=(0.05, rng.uniform(0.3, 1.4)),
        tilt=math.pi if rng.random() < 0.75 else 0.0,
        spin=float(rng.choice([0.0, 0.6, 2.0])),
        gravity=float(rng.choice([0.0, 0.0, 0.0, rng.uniform(-1, 1)])),
        damping=float(rng.choice([0.0, rng.uniform(0.2, 0.8)])),
        num_substeps=8,
    )


def make_worlds(num: int, seed: int, first: int, report: Reporter) -> Worlds:
    """Worlds `first` to `first + num` of the seed."""
    rng = np.random.default_rng([seed, first])
    worlds = Worlds(
        torch.empty((num, LENGTH, SIZE, SIZE, 3), dtype=torch.uint8),
        torch.empty((num, LENGTH, 3, GRID, GRID)),
        torch.empty(num, dtype=torch.bool),
    )
    for index in range(num):
        config = draw_config(rng, seed)
        state = simulate(config, SPLIT, first + index)  # (T, objects, 10)
        size = int(rng.choice(SIZES))
        clip = redressed(torch.from_numpy(render(state[None], size, size)[0]), rng)  # (T, size, size, 3)
        images = resize(clip[None])  # (T, 3, 32, 32)
        worlds.frames[index] = ((images + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8)
        worlds.motion[index] = motion_map(state)
        worlds.damped[index] = config.damping > 0
        report(index + 1, num, "simulating worlds")
    return worlds


def redressed(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """Clip (T, H, W, 3) uint8 -> the same; six in ten get another background, contrast and saturation, which do not change in time."""
    if rng.random() < 0.4:
        return clip
    frames = clip.float()
    cells = int(rng.choice([1, 2, 4, 8]))
    texture = torch.from_numpy(rng.uniform(-0.5, 0.5, (1, 3, cells, cells)).astype(np.float32))
    texture = F.interpolate(texture, clip.shape[1:3], mode="bicubic", align_corners=False)[0].permute(1, 2, 0)  # (H, W, 3)
    background = rng.uniform(0, 150) + rng.uniform(0, 120) * texture
    cover = ((frames.amax(3, keepdim=True) - BACKGROUND) / (255 - BACKGROUND)).clamp(0, 1)  # (T, H, W, 1)
    grey = frames.mean(3, keepdim=True)
    gain = rng.uniform(0.5, 1)
    objects = gain * (grey + rng.uniform(0.2, 1) * (frames - grey)) + (1 - gain) * rng.uniform(0, 60)
    return (background * (1 - cover) + objects * cover).clamp(0, 255).round().to(torch.uint8)


def motion_map(state: np.ndarray) -> Tensor:
    """State (T, objects, 10) -> (T, 3, GRID, GRID): how much objects cover a place, and that times their velocity right and down."""
    x, y, vx, vy, radius = (state[..., STATE.index(name), None, None] for name in ("x", "y", "vx", "vy", "radius"))
    places = (np.arange(GRID) + 0.5) / GRID
    cover = np.exp(-((places - x) ** 2 + (places[:, None] - y) ** 2) / (2 * (0.6 * radius + 0.03) ** 2))  # (T, objects, GRID, GRID)
    return torch.from_numpy(np.stack([cover.sum(1), (cover * vx).sum(1), (cover * vy).sum(1)], axis=1)).float()


def draw_batch(worlds: Worlds, batch_size: int, rng: np.random.Generator, num_frames: int | None = None) -> ManipulatedClips:
    """Random windows of random worlds, each manipulated in one way, all mirrored alike."""
    length = int(rng.integers(FRAMES[0], FRAMES[1] + 1)) if num_frames is None else num_frames  # T
    chosen = rng.integers(len(worlds.frames), size=batch_size)
    sources = np.repeat(chosen[:, None], length, axis=1)  # (B, T) world of each frame
    times = np.arange(length) + rng.integers(LENGTH - length + 1, size=(batch_size, 1))  # (B, T) frame of that world
    kinds = rng.choice(list(MANIPULATIONS), size=batch_size, p=list(MANIPULATIONS.values()))
    frozen = np.zeros(batch_size, np.float32)
    for b, kind in enumerate(kinds):
        if kind == "backwards":
            times[b] = times[b, ::-1].copy()
        elif kind == "shuffled":
            times[b] = rng.permutation(times[b])
        elif kind == "swapped":
            for pair in rng.permutation(length // 2)[: rng.integers(1, length // 2 + 1)]:
                times[b, 2 * pair : 2 * pair + 2] = times[b, 2 * pair : 2 * pair + 2][::-1].copy()
        elif kind == "frozen":
            steps = int(rng.integers(1, length))
            times[b] = np.minimum(times[b], times[b, length - 1 - steps])
            frozen[b] = steps / (length - 1)
        elif kind == "switched":
            sources[b, rng.integers(length // 4 + 1, length - length // 4) :] = rng.integers(len(worlds.frames))
    index = torch.from_numpy(sources), torch.from_numpy(times)
    images = worlds.frames[index].permute(0, 1, 4, 2, 3).float() / 127.5 - 1  # (B, T, 3, 32, 32)
    sign = torch.from_numpy(np.where(kinds == "backwards", -1, 1).astype(np.float32)).view(-1, 1, 1, 1, 1)
    motion = worlds.motion[index] * torch.cat([torch.ones_like(sign), sign, sign], dim=2)
    if rng.random() < 0.5:  # left and right
        images, motion = images.flip(4), motion.flip(4) * torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)
    if rng.random() < 0.5:  # rows and columns
        images, motion = images.transpose(3, 4), motion.transpose(3, 4)[:, :, [0, 2, 1]]
    sigma = 2 * rng.uniform(0, LARGEST_SIGMA, (batch_size, 1, 1, 1, 1)) * (rng.random((batch_size, 1, 1, 1, 1)) < 0.5)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32) * sigma.astype(np.float32))
    knowable = np.isin(kinds, ("shuffled", "swapped")) | (np.isin(kinds, ("plain", "backwards")) & worlds.damped.numpy()[chosen])
    return ManipulatedClips(
        images=(images + noise).clamp(-1, 1),
        clean=F.avg_pool2d(images.flatten(0, 1), SIZE // PICTURE).unflatten(0, images.shape[:2]),
        motion=motion,
        moving=torch.from_numpy(np.isin(kinds, ("plain", "backwards"))),
        order=torch.from_numpy(np.array([ORDERS.index(kind) if kind in ORDERS else 0 for kind in kinds])),
        ordered=torch.from_numpy(knowable),
        frozen=torch.from_numpy(frozen),
        switched=torch.from_numpy((kinds == "switched").astype(np.float32)),
    )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B,) where the mask (B,) holds; 0 where it never does."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


class Tasks(nn.Module):
    """What the network is trained by."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = perceptron(FRAME_DIM, 256, 3 * PICTURE**2)
        self.flow = perceptron(HIDDEN, 96, 3 * GRID**2)
        self.album = perceptron(LEARNED, 96, 2 * 3 * GRID**2)
        self.label = perceptron(LEARNED, 64, len(ORDERS) + 4)

    def losses(self, network: Motion, batch: ManipulatedClips) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss of each task, and shares of right answers."""
        codes = network.encode(batch.images.flatten(0, 1)).unflatten(0, batch.images.shape[:2])  # (B, T, Z)
        states, learned = network.read(codes)  # (B, T, HIDDEN), (B, LEARNED)
        cover = F.interpolate(batch.motion[:, :, 0], scale_factor=PICTURE / GRID).clamp(max=1)[:, :, None]  # objects count four times
        picture_error = (self.picture(codes).view_as(batch.clean) - batch.clean).square() * (1 + 3 * cover)
        flow_error = (self.flow(states).view_as(batch.motion) - batch.motion).square()
        small = F.avg_pool2d(batch.clean.flatten(0, 1), PICTURE // GRID).unflatten(0, batch.clean.shape[:2])  # (B, T, 3, GRID, GRID)
        album = torch.cat([small.mean(1), small.std(1, correction=0)], dim=1)
        answers = self.label(learned)
        orders, frozen, switched, pace = answers.split((len(ORDERS), 1, 1, 2), dim=1)
        speed = torch.linalg.vector_norm(batch.motion[:, :, 1:], dim=2).sum((2, 3)) / batch.motion[:, :, 0].sum((2, 3))  # (B, T)
        half = speed.shape[1] // 2
        paces = torch.stack([speed.mean(1), speed[:, -half:].mean(1) - speed[:, :half].mean(1)], dim=1)
        losses = {
            "picture": picture_error.mean(),
            "flow": masked_mean(flow_error.mean((1, 2, 3, 4)), batch.moving),
            "album": F.mse_loss(self.album(learned).view_as(album), album),
            "order": masked_mean(F.cross_entropy(orders, batch.order, reduction="none"), batch.ordered),
            "frozen": F.binary_cross_entropy_with_logits(frozen[:, 0], batch.frozen),
            "switched": F.binary_cross_entropy_with_logits(switched[:, 0], batch.switched),
            "pace": masked_mean((pace - paces).square().sum(1), batch.moving),
        }
        right = {
            "order right": masked_mean((orders.argmax(1) == batch.order).float(), batch.ordered),
            "switch right": ((switched[:, 0] > 0) == (batch.switched > 0)).float().mean(),
        }
        return losses, right


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def start_weights(module: nn.Module, seed: int) -> None:
    """Weights that keep the variance through a rectifier; biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def train(num_worlds: int, num_val: int, num_steps: int, seed: int, report: Reporter) -> tuple[Motion, dict[str, float]]:
    """The trained network, and its validation: loss and share of right answers of every task on worlds it never saw."""
    worlds = make_worlds(num_worlds, seed, 0, report)
    val = make_worlds(num_val, seed, FIRST_VAL, report)
    network, tasks = Motion(), Tasks()
    start_weights(network, stream_seed(seed, "motion_network", 0))
    start_weights(tasks, stream_seed(seed, "motion_tasks", 0))
    params = [*network.parameters(), *tasks.parameters()]
    optimizer = torch.optim.AdamW(params, LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps, pct_start=0.05)
    rng = np.random.default_rng(stream_seed(seed, "motion_batches", 0))
    for step in range(num_steps):
        losses, _ = tasks.losses(network, draw_batch(worlds, BATCH_SIZE, rng))
        torch.stack([weight * losses[name] for name, weight in LOSS_WEIGHTS.items()]).sum().backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        report(step + 1, num_steps, "training")
    set_scales(network, worlds)
    with torch.no_grad():
        losses, right = tasks.losses(network, draw_batch(val, num_val, np.random.default_rng(0), VAL_FRAMES))
    return network, {name: float(value) for name, value in (losses | right).items()}


@torch.no_grad()
def set_scales(network: Motion, worlds: Worlds) -> None:
    """Centre and scale of every number, from the undamaged training worlds."""
    clips = worlds.frames[:2048, :VAL_FRAMES]
    images = resize(clips)  # (N*T, 3, 32, 32)
    codes = torch.cat([network.encode(part) for part in images.split(32 * VAL_FRAMES)])  # (N*T, Z)
    network.frame_centre.copy_(codes.mean(0))
    network.frame_scale.copy_(codes.std(0))
    # Their steps are measured in frame_scale, so it comes first.
    features = torch.cat([network.describe(part, VAL_FRAMES) for part in images.split(32 * VAL_FRAMES)])
    network.centre.copy_(features.mean(0))
    network.scale.copy_(features.std(0))


def write(network: Motion, validation: dict[str, float], chosen: argparse.Namespace) -> None:
    """Weights in float16, and their facts beside them: <stem>.json."""
    content = safetensors.torch.save({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()})
    network.load_state_dict({name: tensor.half().float() for name, tensor in network.state_dict().items()})
    facts = {
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "dim": DIM,
        "training": f"{chosen.worlds} worlds of the split {SPLIT!r}, seed {chosen.seed}, of 1 to 3 objects, by this suite; {SEEN}",
        "golden": {words: golden.measure(words, network.eval(), torch.device("cpu"))[0] for words in GOLDEN},
        "license": "MIT",
        "command": "python -m bench.metrics.extractors.motion_training"
        + "".join(f" --{option} {value}" for option, value in vars(chosen).items()),
        "seed": chosen.seed,
        "num_steps": chosen.steps,
        "batch_size": BATCH_SIZE,
        "torch": torch.__version__,
        "validation": {name: round(value, 4) for name, value in validation.items()},
    }
    write_bytes(chosen.out, content)
    write_text(chosen.out.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the extractor `motion` and write its weights and facts.")
    parser.add_argument("--out", type=Path, required=True, help="weights (.safetensors); the facts go beside them (.json)")
    parser.add_argument("--worlds", type=int, default=6000, help="training worlds")
    parser.add_argument("--val", type=int, default=512, help="validation worlds")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    with Reporter("motion").live() as reporter:
        network, validation = train(chosen.worlds, chosen.val, chosen.steps, chosen.seed, reporter)
    write(network, validation, chosen)
    for name, value in validation.items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
