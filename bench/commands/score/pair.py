"""Both sets of a score: read at one size, their features, and what these were made under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.commands.score.collection import Collection
from bench.commands.score.windows import ReadSet, Rule, SeededCut, cached_set
from bench.data.progress import Progress
from bench.metrics.extractors.features import cached_features
from bench.metrics.extractors.table import Extractor
from bench.metrics.protocol import ProtocolBlock
from bench.metrics.quality import protocol_block
from bench.shapes import Refusal


@dataclass(frozen=True, kw_only=True)
class ClipSets:
    """Clips of both sets, in the order of taking: the first n of each are compared, real ones after them are spare."""

    cut: SeededCut
    real: ReadSet
    generated: ReadSet
    n: int

    def notes(self) -> list[str]:
        """What a reader of the numbers should know, a sentence each."""
        notes = []
        if len(self.generated) != self.n:
            notes.append(f"{self.n} clips of each set are compared: there are {len(self.real)} real ones, {len(self.generated)} generated")
        elif len(self.real) > self.n:
            notes.append(f"{self.n} clips of each set are compared, other real ones serve the floor at most")
        for what, clips in (("real", self.real), ("generated", self.generated)):
            if clips.num_copies:
                notes.append(f"{clips.num_copies} of {len(clips.names)} {what} clips are exact copies of another; n counts them")
        rates = [rates for clips in (self.real, self.generated) if (rates := rates_of(clips))]
        if len(rates) == 2 and max(map(max, rates)) > 1.01 * min(map(min, rates)):
            shown = [f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in rates]
            notes.append(f"real items run at {shown[0]} frames per second, generated ones at {shown[1]}; frames are not resampled")
        return notes


class SetReader:
    """Reads sets and features, remembering both in the cache."""

    def __init__(self, cache: Path, progress: Progress):
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refusal(f"the cache {cache} cannot be written: {error.strerror}; choose another with --cache") from error
        self.cache, self.progress = cache, progress

    def clips(self, collection: Collection, rule: Rule, limit: int | None) -> ReadSet:
        return cached_set(collection, rule, limit, self.progress, self.cache)

    def features(self, extractor: Extractor, clips: ReadSet, what: str) -> np.ndarray:
        """Features of a set's clips as they count, (len(clips), D)."""

        def tell(done: int, total: int) -> None:
            self.progress(done, total, f"{extractor.name} features, {what}")

        return cached_features(extractor, clips.frames, clips.digest, self.cache, tell)[list(clips.rows)]


def read_pair(real: Collection, generated: Collection, cut: SeededCut, num_clips: int | None, reader: SetReader) -> ClipSets:
    """Both sets at one size. Refusal where a set is smaller than asked, or sizes differ."""
    fake = reader.clips(generated, cut, num_clips)
    check_count("GENERATED", generated, fake, num_clips)
    true = reader.clips(real, cut, 2 * len(fake))
    check_count("REAL", real, true, num_clips)
    sizes = [f"{clips.shape[1]}x{clips.shape[2]}" for clips in (true, fake)]
    if sizes[0] != sizes[1]:
        raise Refusal(f"real clips are {sizes[0]}, generated ones {sizes[1]}; choose one size with --size, such as --size {sizes[1]}")
    n = min(len(true), len(fake))
    if n < 2:
        raise Refusal(f"a distance needs at least 2 clips in each set, got {len(true)} real and {len(fake)} generated")
    return ClipSets(cut=cut, real=true, generated=fake, n=n)


def check_count(argument: str, collection: Collection, clips: ReadSet, asked: int | None) -> None:
    if asked is not None and len(clips) < asked:
        why = f" ({len(clips.skipped)} left out, the first: {clips.skipped[0].name} {clips.skipped[0].reason})" if clips.skipped else ""
        raise Refusal(f"{asked} clips asked, {argument} {collection.path} gives {len(clips)}{why}; ask for fewer with -n")


def block(
    extractor: Extractor, clips: dict[str, Any], sampling: str, stride: int, real: ReadSet, generated: ReadSet, n_real: int, n_fake: int
) -> ProtocolBlock:
    """Everything beside the generated clips that changes a distance."""
    rates = rates_of(real) or rates_of(generated)
    return protocol_block(
        extractor.manifest,
        extractor.device,
        n_real=n_real,
        n_fake=n_fake,
        shape=real.shape,
        frame_stride=stride,
        fps=rates[0] / stride if rates else None,
        split="as given",
        clip_list=real.clip_list(n_real),
        sampling=sampling,
        clips=clips,
    )


def rates_of(clips: ReadSet) -> tuple[float, float] | None:
    """Slowest and fastest item, where files say it."""
    known = [rate for rate in clips.fps if rate]
    return (min(known), max(known)) if known else None


def find_device(name: str) -> torch.device:
    """The device `name`. Refusal where there is none of that name here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise Refusal(f"unknown --device {name!r}; there are cpu and cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise Refusal(f"--device {name} is not measured with; there are cpu and cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Refusal(f"--device {name}: {torch.cuda.device_count()} CUDA devices are seen here; use --device cpu")
    return device
