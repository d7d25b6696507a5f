"""The clips of a cell, handed to the engine of quality numbers: features by extractor, single frames, pixels, and the crop control."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.data.progress import Progress
from bench.data.ragged import Frames
from bench.metrics.extractors.features import cached_features, usable
from bench.metrics.extractors.manifest import FRAME, Manifest
from bench.metrics.extractors.motion import load_motion
from bench.metrics.extractors.table import Extractor
from bench.metrics.pixels.contract import PixelSets
from bench.metrics.protocol import ProtocolBlock
from bench.metrics.quality import FeatureSets, feature_measurements, pixel_measurements, protocol_block
from bench.records.record import Measurement
from bench.run import stages as stages_of
from bench.run.measure.crop_control import crop_control
from bench.run.stages import ReferenceSet
from bench.study.cell import Cell

SubjectFeatures = dict[str, np.ndarray]  # subject -> (n, D)


class Quality:
    """Scores the clips of one cell.

    All distances compare n clips with the same n real test clips. `real`: n validation clips, the floor. `reconstruction`:
    those validation clips through the autoencoder, the best a backbone can do. `trained`, `untrained`: generated clips.
    """

    def __init__(self, cell: Cell, reference: ReferenceSet, device: torch.device, progress: Progress, results: Path):
        self.cell, self.reference, self.device, self.progress, self.results = cell, reference, device, progress, results
        self.features: dict[str, SubjectFeatures] = {}  # extractor -> subject -> features; "test" are the clips compared with

    def measure(self, generated: Frames, untrained: Frames | None) -> list[Measurement]:
        """Every quality measurement of n clips."""
        clips = {"real": self.reference.held_out["val"], "reconstruction": self.reference.reconstructed}
        clips |= {"untrained": untrained} if untrained is not None else {}
        clips |= {"trained": generated}
        found: list[Measurement] = []
        for extractor in self.reference.extractors:
            self.features[extractor.name] = features = self._extract(extractor, clips)
            found += self._distances(extractor.manifest, features)
        encoder = load_motion(self.device)
        every = {"test": self.reference.held_out["test"], **clips}
        found += self._distances(FRAME, {subject: encoder.features_by_frame(frames) for subject, frames in every.items()})
        return [*found, *pixel_measurements(self._pixels(clips)), *self._crop_control()]

    def _distances(self, manifest: Manifest, features: SubjectFeatures) -> list[Measurement]:
        """Of every subject to the test clips."""
        real = features["test"]
        subjects = {subject: values for subject, values in features.items() if subject != "test"}
        return feature_measurements(FeatureSets(real=real, subjects=subjects, block=self._block(manifest, len(real))))

    def _block(self, manifest: Manifest, num: int) -> ProtocolBlock:
        """The protocol of a distance to the test clips; of data at several shapes, its one shape stands for them and `sampling` says so."""
        data, clips = self.cell.data, self.reference.clips
        sampling = "given"
        if data.mixed:
            multiple = self.cell.batching.side_multiple
            sampling = f"own shapes, sides cut to multiples of {multiple}; with {manifest.min_frames} frames or more, the first {num}"
        return protocol_block(
            manifest,
            self.device,
            n_real=num,
            n_fake=num,
            shape=(data.num_frames, data.height, data.width),
            frame_stride=getattr(data, "frame_stride", 1),
            fps=clips.fps,
            split="test",
            clip_list=[clips.digest, *clips.splits["test"].clip_ids[: self.cell.evaluation.num_samples]],
            sampling=sampling,
        )

    def _extract(self, extractor: Extractor, clips: dict[str, Frames]) -> SubjectFeatures:
        """Features of every subject: those of the shared clips came with the reference set."""
        features = dict(self.reference.features[extractor.name])
        num = len(features["test"])
        folder = stages_of.feature_folder(self.results)
        for subject in clips.keys() - features.keys():
            report = partial(stages_of.labelled, self.progress, f"{extractor.name} features of {subject}")
            features[subject] = cached_features(extractor, usable(extractor.manifest, clips[subject], num), None, folder, report)
        return {subject: features[subject] for subject in ("test", *clips)}

    def _pixels(self, clips: dict[str, Frames]) -> PixelSets:
        data, reference = self.cell.data, self.reference
        return PixelSets(
            clips=clips,
            test=reference.held_out["test"],
            source=reference.clips.digest,
            mixed=data.mixed,
            num_objects=getattr(data, "num_objects", None),
            boxes=reference.boxes,
        )

    def _crop_control(self) -> list[Measurement]:
        """Where the boxes of subjects are known."""
        clips = self.reference.clips
        boxes = stages_of.subject_boxes(clips, "val") if self.cell.data.mixed or self.reference.boxes is not None else None
        if boxes is None:
            return []
        return crop_control(self.cell, self.reference.autoencoder.autoencoder, clips.splits["val"].frames, boxes, clips.digest)
