"""Runs of a matrix with held-out cells whose losses are a law's: nothing trains."""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_factory import environment

from bench.commands import foresee
from bench.data.files import now
from bench.records.record import BackboneFacts, Branch, Measurement, Record, Training
from bench.records.store import latest, write_record, write_run
from bench.run import launch
from bench.run.size.resolve import BackboneSize
from bench.study.forecast import clips_at, family_of, parts_of
from bench.study.matrix import NamedCell, Study, load_study
from tests.commands import write_matrix
from tests.tiny import cell_fields

SIZES = {"UNet": (20_000, 60_000, 200_000, 600_000), "DiT/2": (30_000, 90_000, 250_000, 800_000)}
NAMES = {
    family: [f"{name}{{{field}: {place + 1}}}" for place in range(4)]
    for family, name, field in (("UNet", "tests.small:UNet-XXS", "num_res_blocks"), ("DiT/2", "tests.small:DiT-XXS/2", "depth"))
}
HELD = [names[-1] for names in NAMES.values()]
Loss = Callable[[str, int, int, int], float]  # family, parameters, clips, seed


def steady(family: str, params: int, clips: int, seed: int) -> float:
    """A law, the same for both, and 1 % of luck."""
    luck = float(np.random.default_rng([seed, params, clips]).standard_normal())
    return (0.2 + 0.3 * (params / 1e5) ** -0.4 + 0.3 * (clips / 400) ** -0.5) * math.exp(0.01 * luck)


def matrix_of(folder: Path, **changes: Any) -> Path:
    """A matrix of four sizes of two backbones, the largest held out."""
    fields: dict[str, Any] = {
        "claim": "scaling",
        "axes": {"backbone": [*NAMES["UNet"], *NAMES["DiT/2"]]},
        "match": None,
        "seeds": [0, 1],
        "forecast": {"held_out": HELD, "about": "DiT/2"},
    }
    own = {key: changes.pop(key) for key in ("budget", "branches", "optimizer", "batching", "data") if key in changes}
    defaults = cell_fields(
        **{
            "budget": {"samples": 400},
            "branches": [0.25, 0.5],
            "optimizer": {"schedule": "cooldown", "warmup_steps": 2},
            "evaluation": {"extractors": ["random3d"], "num_samples": 0, "untrained": False},
        }
        | own
    )
    del defaults["backbone"]
    return write_matrix(folder, defaults=defaults, **(fields | changes))


def study_of(folder: Path, **changes: Any) -> Study:
    return load_study(str(matrix_of(folder, **changes)))


def params_of(backbone: str) -> int:
    family = family_of(backbone).partition(":")[2]
    return SIZES[family][NAMES[family].index(backbone)]


def size_of(backbone: str) -> BackboneSize:
    return BackboneSize(params=params_of(backbone), flops_per_clip=100 * params_of(backbone), latent_voxels=64)


def record_of(study: Study, named: NamedCell, results: Path, prediction: str | None, loss: Loss) -> Record:
    """A finished attempt."""
    cell, size = named.cell, size_of(named.cell.backbone)
    ends = []
    for part in parts_of(cell):
        clips = clips_at(cell, part, size.latent_voxels, size.flops_per_clip)
        value = loss(family_of(cell.backbone).partition(":")[2], size.params, clips, cell.seed)
        ends.append((part, clips, {f"{(index + 0.5) / 8:g}": value for index in range(8)}))
    *branches, (_, clips, last) = ends
    steps = clips // 2
    return Record(
        matrix=study.name,
        name=named.name,
        fingerprint=cell.fingerprint(),
        cell=cell,
        asked=launch._jobs(study, results, prediction=prediction)[named.name].asked,
        tuning=named.tuning,
        attempt=1,
        status="ok",
        started_at=now(),
        ended_at=now(),
        environment=environment(),
        backbone=BackboneFacts(
            num_params=size.params, flops_per_clip=size.flops_per_clip, tokens_per_clip=64, peak_flop_per_s=1e9, latent_shape=(4, 4, 4, 4)
        ),
        training=Training(
            num_steps=steps,
            num_warmup_steps=0,
            num_samples=clips,
            loss=[1.0] * steps,
            step_time_s=[0.1] * steps,
            step_work=[(2, 8, 128, 128, 2 * size.flops_per_clip)] * steps,
            validation_by_timestep=last,
            branches=[
                Branch(
                    part=part,
                    step=num // 2,
                    num_samples=num,
                    latent_voxels=64 * num,
                    forward_flops=num * size.flops_per_clip,
                    loss_by_timestep=losses,
                )
                for part, num, losses in branches
            ],
        ),
        measurements=[Measurement(name="val_loss", value=next(iter(last.values())), unit="1", better="lower", protocol={"clips": 4})],
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Cells are not trained: their losses are what a function says. The names of the cells that every pass trained."""

    def install(loss: Loss = steady) -> list[list[str]]:
        passes: list[list[str]] = []

        def run_study(
            study: Study,
            results: Path,
            say: Any,
            command: str,
            launcher: Any,
            *,
            later: Collection[str] = (),
            prediction: str | None = None,
        ) -> list[Record]:
            new, records = [], []
            for named in study.cells:
                folder = results / study.name / named.folder
                if (record := latest(folder)) is None and named.name not in later:
                    new.append(named.name)
                    record = record_of(study, named, results, prediction, loss)
                    write_record(folder, record)
                records += [record] if record else []
            passes.append(new)
            write_run(results, launch._snapshot(study, now(), command))
            return records

        monkeypatch.setattr(foresee, "run_study", run_study)
        monkeypatch.setattr(foresee, "ready", lambda study, results, say, train, minutes, launcher: study)
        monkeypatch.setattr(foresee, "check_study", lambda study, results: None)
        monkeypatch.setattr(
            foresee, "sizes_of", lambda cells, matrix, results, launcher: {cell.backbone: size_of(cell.backbone) for cell in cells}
        )
        return passes

    return install
