"""Benchmarks of what runs on the host: the Frechet distance, drawing a training batch, decoding video, start-up of the command line."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from bench.data.latents.latents import LatentSet
from bench.data.media.video import read_frames
from bench.metrics.distances.frechet import frechet_distance
from bench.perf.workload import Workload
from bench.study.cell import Cell
from bench.training.draws import Drawer

CPU = torch.device("cpu")


def frechet(definition: dict[str, Any], folder: Path) -> Workload:
    """The reported distance, from features."""
    generator = np.random.default_rng(0)
    first, second = generator.standard_normal((2, definition["num_clips"], definition["num_features"]))
    return Workload(step=lambda: frechet_distance(first, second), device=CPU)


def draw(definition: dict[str, Any], folder: Path) -> Workload:
    """Clips, noise and timesteps of a training batch, from a memory-mapped file as in a cell."""
    shape = tuple(definition["latents"])
    np.save(folder / "latents.npy", np.random.default_rng(0).standard_normal((256, *shape)).astype(np.float32))
    latents = np.load(folder / "latents.npy", mmap_mode="r")
    data = {"source": "worlds", "num_frames": 1, "height": 8, "width": 8, "num_train": 1, "num_val": 2, "num_test": 2}  # not looked at
    fields = {"data": data, "batching": {"batch_size": definition["batch_size"]}, "autoencoder": {"kind": "trained", "num_steps": 1}}
    cell = Cell.model_validate({"backbone": "none", "budget": {"steps": 1}, "evaluation": {"num_samples": 2}, **fields})
    drawer = Drawer(cell, LatentSet(latents=latents, labels=None, null_label=0), None, CPU)
    steps = itertools.count()
    return Workload(step=lambda: drawer.draw(drawer.stream.batch(next(steps))), device=CPU)


def decode_video(definition: dict[str, Any], folder: Path) -> Workload:
    """One clip out of the middle of an MP4 file: decode, scale, crop."""
    num_frames, height, width = definition["video"]
    path = folder / "video.mp4"
    ramp = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            pixels = np.stack([np.roll(ramp, index * shift, axis=1) for shift in (1, 2, 3)], axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    clip_frames, clip_height, clip_width = definition["clip"]
    start = (num_frames - clip_frames) // 2
    return Workload(step=lambda: read_frames(path, start, clip_frames, 1, clip_height, clip_width), device=CPU)


def command_line(definition: dict[str, Any], folder: Path) -> Workload:
    """A fresh process that answers a command: what a user waits for before anything happens."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def run(*options: str) -> str:
        command = [sys.executable, *options, "-m", "bench", *definition["arguments"]]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        return done.stderr

    def counts() -> dict[str, int]:
        return {"modules": len(re.findall(r"^import time:\s+\d+ \|", run("-X", "importtime"), re.MULTILINE))}

    return Workload(step=run, device=CPU, counts=counts)
