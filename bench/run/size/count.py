"""The job that counts parameters and FLOPs of backbones, on the meta device: nothing is initialised. Runs in a process of its own."""

import math
from typing import Any

import torch

from bench.backbone import load_backbone
from bench.data.progress import Reporter
from bench.data.sealed import write_sealed
from bench.meters.flops import count_flops, num_params
from bench.run.job import SizeJob
from bench.run.preflight import latent_space
from bench.run.size.resolve import BackboneSize


def count_sizes(job: SizeJob, progress: Reporter) -> None:
    """The size of each cell's backbone into its file."""
    for done, (cell, file) in enumerate(job.cells):
        progress(done, len(job.cells), f"size of {cell.backbone}")
        spec = latent_space(cell, job.results, progress)
        shape = spec.latent_shape((cell.data.num_frames, cell.data.height, cell.data.width))
        with torch.device("meta"):
            backbone: Any = load_backbone(cell.backbone, spec)
        size = BackboneSize(
            params=num_params(backbone), flops_per_clip=count_flops(cell.backbone, spec, shape), latent_voxels=math.prod(shape)
        )
        write_sealed(file, file.stem, size)
