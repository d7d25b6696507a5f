"""The engine of quality numbers: features or pixels by subject in, `Measurement`s out, each with floor, interval and protocol.

`run` and `score` share it. Knows neither cells nor folders: whoever calls it says which clips are real and what they were made under.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from bench.data.files import sha256_texts
from bench.meters.process import device_name
from bench.metrics.distances.diversity import NUM_NEIGHBOURS, diversity
from bench.metrics.distances.frechet import MIN_CLIPS, Features
from bench.metrics.distances.interval import NUM_GROUPS, Statistic, jackknife
from bench.metrics.distances.table import DistanceKind, distances
from bench.metrics.distances.wasserstein import mean_wasserstein
from bench.metrics.extractors.manifest import Manifest
from bench.metrics.pixels.contract import PixelMeasure, PixelSets
from bench.metrics.pixels.table import pixel_measures
from bench.metrics.protocol import EXCESS_RATIO, INFINITE, ProtocolBlock
from bench.records.record import REAL, Measurement
from bench.shapes import Shape

INTERVAL = f"delete-group jackknife over clips, {NUM_GROUPS} groups, 95 %"
NO_INTERVAL = f"none: {NUM_GROUPS} groups need as many clips"


def protocol_block(manifest: Manifest, device: torch.device, *, shape: Shape, clip_list: list[str], **known: Any) -> ProtocolBlock:
    """Everything beside the generated clips that changes a distance between sets of clips of `shape` in pixels.

    `clip_list`: what identifies the real clips, in order. `known`: the block's other fields.
    """
    return ProtocolBlock(
        extractor=manifest.name,
        weights_sha256=manifest.weights_sha256,
        code_sha256=manifest.code_sha256 or None,
        dim=manifest.dim,
        num_frames=shape[0],
        height=shape[1],
        width=shape[2],
        resize=manifest.resize,
        clip_list_sha256=sha256_texts(clip_list),
        device=device_name(device),
        dtype="float32",
        versions={"torch": torch.__version__},
        **known,
    )


@dataclass(frozen=True, kw_only=True)
class FeatureSets:
    """Features of one extractor: of n real clips, and of n clips of every subject that is compared with them.

    (n, D), or (n, T, D) of single frames, which only distances over frames are taken of.
    """

    real: Features
    subjects: Mapping[str, Features]
    block: ProtocolBlock
    spare: Features | None = None  # other real clips, however many: the floor comes from them where `subjects` has no REAL

    @property
    def of_frames(self) -> bool:
        """A row is a clip's frames, which are not independent draws: no theory in n holds."""
        return self.real.ndim == 3

    @cached_property
    def kinds(self) -> dict[str, Statistic]:
        """The distances that these features have, by key."""
        if self.of_frames:
            return {key: kind.of_clips_of_frames for key, kind in distances().items() if kind.over_frames}
        return {key: kind.distance for key, kind in distances().items()}

    def protocol(self, kind: DistanceKind) -> dict[str, Any]:
        """Of one distance."""
        return self.block.describe() | dict(kind.settings)


def feature_measurements(sets: FeatureSets) -> list[Measurement]:
    """Every distance of every subject with all that stands beside it, those at infinite n, and diversity."""
    found = []
    for key in sets.kinds:
        found += _distances(distances()[key], sets)
    if not sets.of_frames:
        for kind in distances().values():
            found += _at_infinite_n(kind, sets)
        found += _diversities(sets)
    return found


def _distances(kind: DistanceKind, sets: FeatureSets) -> list[Measurement]:
    """One distance of every subject to the real clips, and how far training brought it down."""
    name, statistic = sets.block.name(kind.key), sets.kinds[kind.key]
    values = {subject: statistic(sets.real, features) for subject, features in sets.subjects.items()}
    floor, floor_source = _floor(kind, sets, values)
    fields = {"unit": kind.unit, "better": "lower", "protocol": sets.protocol(kind)}
    found = []
    for subject, value in values.items():
        beside = {} if subject == REAL else {"floor": floor, "floor_source": floor_source}
        beside |= _interval(statistic, sets.real, sets.subjects[subject])
        found.append(Measurement(name=name, subject=subject, value=value, **beside, **fields))
    if {REAL, "untrained", "trained"} <= values.keys():
        before, after = values["untrained"] - values[REAL], values["trained"] - values[REAL]
        stem, at, size = name.partition("@")
        ratio = before / after if after > 0 else math.inf
        found.append(Measurement(name=f"{stem}{EXCESS_RATIO}{at}{size}", value=ratio, **fields | {"unit": "1", "better": "higher"}))
    return found


def _interval(statistic: Statistic, real: Features, fake: Features) -> dict[str, Any]:
    """A measurement's fields of the interval of `statistic`, or why there is none."""
    if min(len(real), len(fake)) < NUM_GROUPS:
        return {"interval": NO_INTERVAL}
    found = jackknife(statistic, real, fake)
    return {"low": found.low, "high": found.high, "interval": INTERVAL}


def _floor(kind: DistanceKind, sets: FeatureSets, values: Mapping[str, float]) -> tuple[float | None, str]:
    """The distance of real clips to real clips at this n, by the best way there is, and which that was."""
    statistic, num, dim = sets.kinds[kind.key], len(sets.real), sets.block.dim
    if REAL in values:
        return values[REAL], f"measured against {len(sets.subjects[REAL])} other real clips"
    spare = sets.real[:0] if sets.spare is None else sets.spare
    if len(spare) >= num:
        return statistic(sets.real, spare[:num]), f"measured against {num} other real clips"
    every = np.concatenate([sets.real, spare])
    if kind.expected_floor is not None and num >= dim and not sets.of_frames:
        return kind.expected_floor(every, num, num), "expected of two sets of one Gaussian with the real clips' covariance"
    half = len(every) // 2
    if half < MIN_CLIPS:
        return None, "none: too few real clips"
    halves = statistic(every[:half], every[half : 2 * half])
    if kind.bias == "none":  # its expectation is 0 at any n
        return halves, f"measured between two halves of the real clips, {half} each"
    if kind.bias == "unknown":
        return halves, f"measured between two halves of the real clips, {half} each; high, as these are fewer than {num}"
    # A bias within one population goes as 1/n above d, more slowly below, where this is a low guess.
    low = f"; low, as n is below {dim} features" if num < dim else ""
    return halves * half / num, f"scaled to n by 1/n from two halves of the real clips, {half} each{low}"


def _at_infinite_n(kind: DistanceKind, sets: FeatureSets) -> list[Measurement]:
    """The distance of every subject without the bias of n; nothing where n is too small for the number of features."""
    if kind.infinite_n is None or len(sets.real) < kind.infinite_n_clips(sets.block.dim):
        return []
    stem, _, size = sets.block.name(kind.key).partition("@")
    fields = {"name": f"{stem}{INFINITE}@{size or len(sets.real)}", "unit": kind.unit, "better": "lower", "protocol": sets.protocol(kind)}
    found = []
    for subject, features in sets.subjects.items():
        limit, sizes = kind.infinite_n(sets.real, features)
        how = f"least squares in 1/n over sizes {', '.join(map(str, sizes))}, jackknife, 95 %"
        found.append(Measurement(subject=subject, value=limit.estimate, low=limit.low, high=limit.high, interval=how, **fields))
    return found


def _diversities(sets: FeatureSets) -> list[Measurement]:
    """Precision, recall, density and coverage of every subject; too few clips for their neighbourhoods give none."""
    if len(sets.real) <= NUM_NEIGHBOURS:
        return []
    fields = {"unit": "1", "better": "higher", "protocol": sets.block.describe() | {"num_neighbours": NUM_NEIGHBOURS}}
    return [
        Measurement(name=f"{name}_{sets.block.extractor}@{len(features)}", subject=subject, value=value, **fields)
        for subject, features in sets.subjects.items()
        for name, value in diversity(sets.real, features).items()
    ]


def pixel_measurements(sets: PixelSets) -> list[Measurement]:
    """Every value of every pixel measure that means something for these clips."""
    found = []
    for measure in pixel_measures():
        if not measure.applies(sets):
            continue
        if measure.versions_of is None:
            real = measure.truth(sets) if measure.truth is not None else None
            for subject, frames in sets.clips.items():
                seen = measure.measure(frames)
                if real is None and any(isinstance(value, np.ndarray) for value in seen.values()):
                    real = {name: value for name, value in measure.measure(sets.test).items() if isinstance(value, np.ndarray)}
                found += _pixel_values(measure, seen, real or {}, subject, sets)
        elif {measure.versions_of, "reconstruction"} <= sets.clips.keys():
            seen = measure.measure(sets.clips[measure.versions_of], sets.clips["reconstruction"])
            found += _pixel_values(measure, seen, {}, "reconstruction", sets)
    return found


def _pixel_values(
    measure: PixelMeasure, seen: Mapping[str, float | np.ndarray], real: Mapping[str, np.ndarray], subject: str, sets: PixelSets
) -> list[Measurement]:
    """One subject's: numbers as they are; quantities (N, D) by their distance, where any clip has some."""
    found = []
    for name, value in seen.items():
        known, compared = measure.value(name), {}
        if isinstance(value, np.ndarray):
            present, others = value[~np.isnan(value).any(axis=1)], real[name]
            if not len(present):
                continue
            value, compared = mean_wasserstein(present, others), _interval(mean_wasserstein, present, others)
        protocol = measure.protocol(sets.source, len(sets.test))
        found.append(
            Measurement(name=name, subject=subject, value=value, unit=known.unit, better=known.better, protocol=protocol, **compared)
        )
    return found
