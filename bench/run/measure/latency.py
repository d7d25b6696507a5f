"""What generating a clip takes, one alone and many at once: seconds after a warm-up, calls one after another, tokens, FLOPs, what is kept.

Seconds are of the latents of clips of the data's one shape: decoding them costs every contender the same.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.meters.clock import synchronize
from bench.meters.flops import generation_flops
from bench.meters.memory import is_out_of_memory, let_go
from bench.records.record import Measurement
from bench.run.stages import TrainingSet
from bench.shapes import Shape
from bench.study.cell import Cell
from bench.training.objective import draw_noise
from bench.training.sampling import SamplePlan, calls, generated_by_unit, sample
from bench.training.units import by_units

BATCHES = (1, 64)  # clips at once
REPEATED = 3  # times that one clip is generated, of which the median counts


def measure_latency(
    cell: Cell, backbone: Any, given: TrainingSet, flops_of: Callable[[Shape], int], device: torch.device
) -> list[Measurement]:
    """Of a backbone in evaluation mode on the device. A batch that does not fit its memory has no seconds."""
    data, times = cell.data, 1 if cell.sampler.guidance_scale == 1.0 else 2
    shape = given.spec.latent_shape((data.num_frames, data.height, data.width))
    one = _plan(cell, given, shape, 1)
    num_calls, num_tokens, flops = calls(backbone, one), backbone.num_tokens(shape) * cell.sampler.num_steps, 0
    if by_units(backbone):
        tokens = [backbone.num_tokens(_size(box)) for box in backbone.units(shape)]
        num_tokens = sum(tokens) * (cell.sampler.num_steps + 1) - tokens[-1]
        flops = generation_flops(cell.backbone, given.spec, shape, cell.sampler.num_steps)
    found = [
        Measurement(name="generation_calls", value=num_calls, unit="1", better="none"),
        Measurement(name="generation_tokens", value=times * num_tokens, unit="token", better="none"),
        Measurement(name="generation_flops", value=times * (flops or num_calls * flops_of(shape)), unit="FLOP", better="lower"),
    ]
    seconds: dict[int, float] = {}
    for size in BATCHES:
        try:
            seconds[size] = _seconds(backbone, _plan(cell, given, shape, size), REPEATED if size == 1 else 1, device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            let_go(device)
    found += [Measurement(name=f"latency_{size}_s", value=value, unit="s", better="lower") for size, value in seconds.items()]
    if by_units(backbone):
        first_s, cache_bytes = _first_frame(backbone, one, device)
    else:  # all frames are there at once, and nothing is kept
        first_s, cache_bytes = seconds.get(1, math.inf), 0
    if math.isfinite(first_s):
        found.append(Measurement(name="first_frame_s", value=first_s, unit="s", better="lower"))
    return [*found, Measurement(name="cache_bytes", value=cache_bytes, unit="B", better="lower")]


def _plan(cell: Cell, given: TrainingSet, shape: Shape, size: int) -> SamplePlan:
    """So many clips at once, of the classes, captions and known frames of the test clips in turn."""
    places = np.arange(size) % len(given.labels)
    at_once = cell.model_copy(update={"sampler": cell.sampler.model_copy(update={"batch_size": size})})
    known = None if given.given is None else [given.given[place] for place in places]
    return SamplePlan(
        cell=at_once,
        spec=given.spec,
        shapes=[shape] * size,
        labels=given.labels[places],
        given=known,
        captions=None if given.captions is None else given.captions[places],
        empty_caption=given.empty_caption,
    )


def _seconds(backbone: Any, plan: SamplePlan, repeats: int, device: torch.device) -> float:
    """Median over the repeats of the plan's clips, after a call of one step that warms up."""
    cell = plan.cell.model_copy(update={"sampler": plan.cell.sampler.model_copy(update={"num_steps": 1})})
    sample(backbone, SamplePlan(**vars(plan) | {"cell": cell}), device)
    return statistics.median(sum(sample(backbone, plan, device)[1].batch_time_s) for _ in range(repeats))


@torch.inference_mode()
def _first_frame(backbone: Any, plan: SamplePlan, device: torch.device) -> tuple[float, int]:
    """Of one clip the seconds until its first latent frame is done, the median; and the bytes kept at the end of the clip."""
    shape, spec, cell = plan.shapes[0], plan.spec, plan.cell
    num = sum(box[0].start == 0 for box in backbone.units(shape))
    labels = torch.tensor([int(plan.labels[0])], device=device) if spec.num_labels else None
    noise = [draw_noise(cell.seed, "sample_noise", 0, (spec.latent_channels, *shape)).to(device)]
    found = []
    for _ in range(REPEATED):
        synchronize(device)
        start_s = time.perf_counter()
        generated_by_unit(backbone, noise, labels, spec.num_labels, cell, first=num)
        synchronize(device)
        found.append(time.perf_counter() - start_s)
    _, generation = generated_by_unit(backbone, noise, labels, spec.num_labels, cell)
    return statistics.median(found), generation.cache_bytes


def _size(box: tuple[slice, slice, slice]) -> Shape:
    """Latent (T, H, W) of a unit."""
    t, h, w = (part.stop - part.start for part in box)
    return (t, h, w)
