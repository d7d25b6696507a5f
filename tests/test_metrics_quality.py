"""The engine of quality numbers: every measurement's fingerprint covers its protocol, floors say how they were found, one way for all."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.frozen import content_hash
from bench.data.progress import Reporter
from bench.metrics import protocol
from bench.metrics import quality as engine
from bench.metrics.distances.bias import expected_floor
from bench.metrics.distances.table import FRECHET, KERNEL, DistanceKind
from bench.metrics.extractors.manifest import RANDOM3D
from bench.metrics.protocol import ProtocolBlock
from bench.metrics.quality import FeatureSets, feature_measurements, protocol_block
from bench.records.record import Measurement
from bench.run.measure import grid
from bench.run.measure.costs import loss_protocol
from bench.run.measure.quality import Quality
from bench.run.samples import build_backbone
from bench.run.stages import reference_set, training_set
from bench.training.validation import mean_loss, validation_losses
from tests.tiny import Linear, latent_set, tiny_cell

CPU = torch.device("cpu")


def block(num: int, dim: int) -> ProtocolBlock:
    made = protocol_block(
        RANDOM3D, CPU, n_real=num, n_fake=num, shape=(4, 8, 8), frame_stride=1, fps=8.0, split="test", clip_list=["a"], sampling="given"
    )
    return made.model_copy(update={"extractor": "own", "dim": dim})


def features(num: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, dim)).astype(np.float32)


def sets(num: int, dim: int, num_spare: int) -> FeatureSets:
    return FeatureSets(
        real=features(num, dim), subjects={"generated": features(num, dim, 1)}, spare=features(num_spare, dim, 2), block=block(num, dim)
    )


def by_name(found: Sequence[Measurement]) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in found}


def test_a_fingerprint_is_of_the_whole_protocol_whatever_is_claimed() -> None:
    made = Measurement(name="x", value=1, unit="1", better="lower", protocol={"a": 1, "b": {"c": [1, 2]}})
    assert made.protocol_fingerprint == content_hash({"b": {"c": [1, 2]}, "a": 1})[:16]
    stored = json.loads(made.model_dump_json())
    assert stored["protocol_fingerprint"] == made.protocol_fingerprint
    assert Measurement.model_validate({**stored, "protocol_fingerprint": "another"}) == Measurement.model_validate(stored) == made
    changed = made.model_copy(update={"protocol": {"a": 2}})
    assert changed.protocol_fingerprint == content_hash({"a": 2})[:16]
    assert Measurement(name="x", value=1, unit="1", better="lower").protocol_fingerprint is None


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[Measurement]:
    """All that a small run of mixed shapes measures of quality, on its grid too."""
    results = tmp_path_factory.mktemp("results")
    sizes = {"num_frames": 4, "height": 16, "width": 16, "num_train": 8, "num_val": 8, "num_test": 8}
    data = {"source": "worlds", "shapes": [[4, 16, 16], [4, 16, 32]], "margin": 0.06, "radius": [0.2, 0.25], **sizes}
    evaluation = {"extractors": ["random3d"], "num_samples": 8, "grid": [[4, 16, 24], [1, 16, 16]], "grid_samples": 8}
    cell = tiny_cell(data=data, batching={"policy": "pack", "voxel_budget": 160}, evaluation=evaluation)
    training = training_set(cell, results, CPU, Reporter("test"))
    reference = reference_set(cell, training, results, CPU, Reporter("test"))
    quality = Quality(cell, reference, CPU, lambda done, total, what: None, results)
    found = quality.measure(reference.held_out["val"], reference.reconstructed)
    backbone = build_backbone(cell, training).eval()
    points = grid.measure_grid(cell, backbone, reference, "random3d", results, CPU, lambda done, total, what: None)
    assert [point.reason for point in points] == [None, None]
    return [*found, *(measurement for point in points for measurement in point.measurements)]


def test_every_quality_number_has_a_protocol(measured: list[Measurement]) -> None:
    names = {measurement.name.partition("@")[0] for measurement in measured}
    assert {"fd_random3d", "kd_frame", "precision_random3d", "psnr_db", "framing_distance", "val_loss"} - names == {
        "kd_frame"
    }  # over frames there is but one
    assert [measurement.name for measurement in measured if not measurement.protocol] == []


def test_two_protocols_never_share_a_fingerprint(measured: list[Measurement]) -> None:
    known = defaultdict(set)
    for measurement in measured:
        known[measurement.protocol_fingerprint].add(json.dumps(measurement.protocol, sort_keys=True))
    assert max(len(protocols) for protocols in known.values()) == 1
    assert len(known) == len({protocol for protocols in known.values() for protocol in protocols})


def test_neighbours_are_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = by_name(feature_measurements(sets(20, 4, 0)))
    monkeypatch.setattr(engine, "NUM_NEIGHBOURS", 6)
    after = by_name(feature_measurements(sets(20, 4, 0)))
    for name in ("precision_own@20", "recall_own@20", "density_own@20", "coverage_own@20"):
        assert before[name].protocol_fingerprint != after[name].protocol_fingerprint
    assert before["fd_own@20"].protocol_fingerprint == after["fd_own@20"].protocol_fingerprint


def test_a_grids_loss_is_of_its_own_clips_and_precision() -> None:
    whole, half = (tiny_cell(precision=precision) for precision in ("fp32", "bf16"))
    marks = [loss_protocol(cell, clips, 4, "key") for cell in (whole, half) for clips in ("a", "b")]
    assert len({content_hash(mark) for mark in marks}) == 4


def test_the_validation_loss_is_taken_in_the_precision_of_the_cell() -> None:
    seen: list[torch.dtype] = []
    torch.manual_seed(0)
    backbone = Linear()
    backbone.mix.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    losses = {}
    for precision in ("fp32", "bf16"):
        losses[precision] = mean_loss(validation_losses(backbone, latent_set(4), 4, tiny_cell(precision=precision), CPU))
    assert set(seen[: len(seen) // 2]) == {torch.float32} and set(seen[len(seen) // 2 :]) == {torch.bfloat16}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02) and losses["bf16"] != losses["fp32"]


def test_real_clips_of_a_run_are_the_floor_of_all_others() -> None:
    given = sets(20, 4, 0)
    run = FeatureSets(real=given.real, subjects={"real": features(20, 4, 5), **given.subjects}, block=given.block)
    found = {(each.name, each.subject): each for each in feature_measurements(run)}
    for name in ("fd_own@20", "kd_own@20"):
        assert found[name, "generated"].floor == found[name, "real"].value and found[name, "real"].floor is None
        assert found[name, "generated"].floor_source == "measured against 20 other real clips"


@pytest.mark.parametrize(("num", "dim", "num_spare", "frechet", "kernel"), [
    (20, 4, 25, "measured against 20 other real clips", "measured against 20 other real clips"),
    (20, 4, 8, "expected of two sets of one Gaussian", "measured between two halves of the real clips, 14 each"),
    (20, 40, 8, "scaled to n by 1/n from two halves of the real clips, 14 each; low, as n is below 40", "measured between two halves"),
    (3, 40, 0, "none: too few real clips", "none: too few real clips"),
])  # fmt: skip
def test_a_floor_is_found_the_best_way_there_is(num: int, dim: int, num_spare: int, frechet: str, kernel: str) -> None:
    given = sets(num, dim, num_spare)
    found, every = by_name(feature_measurements(given)), np.concatenate([given.real, features(num_spare, dim, 2)])
    half = len(every) // 2
    for kind, said in ((FRECHET, frechet), (KERNEL, kernel)):
        value = found[f"{kind.prefix}own@{num}"]
        assert value.floor_source is not None and value.floor_source.startswith(said)
        if said.startswith("measured against"):
            assert value.floor == kind.distance(given.real, every[num : 2 * num])
        elif said.startswith("expected of"):
            assert value.floor == expected_floor(every, num, num)
        elif said.startswith("none"):
            assert value.floor is None
        else:
            scale = half / num if said.startswith("scaled") else 1
            assert value.floor == kind.distance(every[:half], every[half : 2 * half]) * scale


def test_the_bias_of_an_unknown_distance_is_not_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = DistanceKind(key="own", title="Own", distance=FRECHET.distance, canonical="ovd", prefix="od_")
    for module in (engine, protocol):
        monkeypatch.setattr(module, "distances", lambda: {"own": kind})
    given = sets(20, 40, 8)
    value = by_name(feature_measurements(given))["od_own@20"]
    assert value.floor_source == "measured between two halves of the real clips, 14 each; high, as these are fewer than 20"


def test_few_clips_have_a_reason_instead_of_an_interval(tmp_path: Path) -> None:
    value = by_name(feature_measurements(sets(5, 4, 0)))["fd_own@5"]
    assert (value.low, value.high) == (None, None) and value.interval == "none: 16 groups need as many clips"
    full = by_name(feature_measurements(sets(40, 4, 0)))
    assert full["fd_own@40"].interval == full["kd_own@40"].interval == "delete-group jackknife over clips, 16 groups, 95 %"
    assert full["fd_own_infinite@40"].low is not None and "kd_own_infinite@40" not in full
