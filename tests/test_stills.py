"""Still images beside clips: how many, which, and that clips are drawn as they are without any."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.commands.audit.account import accounts
from bench.commands.audit.subject import FolderOptions, of_matrix
from bench.commands.audit.tables import policies
from bench.data.frozen import flatten
from bench.data.policy.batches import Batch, BatchStream
from bench.data.policy.config import Batching
from bench.data.policy.contract import Rules
from bench.data.policy.fitting import fit
from bench.data.policy.ledger import ledger
from bench.data.policy.stills import first_of_clips, shows_stills, still_steps
from bench.data.policy.table import POLICIES
from bench.data.progress import Reporter
from bench.data.repeated import Repeated
from bench.records.store import latest
from bench.report.page.pipeline import ledger_table
from bench.run.cell_run import CellRun
from bench.run.checks import check_cell
from bench.run.job import CellJob
from bench.shapes import LatentSpec, Refusal, Shape, num_voxels
from bench.study.cell import Cell
from bench.study.matrix import NamedCell, load_study
from bench.training import canary
from bench.training.draws import Drawer
from bench.training.trainer import Interrupted, Trainer
from tests.tiny import Linear, cell_fields, latent_set, linear_trainer, tiny_cell

SHAPE: Shape = (4, 6, 2)
NUM_CLIPS, BATCH_SIZE = 7, 3
CPU = torch.device("cpu")


def stream(stills: float, seed: int = 0, window: int | None = None) -> BatchStream:
    return BatchStream([SHAPE] * NUM_CLIPS, Batching(batch_size=BATCH_SIZE, stills=stills, shuffle_window=window), seed)


def batches(of: BatchStream, num: int, *, stills: bool) -> list[Batch]:
    """The first of one kind."""
    found: list[Batch] = []
    step = 0
    while len(found) < num:
        batch = of.batch(step)
        found += [batch] if (batch.frames is not None) == stills else []
        step += 1
    return found


@pytest.mark.parametrize("percent", [0, 1, 29, 30, 57, 60, 99])
def test_the_share_is_exact_after_any_number_of_steps(percent: int) -> None:
    num = 0
    for step in range(1000):
        assert still_steps(percent / 100, step) == num == percent * step // 100
        num += shows_stills(percent / 100, step)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_step_of_stills_has_the_voxels_of_a_step_of_clips(share: float) -> None:
    made = stream(share)
    voxels = {True: 0, False: 0}
    for step in range(50):
        batch = made.batch(step)
        shapes = made.shapes_of(batch)
        assert len(shapes) == len(batch.items) and sum(map(num_voxels, shapes)) == BATCH_SIZE * num_voxels(SHAPE)
        assert set(shapes) == ({SHAPE} if batch.frames is None else {(1, *SHAPE[1:])})
        voxels[batch.frames is not None] += sum(map(num_voxels, shapes))
    assert voxels[True] / sum(voxels.values()) == share


@pytest.mark.parametrize("window", [None, 4])
def test_clips_are_those_of_a_run_without_stills(window: int | None) -> None:
    plain = [stream(0, window=window).batch(step) for step in range(20)]
    for share in (0.3, 0.6):
        assert batches(stream(share, window=window), 20, stills=False) == plain


@pytest.mark.parametrize("window", [None, 4])
def test_a_still_of_every_clip_before_a_second_of_any_and_frames_by_chance(window: int | None) -> None:
    found = batches(stream(0.6, window=window), 35, stills=True)
    items = [item for batch in found for item in batch.items]
    for first in range(0, len(items), NUM_CLIPS):
        assert sorted(items[first : first + NUM_CLIPS]) == list(range(NUM_CLIPS))
    frames = [frame for batch in found for frame in batch.frames or ()]
    shown = {(item, frame) for item, frame in zip(items, frames, strict=True)}
    assert len(frames) == 35 * BATCH_SIZE * SHAPE[0] and shown == {(item, frame) for item in range(NUM_CLIPS) for frame in range(SHAPE[0])}
    draws = [batch.first_draw + place for batch in found for place in range(len(batch.items))]
    assert draws == list(range(draws[0], draws[0] + len(draws))) and draws[0] > 10**12  # of which no clip ever has one
    assert batches(stream(0.3, window=window), 35, stills=True) == found != batches(stream(0.6, seed=1, window=window), 35, stills=True)
    again = stream(0.6, window=window)
    assert [again.batch(step) for step in (19, 2, 6)] == [stream(0.6, window=window).batch(step) for step in (19, 2, 6)]


def test_a_still_is_a_frame_of_its_clip_with_noise_of_its_own() -> None:
    cell, data = tiny_cell(batching={"batch_size": 2, "stills": 0.5}), latent_set()
    drawer = Drawer(cell, data, None, CPU)
    clips, stills = drawer.stream.batch(0), drawer.stream.batch(1)
    assert clips.frames is None and stills.frames is not None
    drawn = drawer.draw(stills)
    times = drawn.timesteps.view(-1, 1, 1, 1)
    for clip, target, time, item, frame in zip(drawn.latents, drawn.targets, times, stills.items, stills.frames, strict=True):
        # Rectified flow: a noised clip minus time times its velocity is the clip.
        assert torch.allclose(clip - time * target, torch.from_numpy(np.array(data.latents[item]))[:, frame : frame + 1], atol=1e-5)
    assert len({float(clip.sum()) for clip in drawn.latents}) == len({float(time) for time in times}) == 6
    part = drawer.draw(stills, [4, 1], 3)
    assert all(torch.equal(clip, drawn.latents[place]) for place, clip in zip((4, 1), part.latents, strict=True))
    works = [each.work(num_voxels, num_voxels) for each in (drawer.draw(clips), drawn)]
    assert works == [(2, 6, 2 * 24, 2 * 24, 2 * 24), (6, 6, 6 * 8, 6 * 8, 6 * 8)]  # clips, frames, voxels, tokens, FLOPs


@pytest.mark.parametrize("stop", [2, 5])
def test_training_resumes_amid_stills(tmp_path: Path, stop: int) -> None:
    cell = tiny_cell(batching={"batch_size": 2, "stills": 0.3}, budget={"steps": 8})
    whole = linear_trainer(cell, tmp_path / "whole", flops_of=num_voxels).train()
    plain = linear_trainer(tiny_cell(budget={"steps": 8}), tmp_path / "plain", flops_of=num_voxels).train()
    half = linear_trainer(cell, tmp_path / "half", should_stop=lambda: half.state.step == stop)
    with contextlib.suppress(Interrupted):
        half.train()
    assert linear_trainer(cell, tmp_path / "half").train().loss == whole.loss
    assert whole.loss[:3] == plain.loss[:3] and whole.loss[3] != plain.loss[3]
    assert whole.step_work[3][0] == 6 and whole.step_work[3][1:] == plain.step_work[3][1:]  # 6 stills for 2 clips; else as much


def test_the_canary_resumes_amid_stills(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(cell: Cell, *given: Any, **options: Any) -> Trainer:
        seen.append(cell.batching.stills)
        return Trainer(cell, *given, **options)

    monkeypatch.setattr(canary, "Trainer", watched)
    cell = tiny_cell(batching={"batch_size": 2, "stills": 0.3})
    assert canary.resumed_against_uninterrupted(cell, Linear(), latent_set(), latent_set(4, seed=1), CPU) == 0
    assert seen == [0.3] * 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_storage_is_metered_in_a_step_of_clips(tmp_path: Path, share: float) -> None:
    trainer = linear_trainer(tiny_cell(batching={"batch_size": 2, "stills": share}), tmp_path)
    assert trainer.metered == first_of_clips(share, 1) >= 1
    assert trainer.drawer.stream.batch(trainer.metered).frames is None


def test_the_ledger_by_hand() -> None:
    """Of 10 clips of 4 frames at 30 %, an epoch of 40 frames shows 12 as stills."""
    spec = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=0)
    rules = Rules(fit=POLICIES.find("crop").fit, nothing="", one_shape=(4, 16, 16))
    for shapes in ([(4, 16, 16)] * 10, Repeated((4, 16, 16), 10)):
        found = ledger(shapes, fit(shapes, rules), Batching(batch_size=2, stills=0.3), spec, seed=0)
        assert (found.stills, found.steps_per_epoch) == (0.3, 5) and math.isclose(found.stills_per_epoch, 12)
        plain = ledger(shapes, fit(shapes, rules), Batching(batch_size=2), spec, seed=0)
        assert dataclasses.replace(found, stills=0.0, stills_per_epoch=0.0) == plain
    table = ledger_table({"some": [flatten(dataclasses.asdict(found))], "none": [flatten(dataclasses.asdict(plain))]})
    assert {row[0]: row[1:] for row in table.rows if "still" in row[0]} == {
        "steps that show still images": ("30.0 %", "0 %"),
        "still images an epoch": ("12", "0"),
    }


def test_an_audit_says_how_many_and_counts_their_steps(tmp_path: Path) -> None:
    fields = cell_fields()
    path = tmp_path / "m.yaml"
    path.write_text(json.dumps({"description": "x", "axes": {"batching.stills": [0, 0.25]}, "seeds": [0], "defaults": fields}))
    study = load_study(str(path))
    subject = of_matrix(study, FolderOptions(**dict.fromkeys(FolderOptions.__dataclass_fields__)), tmp_path, lambda *given: None)
    plain, stills = accounts(subject)
    assert [len(batch) for batch in plain.batches] == [2]
    assert sorted(len(batch) for batch in stills.batches) == [2] * 75 + [8] * 25  # 2 clips of 4 frames, or 8 stills
    result: Any = type("Found", (), {"policies": [plain.policy, stills.policy]})
    table = policies(result).table
    assert table is not None
    assert {row[0]: row[1:] for row in table.rows if "still" in row[0]} == {
        "steps that show still images": ("0", "25.0%"),
        "still images an epoch": ("0", "8.00"),
    }


def test_a_cell_from_end_to_end(tmp_path: Path) -> None:
    """With the canaries: a resume amid stills among them."""
    fields = {"backbone": "tests.small:UNet-XXS", "batching": {"batch_size": 2, "stills": 0.4}, "budget": {"latent_voxels": 2 * 4 * 16 * 5}}
    cell = NamedCell(name="stills", axes={}, cell=tiny_cell(**fields))
    job = CellJob(matrix="m", results=tmp_path, label="stills", cell=cell)
    folder = tmp_path / "m" / cell.folder
    folder.mkdir(parents=True)
    CellRun(job, Reporter("stills"), lambda: False).run()
    record = latest(folder)
    assert record and record.status == "ok", record and record.reason
    assert record.ledger and record.training and record.ledger.stills == 0.4
    assert [work[0] for work in record.training.step_work] == [2, 2, 8, 2, 8] and {work[2] for work in record.training.step_work} == {128}
    assert {each.name for each in record.canaries if each.passed} >= {
        "resumed equals uninterrupted",
        "one frame equals the image twin",
    }


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"batching": {"voxel_budget": 64, "stills": 0.3}},
            r"batching.stills 0.3 is for batches of so many clips .* give batch_size, or 0",
        ),
        ({"batching": {"batch_size": 2, "stills": 1.0}}, r"batching.stills: Input should be less than 1"),
        ({"batching": {"batch_size": 2, "stills": -0.1}}, r"batching.stills: Input should be greater than or equal to 0"),
        ({"budget": {"samples": 10}}, r"budget.samples counts a still as much as a clip of 4 frames; use one of steps, latent_voxels, "),
        ({"objective": {"known_frames": 2}}, r"batching.stills 0.3 leaves nothing to predict after objective.known_frames 2; use 0"),
        ({"data": {**cell_fields()["data"], "num_frames": 1}}, r"data.num_frames is 1: all are stills; use 0"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    fields = cell_fields(**{"batching": {"batch_size": 2, "stills": 0.3}, **changes})
    path = tmp_path / "m.yaml"
    path.write_text(json.dumps({"description": "x", "axes": {"backbone": [fields["backbone"]]}, "seeds": [0], "defaults": fields}))
    with pytest.raises(Refusal, match=line):
        load_study(str(path))


def test_a_backbone_that_takes_no_single_frame_is_refused() -> None:
    plain, with_stills = (tiny_cell(backbone="dit:DiT-XS/2t2", batching={"batch_size": 2, "stills": share}) for share in (0, 0.3))
    check_cell(plain.model_copy(update={"evaluation": plain.evaluation.model_copy(update={"extractors": ("motion",)})}))
    with pytest.raises(Refusal, match="DiT needs latent frames divisible by 2, got 1"):
        check_cell(with_stills.model_copy(update={"evaluation": plain.evaluation.model_copy(update={"extractors": ("motion",)})}))


def test_cells_without_stills_are_what_they_were() -> None:
    plain, none, some = (tiny_cell(batching={"batch_size": 2, **each}) for each in ({}, {"stills": 0}, {"stills": 0.3}))
    assert "stills" not in plain.model_dump_json() and plain.fingerprint() == none.fingerprint() != some.fingerprint()


def test_graphs_of_two_shapes_are_none(tmp_path: Path) -> None:
    assert Linear().ragged
    assert linear_trainer(tiny_cell(), tmp_path / "plain")._one_shape
    assert not linear_trainer(tiny_cell(batching={"batch_size": 2, "stills": 0.3}), tmp_path / "stills")._one_shape
