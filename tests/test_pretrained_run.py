"""Public weights in a run: sampled as they are, tuned as a cell, never taken for those of a folder that has changed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.testing import assert_close

from bench.data.clips import Clips
from bench.data.latents.autoencoder import load_autoencoder, to_model
from bench.data.latents.config import PretrainedAutoencoder
from bench.data.progress import Reporter, silent
from bench.data.source import load_clips
from bench.meters import peak
from bench.records.artefacts import WEIGHTS
from bench.records.record import Record
from bench.records.store import latest
from bench.run.cell_run import CellRun
from bench.run.checks import check_cell, weights_digest
from bench.run.job import CellJob, PrepareJob
from bench.run.launch import _latest_final
from bench.run.preflight import prepare
from bench.run.watch import Watch
from bench.shapes import LatentSpec, Refusal
from bench.study.cell import Cell
from bench.study.matrix import NamedCell
from tests.checkpoints import AUTOENCODERS, save_checkpoint
from tests.tiny import tiny_cell

CPU = torch.device("cpu")
VIDEO = {"source": "worlds", "num_frames": 9, "height": 16, "width": 16, "num_train": 8, "num_val": 4, "num_test": 4, "seed": 0}
SVD, WAN = "UNetSpatioTemporalConditionModel", "WanTransformer3DModel"
OWNERS = {"AutoencoderKLTemporalDecoder": SVD, "AutoencoderKLWan": WAN, "AutoencoderKLCogVideoX": "CogVideoXTransformer3DModel"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save_checkpoint(name, root / name) for name in OWNERS.values()}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return load_clips(tiny_cell(data=VIDEO).data, tmp_path_factory.mktemp("cache"))


def cell_of(folder: Path, class_name: str, **changes: Any) -> Cell:
    """A cell of a checkpoint with its own autoencoder."""
    autoencoder = {"kind": "pretrained", "name": str(folder), "subfolder": "vae", "class_name": class_name, "statistics": "own"}
    fields: dict[str, Any] = {"backbone": f"baselines.pretrained:{folder}", "data": {**VIDEO, "num_frames": 5}, "autoencoder": autoencoder}
    return tiny_cell(**{**fields, "initialise": "pretrained", "objective": {"label_dropout": 0.0}, **changes})


def run(cell: Cell, results: Path, name: str = "c") -> Record:
    named = NamedCell(name=name, axes={}, cell=cell)
    (results / "m" / named.folder).mkdir(parents=True, exist_ok=True)
    CellRun(CellJob(matrix="m", results=results, label=name, cell=named), Reporter(name), lambda: False).run()
    record = latest(results / "m" / named.folder)
    assert record and record.status == "ok", record and record.reason
    return record


# --- autoencoders


@pytest.mark.parametrize("class_name", OWNERS)
def test_an_autoencoder_of_videos_has_the_scale_of_its_pipeline(
    class_name: str, checkpoints: dict[str, Path], clips: Clips, tmp_path: Path
) -> None:
    folder = checkpoints[OWNERS[class_name]]
    config = PretrainedAutoencoder(kind="pretrained", name=str(folder), subfolder="vae", class_name=class_name, statistics="own")
    stage = load_autoencoder(config, clips, tmp_path, CPU, silent)
    spec = stage.spec(0)
    frames = {"AutoencoderKLTemporalDecoder": 9, "AutoencoderKLWan": 3, "AutoencoderKLCogVideoX": 3}[class_name]
    stride = 2 if class_name == "AutoencoderKLTemporalDecoder" else 4
    assert (spec.latent_channels, spec.spatial_stride, spec.temporal_stride) == (4, stride, 1 if frames == 9 else 4)
    batch = to_model(clips.splits["val"].frames[:2])
    with torch.no_grad():
        latents = stage.encode(batch)
        assert latents.shape[1:] == (4, *spec.latent_shape((9, 16, 16))) and latents.shape[2] == frames
        assert_close(stage.encode(batch[1:])[0], latents[1], atol=1e-5, rtol=1e-5)  # clips are not mixed
        assert stage.decode(latents).shape == batch.shape
        raw = stage.raw_of(batch)
    fields = AUTOENCODERS[class_name]
    if class_name == "AutoencoderKLWan":
        mean, deviation = (torch.tensor(fields[key]).view(-1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
        assert_close(latents, (raw - mean) / deviation)
    else:
        assert_close(latents, raw * {"AutoencoderKLTemporalDecoder": 0.18215, "AutoencoderKLCogVideoX": 1.15258426}[class_name])


def test_measured_scale_and_own_scale_are_kept_apart(checkpoints: dict[str, Path], clips: Clips, tmp_path: Path) -> None:
    base: dict[str, Any] = {"kind": "pretrained", "name": str(checkpoints[WAN]), "subfolder": "vae", "class_name": "AutoencoderKLWan"}
    own, measured = (
        load_autoencoder(PretrainedAutoencoder(**base, statistics=statistics), clips, tmp_path, CPU, silent)
        for statistics in ("own", "measured")
    )
    assert own.key != measured.key and not torch.equal(own.scale, measured.scale)
    with torch.no_grad():
        latents = measured.encode(to_model(clips.splits["train"].frames[:]))
    assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-3, rtol=0)
    assert_close(latents.std(dim=(0, 2, 3, 4)), torch.ones(4), atol=1e-2, rtol=0)


def test_fields_that_nobody_uses_change_no_cell() -> None:
    old = PretrainedAutoencoder(kind="pretrained", name="x")
    assert set(old.model_dump(mode="json")) == {"kind", "name", "class_name", "revision"}
    assert not {"initialise", "shift"} & {*tiny_cell().model_dump(mode="json"), *tiny_cell().sampler.model_dump(mode="json")}


def test_a_leading_frame_takes_one_frame_more_than_a_multiple() -> None:
    spec = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=4, num_labels=0, frame_step=4)
    assert [spec.latent_shape((frames, 16, 8)) for frames in (1, 5, 17)] == [(1, 2, 1), (2, 2, 1), (5, 2, 1)]
    assert dataclasses.replace(spec, frame_step=8).latent_shape((9, 16, 8)) == (3, 2, 1)
    for frames, near in ((16, "13 or 17"), (4, "1 or 5"), (18, "17 or 21")):
        with pytest.raises(Refusal, match=f"frames {frames} are not 1 . a multiple of 4, as the autoencoder has it; use {near}"):
            spec.latent_shape((frames, 16, 8))


# --- cells


def test_weights_are_sampled_as_they_are(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is taken, samples are scored, the record says what it was not, and a changed folder is another contender."""
    monkeypatch.setitem(peak.SIDES, "cpu", 64)
    folder = shutil.copytree(checkpoints[SVD], tmp_path / "svd")
    cell = cell_of(folder, "AutoencoderKLTemporalDecoder", budget={"steps": 0})
    record = run(cell, tmp_path)
    assert record.training and record.training.num_steps == 0 and record.measurement("train_steps", "trained").value == 0  # type: ignore[union-attr]
    assert record.measurement("fd_random3d@4") and record.measurement("val_loss") and not record.measurement("train_clips_per_s")
    assert "untrained" not in record.artefacts and record.backbone and record.backbone.weights == weights_digest(cell)
    place = tmp_path / "m" / NamedCell(name="c", axes={}, cell=cell).folder
    kept = safetensors.torch.load_file(place / WEIGHTS)
    given = safetensors.torch.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert_close(kept["model.conv_in.weight"], given["conv_in.weight"], atol=0, rtol=0)
    assert _latest_final(place, cell) == record
    given["conv_in.weight"] += 1
    safetensors.torch.save_file(given, folder / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    assert _latest_final(place, cell) is None


def test_a_tuned_cell_begins_where_the_checkpoint_is(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peak.SIDES, "cpu", 64)
    evaluation = {"extractors": ["random3d"], "num_samples": 0}
    optimizer = {"warmup_steps": 0, "ema_decay": 0.0, "learning_rate": 1e-4}
    changes: dict[str, Any] = {"budget": {"steps": 2}, "evaluation": evaluation, "optimizer": optimizer, "objective": {}}
    cell = cell_of(checkpoints[WAN], "AutoencoderKLWan", **changes)
    tuned = run(cell, tmp_path)
    assert tuned.training and tuned.training.num_steps == 2 and all(canary.passed for canary in tuned.canaries)
    random = cell.model_copy(update={"initialise": "random"})
    assert tuned.backbone and tuned.backbone.weights == weights_digest(cell) != weights_digest(random)
    assert tuned.fingerprint != random.fingerprint()
    start = safetensors.torch.load_file(checkpoints[WAN] / "transformer" / "diffusion_pytorch_model.safetensors")
    weights = safetensors.torch.load_file(tmp_path / "m" / NamedCell(name="c", axes={}, cell=cell).folder / WEIGHTS)
    moved = float((weights["model.blocks.0.ffn.net.0.proj.weight"] - start["blocks.0.ffn.net.0.proj.weight"]).abs().max())
    assert 0 < moved < 1e-3


def refused(cell: Cell, results: Path) -> str:
    """What `run` says of a cell before anything is built."""
    named = NamedCell(name="c", axes={}, cell=cell)
    with pytest.raises(Refusal) as caught:
        check_cell(cell)
        study: Any = dataclasses.make_dataclass("S", ["cells", "matrix"])((named,), None)
        study.model_copy = lambda update: study
        job = PrepareJob.model_construct(label="p", matrix="m", results=results, study=study, waiting=(), until="validated")
        prepare(job, Reporter("p"), Watch(), {})
    return str(caught.value)


def test_what_does_not_go_together_is_refused_before_anything_trains(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    svd, wan = checkpoints[SVD], checkpoints[WAN]
    own = cell_of(svd, "AutoencoderKLTemporalDecoder", budget={"steps": 0})
    plain = {**own.autoencoder.model_dump(mode="json"), "statistics": "measured"}
    line = refused(cell_of(svd, "AutoencoderKLTemporalDecoder", budget={"steps": 0}, autoencoder=plain), tmp_path)
    assert "give autoencoder.statistics: own" in line
    assert "makes what a caption says" in refused(cell_of(wan, "AutoencoderKLWan", budget={"steps": 0}), tmp_path)
    assert "needs a public checkpoint" in refused(tiny_cell(initialise="pretrained"), tmp_path)
    data = {**VIDEO, "num_frames": 6}
    assert "frames 6 are not 1 + a multiple of 4" in refused(cell_of(wan, "AutoencoderKLWan", data=data), tmp_path)
    with pytest.raises(ValueError, match="these are random; give initialise: pretrained"):
        tiny_cell(budget={"steps": 0})
    with pytest.raises(ValueError, match=r"sampler\.shift 3 is for rectified_flow"):
        tiny_cell(objective={"name": "v_prediction"}, sampler={"solver": "ddim", "shift": 3.0})
    with pytest.raises(ValueError, match="use ddp or none"):
        tiny_cell(initialise="pretrained", parallel={"kind": "fsdp"})


def test_a_shift_moves_steps_to_where_the_noise_is() -> None:
    from bench.training.sampling import SCHEDULERS

    scheduler = SCHEDULERS["rectified_flow", "euler"](3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 4, 4))
    even = np.linspace(1, 1 / 4, 4)
    assert_close(scheduler.sigmas[:-1].double(), torch.from_numpy(3 * even / (1 + 2 * even)), atol=1e-6, rtol=1e-6)
