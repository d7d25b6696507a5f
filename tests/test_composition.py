"""Framing measurements: real clips frame their subject, crops of them do not, and every number has its floor and protocol."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.data.clips import ClipSet
from bench.data.ragged import Frames, stacked
from bench.data.source import load_clips, load_config
from bench.metrics.pixels.contract import PixelSets
from bench.metrics.quality import pixel_measurements
from bench.records.record import Measurement
from bench.run.measure.quality import crop_control
from tests.tiny import tiny_cell

WORLD = {
    "source": "worlds", "num_frames": 4, "height": 24, "width": 24, "num_train": 1, "num_val": 24, "num_test": 24,
    "shapes": [[4, 24, 48], [1, 48, 24]], "placement": "edges", "margin": 0.08, "radius": [0.18, 0.22],
}  # fmt: skip


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipSet]:
    return load_clips(load_config(WORLD), tmp_path_factory.mktemp("clips")).splits


def boxes(clips: ClipSet) -> list[np.ndarray]:
    assert clips.truth is not None
    return [box[: shape[0], 0] for box, shape in zip(clips.truth["box"], clips.shapes, strict=True)]


def composition(clips: dict[str, Frames], test: ClipSet, known: list[np.ndarray] | None) -> list[Measurement]:
    return pixel_measurements(PixelSets(clips=clips, test=test.frames, source="source", mixed=True, boxes=known))


def by_subject(found: list[Measurement], name: str) -> dict[str, Measurement]:
    return {measurement.subject: measurement for measurement in found if measurement.name == name}


def cropped(frames: Frames) -> Frames:
    """The middle half of every clip along its longer side, back at its shape by repeating pixels: what a model of crops would make."""
    clips = []
    for clip in frames:
        axis = 1 if clip.shape[1] > clip.shape[2] else 2
        quarter = clip.shape[axis] // 4
        clips.append(np.repeat(np.take(clip, range(quarter, 3 * quarter), axis=axis), 2, axis=axis))
    return stacked(clips, len(clips))


def test_crops_are_told_from_whole_clips(splits: dict[str, ClipSet]) -> None:
    test = splits["test"]
    clips = {"real": splits["val"].frames, "trained": cropped(splits["val"].frames)}
    found = composition(clips, test, boxes(test))
    whole = by_subject(found, "subject_whole_rate")
    assert whole["real"].value == 1.0 and whole["trained"].value < 0.5
    for name in ("framing_distance", "saliency_distance"):
        distances = by_subject(found, name)
        assert distances["trained"].value > 2 * distances["real"].value
        for measurement in distances.values():
            assert measurement.low is not None and measurement.high is not None
            assert measurement.low <= measurement.value <= measurement.high
            assert measurement.protocol is not None and measurement.protocol["clips"] == "source"
    assert len({measurement.protocol_fingerprint for measurement in found}) == 2


def test_without_boxes_only_what_any_video_has(splits: dict[str, ClipSet]) -> None:
    found = composition({"real": splits["val"].frames}, splits["test"], None)
    assert [measurement.name for measurement in found] == ["saliency_distance"]


def test_clips_without_a_subject_have_no_framing(splits: dict[str, ClipSet]) -> None:
    test = splits["test"]
    empty: Any = stacked((np.full_like(clip, 16) for clip in test.frames), len(test))
    found = composition({"trained": empty}, test, boxes(test))
    assert by_subject(found, "subject_whole_rate")["trained"].value == 0.0
    assert not by_subject(found, "framing_distance")


class Identity:
    """An autoencoder that loses nothing."""

    shift = torch.zeros(3)

    def encode(self, clips: Tensor) -> Tensor:
        return clips

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class Blind(Identity):
    """One that never saw a cut subject: it paints the outermost pixels dark."""

    def decode(self, latents: Tensor) -> Tensor:
        dark = torch.full_like(latents, 16 / 127.5 - 1)
        dark[..., 2:-2, 2:-2] = latents[..., 2:-2, 2:-2]
        return dark


def test_an_autoencoder_that_hides_cuts_is_seen(splits: dict[str, ClipSet]) -> None:
    cell = tiny_cell(data=WORLD, batching={"voxel_budget": 1000}, evaluation={"num_samples": 4})
    val = splits["val"]
    assert val.truth is not None

    def rates(autoencoder: Any) -> dict[str, float]:
        found = crop_control(cell, autoencoder, val.frames, val.truth["box"][:, :, 0], "source")  # type: ignore[index]
        return {measurement.subject: measurement.value for measurement in found}

    honest, blind = rates(Identity()), rates(Blind())
    assert honest["real"] == blind["real"] < 0.7
    assert honest["reconstruction"] == pytest.approx(honest["real"], abs=0.1)
    assert blind["reconstruction"] > honest["reconstruction"] + 0.2
