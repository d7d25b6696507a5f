"""Error by frame, and what generating a clip takes: values by hand, their course, and a cell that asks for both."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.drift import frame_distances, frame_statistics, growth
from bench.shapes import Refusal
from bench.study.cell import Cell
from tests.test_units_training import run_cell
from tests.tiny import cell_fields, tiny_cell

ASKED = {"extractors": ["random3d"], "num_samples": 4, "latency": True, "drift": True}


def clips(num: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 180, (num, 6, 4, 4, 3)).astype(np.uint8)


def test_statistics_are_quarters_and_deviations() -> None:
    clip = np.zeros((1, 1, 4, 4, 3), np.uint8)
    clip[0, 0, :2, 2:, 1] = 255  # the upper right quarter is green
    found = frame_statistics(clip)[0, 0].reshape(5, 3)
    assert found[:4].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert found[4] == pytest.approx([0, np.sqrt(3) / 4, 0])


def test_clips_are_at_no_distance_from_themselves_and_drift_is_seen_where_it_is() -> None:
    real = clips()
    assert frame_distances(real, real) == pytest.approx(np.zeros(6), abs=1e-9)
    drifting = real.copy()
    for frame in range(6):
        drifting[:, frame] = np.clip(real[:, frame].astype(int) + 12 * frame, 0, 255)
    found = frame_distances(drifting, real)
    assert found[0] < 1e-9 and (np.diff(found) > 0).all() and growth(found) > 0.05
    assert found[5] == pytest.approx(12 * (60 / 255) ** 2, rel=0.02)  # four quarters of three channels, moved by 60
    assert growth(found[::-1]) == pytest.approx(-growth(found))


def test_growth_is_of_halves() -> None:
    assert growth(np.array([1.0, 2.0, 9.0, 4.0, 6.0])) == 5.0 - 1.5  # the middle one is in neither
    assert growth(np.array([3.0])) == 0.0


@pytest.mark.parametrize(("backbone", "calls", "tokens"), [("dit:AR-XS/2-frame", 11, 4 * 4 * 3 - 4), ("dit:DiT-XS/2", 2, 32)])
def test_a_cell_that_asks_for_both(tmp_path: Path, backbone: str, calls: int, tokens: int) -> None:
    record = run_cell(tmp_path, backbone, evaluation=ASKED)
    found = {m.name: m.value for m in record.measurements if m.subject == "trained"}
    assert (found["generation_calls"], found["generation_tokens"]) == (calls, tokens)
    assert record.sampling is not None and record.backbone is not None
    of_units = record.sampling.flops
    assert found["generation_flops"] == (2 * record.backbone.flops_per_clip if of_units is None else of_units // 4)
    assert 0 < found["first_frame_s"] <= found["latency_1_s"] and found["latency_64_s"] > 0
    assert (found["cache_bytes"] > 0) == ("AR" in backbone)
    assert [error.frame for error in record.frames] == [0, 1, 2, 3] and all(error.distance >= 0 for error in record.frames)
    drift, real = record.measurement("frame_drift"), record.measurement("frame_drift", "real")
    assert drift is not None and real is not None and drift.floor == real.value
    assert drift.value == pytest.approx(growth(np.array([error.distance for error in record.frames])))
    assert list(record.time_split_s)[-2:] == ["latency", "drift"]


def test_cells_that_ask_for_neither_keep_their_fingerprint() -> None:
    fields = cell_fields()
    asked = Cell.model_validate({**fields, "evaluation": {**fields["evaluation"], "latency": False, "drift": False}})
    assert asked.fingerprint() == tiny_cell().fingerprint()
    assert "latency" not in asked.model_dump()["evaluation"]
    assert tiny_cell(evaluation=ASKED).fingerprint() != asked.fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {**ASKED, "num_samples": 0}}, "num_samples 0 trains and samples nothing, so that latency cannot be measured"),
        ({"evaluation": {**ASKED, "num_samples": 0, "latency": False}}, "so that drift cannot be measured"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_cell(**changes)


def test_frames_of_several_shapes_have_no_error_by_frame() -> None:
    data = {**tiny_cell().data.model_dump(), "shapes": [[4, 16, 16], [4, 16, 32]]}
    with pytest.raises((Refusal, ValueError), match=r"evaluation.drift compares the k-th frames of clips of one shape"):
        tiny_cell(data=data, evaluation=ASKED, batching={"policy": "bucket", "voxel_budget": 512})
