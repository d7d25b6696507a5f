"""Data in shards from end to end: a cell on tar shards and latents in shards, draws that stay in their window, and a resume amid it."""

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from test_data_webdataset import shards

from bench.data.latents import latents as latents_module
from bench.data.latents.latents import LatentSet
from bench.data.policy.order import drawn_clips, window_clips
from bench.data.progress import Reporter
from bench.data.shards import Sharded
from bench.meters import peak
from bench.records.record import Record
from bench.records.store import latest
from bench.run.cell_run import CellRun
from bench.run.job import CellJob
from bench.study.matrix import NamedCell
from bench.training.draws import Drawer
from bench.training.trainer import Interrupted
from tests.tiny import linear_trainer, tiny_cell

WINDOWED = {"batch_size": 2, "shuffle_window": 8}


def sharded(folder: Path, num: int, per_shard: int) -> Sharded:
    """Latents whose values say which item they are."""
    paths = [folder / f"{first}.npy" for first in range(0, num, per_shard)]
    for first, path in zip(range(0, num, per_shard), paths, strict=True):
        items = np.arange(first, min(first + per_shard, num), dtype=np.float32)
        np.save(path, np.broadcast_to(items[:, None, None, None, None], (len(items), 4, 1, 2, 2)) / num)
    return Sharded(paths, [min(per_shard, num - first) for first in range(0, num, per_shard)], (4, 1, 2, 2), np.float32)


def test_draws_from_shards_are_those_of_one_array(tmp_path: Path) -> None:
    data = sharded(tmp_path, 30, 7)
    whole = LatentSet(latents=data[:], labels=np.arange(30) % 3, null_label=3)
    parts = LatentSet(latents=data, labels=np.arange(30) % 3, null_label=3)
    drawers = [Drawer(tiny_cell(batching=WINDOWED), each, None, torch.device("cpu")) for each in (whole, parts)]
    for index in range(40):
        one, other = (drawer.draw(drawer.stream.batch(index)) for drawer in drawers)
        assert all(torch.equal(a, b) for a, b in zip(one.targets, other.targets, strict=True))


class Watched:
    """Latents that remember what was read."""

    def __init__(self, latents: np.ndarray):
        self.latents, self.shape, self.read = latents, latents.shape, list[int]()

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> np.ndarray:
        self.read.append(index)
        return self.latents[index]


def test_no_read_leaves_its_window(tmp_path: Path) -> None:
    latents: Any = Watched(np.zeros((100, 4, 1, 2, 2), np.float32))
    drawer = Drawer(
        tiny_cell(batching={"batch_size": 5, "shuffle_window": 20}),
        LatentSet(latents=latents, labels=None, null_label=0),
        None,
        torch.device("cpu"),
    )
    for index in range(60):  # three epochs, four batches a window
        drawer.draw(drawer.stream.batch(index))
    for window in range(15):
        allowed = window_clips(0, 100, window // 5, window % 5, 20)
        assert sorted(latents.read[20 * window : 20 * window + 20]) == sorted(allowed.tolist())
    assert latents.read == drawn_clips(0, 100, 0, 300, 20)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_training_on_shards_resumes_amid_a_window(tmp_path: Path, stop: int) -> None:
    (tmp_path / "latents").mkdir()
    data = LatentSet(latents=sharded(tmp_path / "latents", 9, 4), labels=np.arange(9) % 3, null_label=3)
    cell = tiny_cell(batching={"batch_size": 2, "shuffle_window": 4}, budget={"steps": 8})
    whole = linear_trainer(cell, tmp_path / "whole", train=data).train()
    permuted = linear_trainer(tiny_cell(budget={"steps": 8}), tmp_path / "permuted", train=data).train()
    half = linear_trainer(cell, tmp_path / "half", train=data, should_stop=lambda: half.state.step == stop)
    with contextlib.suppress(Interrupted):
        half.train()
    resumed = linear_trainer(cell, tmp_path / "half", train=data)
    assert resumed.state.step == stop
    assert resumed.train().loss == whole.loss != permuted.loss


def test_a_cell_on_tar_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of a cell, and again from its caches: the same numbers."""
    monkeypatch.setitem(peak.SIDES, "cpu", 64)
    make = latents_module.cached_latents
    with mock.patch("bench.run.stages.cached_latents", lambda *given: make(*given, shard_bytes=1024)):
        records = [_run(tmp_path, name) for name in ("first", "again")]
    first, again = records
    assert len(list((tmp_path / "cache").rglob("shard-*.npy"))) > 4
    assert first.data and first.ledger and first.training and again.training
    assert first.data.num_clips == {"train": first.ledger.num_clips, "val": 4, "test": 4} and first.ledger.num_clips > 15
    assert first.data.label_names == ("0", "1", "2") and "tar shards" in first.data.notes[0]
    assert (first.ledger.pixels.used, first.ledger.steps_per_epoch) == (1.0, first.ledger.num_clips / 2)
    assert first.training.loss == again.training.loss
    assert first.cell.batching.shuffle_window == 8 and first.fingerprint == again.fingerprint


def _run(results: Path, name: str) -> Record:
    data = {"source": "webdataset", "path": str(shards(results / "s")), "num_frames": 2, "height": 8, "width": 8, "held_out": 0.2}
    data |= {"num_val": 4, "num_test": 4, "num_classes": 3}
    cell = NamedCell(
        name=name,
        axes={},
        cell=tiny_cell(
            backbone="tests.small:DiT-XXS/2",
            data=data,
            batching=WINDOWED,
            autoencoder={"kind": "trained", "num_steps": 2, "width": 8, "spatial_stride": 2, "batch_size": 2},
        ),
    )
    job = CellJob(matrix=name, results=results, label=name, cell=cell)
    folder = results / name / cell.folder
    folder.mkdir(parents=True)
    CellRun(job, Reporter(name), lambda: False).run()
    record = latest(folder)
    assert record and record.status == "ok", record and record.reason
    return record
