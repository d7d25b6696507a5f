"""The clips of a cell, handed to the engine of quality numbers: features by extractor, single frames, pixels, and the crop control."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench.data.clips import Clips
from bench.data.latents.autoencoder import FrameAutoencoder, decode_clips, encode_clips
from bench.data.latents.latents import item_pixels
from bench.data.policy.contract import Rules
from bench.data.policy.covering import cropped
from bench.data.policy.fitting import fit
from bench.data.policy.ledger import wholly_inside
from bench.data.progress import Progress
from bench.data.ragged import Frames, clip_shapes, stacked
from bench.metrics.copies import copy_measurements
from bench.metrics.extractors.features import extract, usable
from bench.metrics.extractors.manifest import FRAME, Manifest
from bench.metrics.extractors.motion import load_motion
from bench.metrics.extractors.table import Extractor
from bench.metrics.pixels.contract import PixelSets
from bench.metrics.pixels.framing import FRAMING, measure
from bench.metrics.quality import FeatureSets, feature_measurements, pixel_measurements, protocol_block
from bench.records.record import Measurement
from bench.run.measure.following import measure_following
from bench.run.stages import ReferenceSet, features_of, subject_boxes
from bench.shapes import Shape
from bench.study.cell import Cell
from bench.training.ranks import ALONE, Ranks

SubjectFeatures = dict[str, np.ndarray]  # subject -> (n, D); "test" are the clips compared with


class Quality:
    """Scores the clips of one cell.

    All distances compare n clips with the same n real test clips. `real`: n validation clips, the floor. `reconstruction`:
    those validation clips through the autoencoder, the best a backbone can do. `trained`, `untrained`: generated clips.
    """

    def __init__(self, cell: Cell, reference: ReferenceSet, device: torch.device, progress: Progress, results: Path, ranks: Ranks = ALONE):
        """`ranks`: processes that share the extraction; the leading one measures."""
        self.cell, self.reference, self.device, self.progress, self.results = cell, reference, device, progress, results
        self.ranks = ranks
        self.clips = reference.training.clips
        self.features: dict[str, SubjectFeatures] = {}  # by extractor

    def measure(self, generated: Frames, untrained: Frames | None) -> list[Measurement]:
        """Every quality measurement of n clips."""
        data, reference = self.cell.data, self.reference
        clips = {"real": reference.held_out["val"], "reconstruction": reference.reconstructed}
        clips |= {"untrained": untrained} if untrained is not None else {}
        clips |= {"trained": generated}
        found: list[Measurement] = []
        for extractor in reference.extractors:
            self.features[extractor.name] = features = self._extract(extractor, clips)
            if self.ranks.leads:
                found += self._distances(extractor.manifest, features)
        if not self.ranks.leads:
            return []
        encoder = load_motion(self.device)
        every = {"test": reference.held_out["test"], **clips}
        found += self._distances(FRAME, {subject: encoder.features_by_frame(frames) for subject, frames in every.items()})
        pixels = PixelSets(
            clips=clips,
            test=reference.held_out["test"],
            source=self.clips.digest,
            mixed=data.mixed,
            num_objects=getattr(data, "num_objects", None),
            boxes=reference.boxes,
        )
        found += pixel_measurements(pixels)
        train = self.clips.splits["train"].frames
        made = {subject: frames for subject, frames in clips.items() if subject in ("untrained", "trained")}
        found += measure_following(self.cell, reference, made, self.device)
        found += copy_measurements({"real": clips["real"], "trained": generated}, reference.held_out["test"], train, self.clips.digest)
        boxes = subject_boxes(self.clips, "val") if data.mixed or reference.boxes is not None else None
        if boxes is not None:
            real, autoencoder = self.clips.splits["val"].frames, reference.training.autoencoder
            found += crop_control(self.cell, autoencoder, real, boxes, self.clips.digest)
        return found

    def by_one(self, name: str, generated: Frames) -> list[Measurement]:
        """Distances of n clips by one extractor alone."""
        extractor = next(extractor for extractor in self.reference.extractors if extractor.name == name)
        features = self.reference.features[name]
        own = self._features("trained", generated, len(features["test"]), extractor)
        if not self.ranks.leads:
            return []
        found = self._distances(extractor.manifest, {"test": features["test"], "real": features["real"], "trained": own})
        return [measurement for measurement in found if measurement.subject == "trained"]

    def _distances(self, manifest: Manifest, features: SubjectFeatures) -> list[Measurement]:
        """Of every subject to the test clips; of data at several shapes, its one shape stands for them and `sampling` says so."""
        data, num = self.cell.data, len(features["test"])
        sampling = "given"
        if data.mixed:
            multiple = self.cell.batching.side_multiple
            sampling = f"own shapes, sides cut to multiples of {multiple}; with {manifest.min_frames} frames or more, the first {num}"
        shape, num_listed = (data.num_frames, data.height, data.width), self.cell.evaluation.num_samples
        return distances(features, manifest, self.cell, self.clips, num_listed, shape, self.device, sampling)

    def _extract(self, extractor: Extractor, clips: dict[str, Frames]) -> SubjectFeatures:
        """Features of every subject: those of the shared clips came with the reference set."""
        features = dict(self.reference.features[extractor.name])
        num = len(features["test"])
        for subject in [subject for subject in clips if subject not in features]:  # in one order in all processes
            features[subject] = self._features(subject, clips[subject], num, extractor)
        return {subject: features[subject] for subject in ("test", *clips)}

    def _features(self, subject: str, frames: Frames, num: int, extractor: Extractor) -> np.ndarray:
        """Features (n, D) of a subject's clips; of several processes each extracts every n-th, and all have all of them."""
        if self.ranks.num == 1:
            return features_of(subject, frames, num, extractor, self.results, self.progress)
        clips = usable(extractor.manifest, frames, num)
        places = self.ranks.own(len(clips))
        here = [np.asarray(clips[place]) for place in places]
        rows: Sequence[np.ndarray] | np.ndarray = extract(extractor, stacked(here, len(here))) if here else []
        own = {place: torch.from_numpy(np.array(row)) for place, row in zip(places, rows, strict=True)}
        return torch.stack(self.ranks.gathered(own, [(extractor.dim,)] * len(clips))).numpy()


def distances(
    features: SubjectFeatures, manifest: Manifest, cell: Cell, clips: Clips, listed: int, shape: Shape, device: torch.device, sampling: str
) -> list[Measurement]:
    """Of every subject to the test clips, the first `listed` of `clips`, at a shape in pixels; `sampling` as in the protocol."""
    num = len(features["test"])
    block = protocol_block(
        manifest,
        device,
        n_real=num,
        n_fake=num,
        shape=shape,
        frame_stride=getattr(cell.data, "frame_stride", 1),
        fps=clips.fps,
        split="test",
        clip_list=[clips.digest, *clips.splits["test"].clip_ids[:listed]],
        sampling=sampling,
    )
    subjects = {subject: values for subject, values in features.items() if subject != "test"}
    return feature_measurements(FeatureSets(real=features["test"], subjects=subjects, block=block))


def crop_control(cell: Cell, autoencoder: FrameAutoencoder, frames: Frames, boxes: np.ndarray, source: str) -> list[Measurement]:
    """Share of real clips whose subject is whole when they are cropped to the one shape: in truth, and seen through the autoencoder.

    One that never saw a cut subject paints the frame's outermost pixels dark and hides cuts, a model's too: then the second is higher.
    """
    one_shape = (cell.data.num_frames, cell.data.height, cell.data.width)
    items = fit(clip_shapes(frames), Rules(fit=cropped, nothing="no clip can be cropped", one_shape=one_shape)).items
    crops = [item_pixels(frames, item) for item in items]
    latents = [encode_clips(autoencoder, crop[None])[0] for crop in crops]
    rates = {
        "real": float(np.mean(wholly_inside(items, boxes))),
        "reconstruction": float(measure(list(decode_clips(autoencoder, latents))).whole.mean()),
    }
    known, protocol = FRAMING.value("crop_control_whole_rate"), FRAMING.protocol(source, len(crops), cropped=list(one_shape))
    return [
        Measurement(name=known.name, subject=subject, value=rate, unit=known.unit, better=known.better, protocol=protocol)
        for subject, rate in rates.items()
    ]
