"""Runs an extractor through every corruption: clips in, report card out. What a number must be is in judgements.py."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.progress import Progress
from bench.data.sources import worlds
from bench.data.worlds.drawing import render
from bench.metrics.battery.corruptions import AXES, Axis
from bench.metrics.battery.judgements import CARD_VERSION, AxisResult, CurvePoint, ReportCard, judge
from bench.metrics.distances.interval import NUM_GROUPS, jackknife
from bench.metrics.distances.table import FRECHET, KERNEL
from bench.metrics.extractors.features import NotFinite, cached_features, check_frames, extract, hash_frames
from bench.metrics.extractors.table import Extractor
from bench.metrics.protocol import metric_name
from bench.shapes import Refusal

SEED = 73_109  # of the battery's worlds; their splits have names of their own too, so no training can have seen a clip
SIZE, NUM_CLIPS, NUM_FRAMES = 32, 256, 16
MIN_FRAMES, MIN_SIDE = 4, 16
DAMAGE_SEED = 0
BATCH_SIZES = (1, 5)  # between which features must not change
PACKAGES = ("torch", "numpy", "scipy", "pymunk")


@dataclass(frozen=True, kw_only=True)
class BatteryClips:
    """Two disjoint draws of the same clips: a reference, and the source of what is damaged."""

    reference: np.ndarray  # (n, T, H, W, 3) uint8
    source: np.ndarray  # (n, S, H, W, 3) uint8; damaged clips are made of the first T frames, doubled speed needs S >= 2 T - 1
    arrow: bool  # time has a direction that can be seen, so reversal is judged
    description: dict[str, Any]  # goes into the card


def world_clips(size: int = SIZE, num_clips: int = NUM_CLIPS, num_frames: int = NUM_FRAMES) -> BatteryClips:
    """The battery's own clips: two shapes that slow down, `num_clips` in each set, frames of `size` x `size`."""
    config = worlds.Config(
        num_frames=2 * num_frames - 1,  # double speed
        height=size,
        width=size,
        num_train=num_clips,
        num_val=1,
        num_test=1,
        seed=SEED,
        num_objects=2,
        radius=(0.12, 0.24),
        speed=(0.4, 1.2),
        damping=0.5,
    )
    sets = []
    for split in ("battery-reference", "battery-source"):
        states = np.stack([worlds.simulate(config, split, index) for index in range(num_clips)])
        parts = np.split(states, range(worlds.BATCH, num_clips, worlds.BATCH))
        sets.append(np.concatenate([render(part, size, size) for part in parts]))
    description = config.model_dump(mode="json", exclude={"num_train", "num_val", "num_test"}) | {"generator": worlds.GENERATOR_VERSION}
    return BatteryClips(reference=sets[0][:, :num_frames], source=sets[1], arrow=True, description=description)


def given_clips(clips: np.ndarray, *, num_frames: int = NUM_FRAMES, name: str = "given") -> BatteryClips:
    """Anybody's clips (N, S, H, W, 3) uint8, half of them for each set; double speed is left out unless S >= 2 `num_frames` - 1."""
    half = len(clips) // 2
    order = np.random.default_rng(len(clips)).permutation(len(clips))  # they may come sorted by class
    return BatteryClips(
        reference=clips[order[:half], :num_frames], source=clips[order[half : 2 * half]], arrow=False, description={"source": name}
    )


def run(
    extractor: Extractor, clips: BatteryClips, *, cache: Path | None = None, progress: Progress = lambda done, total, what: None
) -> ReportCard:
    """The report card of `extractor` on `clips`. With a `cache` folder, an interrupted battery goes on where it stopped."""
    num_clips, num_frames, height, width, _ = clips.reference.shape
    check_frames(extractor, clips.reference)
    if num_clips < 2 * NUM_GROUPS or len(clips.source) != num_clips:
        raise Refusal(f"a battery needs two sets of one size, at least {2 * NUM_GROUPS} clips, got {num_clips} and {len(clips.source)}")
    if num_frames < MIN_FRAMES or min(height, width) < MIN_SIDE:
        least = f"{MIN_FRAMES} frames of {MIN_SIDE}x{MIN_SIDE} pixels"
        raise Refusal(f"a battery needs clips of at least {least}, got {num_frames} of {height}x{width}")
    measurable = [axis for axis in AXES.values() if axis.source_frames(num_frames) <= clips.source.shape[1]]
    sets = 2 + sum(1 if axis.of_clips else len(axis.levels) for axis in measurable)
    camera = Camera(extractor, cache, progress, sets * num_clips)
    real, clean = camera.features(clips.reference, "reference"), camera.features(clips.source[:, :num_frames], "undamaged")
    floor = point(0.0, real, clean)
    axes = []
    for axis in AXES.values():
        if axis in measurable:
            points = tuple(point(level, real, fake) for level, fake in damaged_features(axis, clips, clean, camera))
            judged = clips.arrow or axis.name != "reverse"
            note = "" if judged else "these clips have no known arrow of time"
        else:
            points, judged = (), False
            note = f"needs clips of {axis.source_frames(num_frames)} frames, these have {clips.source.shape[1]}"
        axes.append(AxisResult(name=axis.name, kind=axis.kind, title=axis.title, unit=axis.unit, points=points, judged=judged, note=note))
    judgements = judge(floor, axes, batch_difference(extractor, clips.reference), camera.not_finite)
    return ReportCard(
        version=CARD_VERSION,
        extractor=extractor.name,
        passed=all(judgement.passed for judgement in judgements),
        metric=metric_name("frechet", extractor.name, num_clips, extractor.dim),
        judgements=judgements,
        floor=floor,
        axes=tuple(axes),
        manifest=json.loads(json.dumps(dataclasses.asdict(extractor.manifest))),  # as it is read back
        clips=clips.description
        | {"arrow_of_time": clips.arrow, "reference_sha256": hash_frames(clips.reference), "source_sha256": hash_frames(clips.source)},
        num_clips=num_clips,
        num_frames=num_frames,
        height=height,
        width=width,
        seed=DAMAGE_SEED,
        device=extractor.device.type,
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
    )


@dataclass
class Camera:
    """Takes features of one set of clips after another, counts them, and notes where they are not finite: a verdict here, no error."""

    extractor: Extractor
    cache: Path | None
    progress: Progress
    total: int  # clips
    done: int = 0
    not_finite: list[str] = field(default_factory=list)  # which sets

    def features(self, frames: np.ndarray, what: str) -> np.ndarray | None:
        """Features (n, D) of (n, T, H, W, 3); None where they are not finite."""

        def report(done: int, _: int) -> None:
            self.progress(self.done + done, self.total, what)

        try:
            if self.cache is None:
                return extract(self.extractor, frames, report)
            return cached_features(self.extractor, frames, None, self.cache, report)
        except NotFinite:
            self.not_finite.append(what)
            return None
        finally:
            self.done += len(frames)
            report(0, 0)


def damaged_features(
    axis: Axis, clips: BatteryClips, clean: np.ndarray | None, camera: Camera
) -> Iterable[tuple[float, np.ndarray | None]]:
    """(level, features (n, D)) at every level. Of an axis `of_clips`, extracted once: the levels mix damaged and undamaged clips."""
    source = clips.source[:, : axis.source_frames(clips.reference.shape[1])]
    if not axis.of_clips:
        for level in axis.levels:
            yield level, camera.features(axis.apply(source, level, DAMAGE_SEED), f"{axis.title} {level:g}")
        return
    full = camera.features(axis.apply(source, 1.0, DAMAGE_SEED), axis.title)
    for level in axis.levels:
        mixed = None if full is None or clean is None else np.where(axis.chosen(len(source), level, DAMAGE_SEED)[:, None], full, clean)
        yield level, mixed


def point(level: float, real: np.ndarray | None, fake: np.ndarray | None) -> CurvePoint:
    """Both distances with their standard errors."""
    values: dict[str, float] = {}
    if real is not None and fake is not None:
        for kind in (FRECHET, KERNEL):
            interval = jackknife(kind.distance, real, fake)
            values |= {kind.key: interval.estimate, f"{kind.key}_se": interval.standard_error}
    return CurvePoint(level=level, **values)


def batch_difference(extractor: Extractor, frames: np.ndarray) -> float:
    """Largest change of a clip's features between batch sizes, over their length; NaN where they are not finite."""
    few = torch.from_numpy(np.array(frames[: max(BATCH_SIZES)])).to(extractor.device)
    alone, together = (torch.cat([extractor.features(part) for part in few.split(size)]).double().cpu() for size in BATCH_SIZES)
    difference, length = (alone - together).norm(dim=1), together.norm(dim=1)
    return float((difference / length.clamp_min(1e-300)).max())
