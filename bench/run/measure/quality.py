"""What the generated clips are worth: distances with floors, intervals and protocol, diversity, single frames, what the pixels show."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.data.files import sha256_texts
from bench.data.progress import Progress
from bench.data.ragged import Frames
from bench.metrics.distances.bias import frechet_infinite_n, infinite_n_clips
from bench.metrics.distances.diversity import NUM_NEIGHBOURS, diversity
from bench.metrics.distances.interval import NUM_GROUPS, Statistic, jackknife
from bench.metrics.distances.table import DISTANCES
from bench.metrics.extractors.features import cached_features, usable
from bench.metrics.extractors.manifest import Manifest
from bench.metrics.extractors.table import Extractor
from bench.metrics.pixels import frame_quality, permanence
from bench.metrics.protocol import ProtocolBlock
from bench.records.record import Measurement
from bench.run import stages as stages_of
from bench.run.measure.composition import composition, crop_control
from bench.run.measure.costs import protocol_fields
from bench.run.stages import Stages
from bench.shapes import Shape
from bench.study.cell import Cell

SubjectFeatures = dict[str, np.ndarray]  # subject -> (n, D)

INTERVAL = f"delete-group jackknife over clips, {NUM_GROUPS} groups, 95 %"
NO_INTERVAL = f"none: a jackknife of {NUM_GROUPS} groups needs as many clips"


class Quality:
    """Scores the clips of one cell.

    All distances compare n clips with the same n real test clips. `real`: n validation clips, the floor. `reconstruction`:
    those validation clips through the autoencoder, the best a backbone can do. `trained`, `untrained`: generated clips.
    """

    def __init__(self, cell: Cell, stages: Stages, device: torch.device, progress: Progress, results: Path):
        self.cell, self.stages, self.device, self.progress, self.results = cell, stages, device, progress, results
        self.features: dict[str, SubjectFeatures] = {}  # extractor -> subject -> features; "test" are the clips compared with

    def measure(self, generated: Frames, untrained: Frames | None) -> list[Measurement]:
        """Every quality measurement of n clips."""
        clips = {"real": self.stages.held_out["val"], "reconstruction": self.stages.reconstructed}
        clips |= {"untrained": untrained} if untrained is not None else {}
        clips |= {"trained": generated}
        measurements: list[Measurement] = []
        for extractor in self.stages.extractors:
            features = self._extract(extractor, clips)
            self.features[extractor.name] = features
            block = self._block(extractor.manifest, len(features["test"]))
            for kind, distance in DISTANCES.items():
                measurements += distances(block.name(kind), distance, features, block)
            measurements += _at_infinite_n(features, block)
            measurements += _diversities(features, block)
        return [*measurements, *self._single_frames(clips), *self._permanence(clips), *self._composition(clips)]

    def _block(self, manifest: Manifest, num: int) -> ProtocolBlock:
        """The protocol of a distance to the test clips; of data at several shapes, its one shape stands for them and `sampling` says so."""
        data, num_clips = self.cell.data, self.cell.evaluation.num_samples
        clips = self.stages.clips
        sampling = "given"
        if data.mixed:
            multiple = self.cell.batching.side_multiple
            sampling = f"own shapes, sides cut to multiples of {multiple}; with {manifest.min_frames} frames or more, the first {num}"
        return protocol_block(
            self.cell,
            clips.fps,
            manifest,
            self.device,
            num,
            shape=(data.num_frames, data.height, data.width),
            clip_list=sha256_texts([clips.digest, *clips.splits["test"].clip_ids[:num_clips]]),
            sampling=sampling,
        )

    def _extract(self, extractor: Extractor, clips: dict[str, Frames]) -> SubjectFeatures:
        """Features of every subject: those of the shared clips came with the stages."""
        features = dict(self.stages.features[extractor.name])
        num = len(features["test"])
        folder = stages_of.feature_folder(self.results)
        for subject in clips.keys() - features.keys():
            report = partial(stages_of.labelled, self.progress, f"{extractor.name} features of {subject}")
            features[subject] = cached_features(extractor, usable(extractor.manifest, clips[subject], num), None, folder, report)
        return {subject: features[subject] for subject in ("test", *clips)}

    def _single_frames(self, clips: dict[str, Frames]) -> list[Measurement]:
        """Frechet distance over single frames, and what the autoencoder alone loses."""
        sets = {"test": self.stages.held_out["test"], **clips}
        encoder = frame_quality.FrameEncoder(self.device)
        features = {subject: encoder.features(frames) for subject, frames in sets.items()}  # each (n, T, D)
        block = self._block(frame_quality.FRAME, len(sets["test"]))
        real, reconstructed = clips["real"], clips["reconstruction"]
        return [
            *distances(block.name("frechet"), frame_quality.frame_distance, features, block),
            *(
                Measurement(name=name, subject="reconstruction", value=measure(real, reconstructed), unit=unit, better="higher")
                for name, measure, unit in (("psnr_db", frame_quality.psnr_db, "dB"), ("ssim", frame_quality.ssim, "1"))
            ),
        ]

    def _composition(self, clips: dict[str, Frames]) -> list[Measurement]:
        """Where subjects are; of clips that all have one shape only where their boxes are known."""
        stages = self.stages
        if not self.cell.data.mixed and stages.boxes is None:
            return []
        found = composition(clips, stages.held_out["test"], stages.boxes, stages.clips.digest)
        boxes = stages_of.subject_boxes(stages.clips, "val")
        if boxes is not None:
            val = stages.clips.splits["val"].frames
            found += crop_control(self.cell, stages.autoencoder.autoencoder, val, boxes, stages.clips.digest)
        return found

    def _permanence(self, clips: dict[str, Frames]) -> list[Measurement]:
        """Whether a world of one object shows one object; nothing for any other data, nor at several shapes (see `composition`)."""
        if getattr(self.cell.data, "num_objects", None) != 1 or self.cell.data.mixed:
            return []
        thresholds = dataclasses.asdict(permanence.THRESHOLDS)
        num = self.cell.evaluation.num_samples
        block = {"measure": "permanence", "version": permanence.VERSION, "num_clips": num, "clips": self.stages.clips.digest, **thresholds}
        found = []
        for subject, frames in clips.items():
            seen = permanence.measure(np.asarray(frames))
            for name, rate in (("one_object_rate", seen.one_object_rate), ("steady_rate", seen.steady_rate)):
                found.append(
                    Measurement(name=name, subject=subject, value=rate, unit="share of clips", better="higher", **protocol_fields(block))
                )
        return found


def distances(name: str, distance: Statistic, features: SubjectFeatures, block: ProtocolBlock) -> list[Measurement]:
    """One distance of every subject to the test clips, and how far training brought it down."""
    real = features["test"]
    found = []
    for subject, values in features.items():
        if subject == "test":
            continue
        interval = jackknife(distance, real, values) if len(values) >= NUM_GROUPS else None
        found.append(
            Measurement(
                name=name,
                subject=subject,
                value=distance(real, values),
                low=interval.low if interval else None,
                high=interval.high if interval else None,
                interval=INTERVAL if interval else NO_INTERVAL,
                unit="1",
                better="lower",
                protocol=block.model_dump(mode="json"),
                protocol_fingerprint=block.fingerprint(),
            )
        )
    return found + excess_ratio(name, {measurement.subject: measurement.value for measurement in found})


def _at_infinite_n(features: SubjectFeatures, block: ProtocolBlock) -> list[Measurement]:
    """The Frechet distance of every subject without the bias of n; nothing where n is too small for the number of features."""
    real = features["test"]
    if len(real) < infinite_n_clips(block.dim):
        return []
    stem, _, size = block.name("frechet").partition("@")
    found = []
    for subject, values in features.items():
        if subject != "test":
            limit = frechet_infinite_n(real, values)
            found.append(
                Measurement(
                    name=f"{stem}_infinite@{size or len(real)}",
                    subject=subject,
                    value=limit.value,
                    low=limit.low,
                    high=limit.high,
                    interval=f"least squares in 1/n over sizes {', '.join(map(str, limit.sizes))}, jackknife, 95 %",
                    unit="1",
                    better="lower",
                    protocol=block.model_dump(mode="json"),
                    protocol_fingerprint=block.fingerprint(),
                )
            )
    return found


def _diversities(features: SubjectFeatures, block: ProtocolBlock) -> list[Measurement]:
    """Precision, recall, density and coverage of every subject; too few clips for their neighbourhoods give none."""
    real = features["test"]
    if len(real) <= NUM_NEIGHBOURS:
        return []
    return [
        Measurement(
            name=f"{name}_{block.extractor}@{len(values)}",
            subject=subject,
            value=value,
            unit="1",
            better="higher",
            protocol={**block.model_dump(mode="json"), "num_neighbours": NUM_NEIGHBOURS},
            protocol_fingerprint=block.fingerprint(),
        )
        for subject, values in features.items()
        if subject != "test"
        for name, value in dataclasses.asdict(diversity(real, values)).items()
    ]


def protocol_block(
    cell: Cell, fps: float, manifest: Manifest, device: torch.device, num: int, *, shape: Shape, clip_list: str, sampling: str = "given"
) -> ProtocolBlock:
    """Everything beside the generated clips that changes a distance between sets of `num` clips of `shape` in pixels."""
    return ProtocolBlock(
        extractor=manifest.name,
        weights_sha256=manifest.weights_sha256,
        dim=manifest.dim,
        n_real=num,
        n_fake=num,
        num_frames=shape[0],
        frame_stride=getattr(cell.data, "frame_stride", 1),
        fps=fps,
        height=shape[1],
        width=shape[2],
        resize=manifest.resize,
        split="test",
        clip_list_sha256=clip_list,
        sampling=sampling,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        dtype="float32",
        versions={"torch": torch.__version__},
    )


def excess_ratio(name: str, values: dict[str, float]) -> list[Measurement]:
    """How many times the distance above its real-against-real floor fell from initial weights to trained ones."""
    if "untrained" not in values:
        return []
    before, after = values["untrained"] - values["real"], values["trained"] - values["real"]
    stem, at, size = name.partition("@")
    ratio = before / after if after > 0 else math.inf
    return [Measurement(name=f"{stem}_excess_ratio{at}{size}", value=ratio, unit="1", better="higher")]
