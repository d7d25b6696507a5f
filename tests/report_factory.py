"""Invented records for the tests of the report. None of these numbers was measured; nothing here is ever committed as a result."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bench.records import store
from bench.records.environment import Environment
from bench.records.record import Canary, GridPoint, Measurement, Record, RunSnapshot, Sampling, Training, ValidationPoint
from bench.study.cell import Cell

PROTOCOL = {
    "extractor": "random3d",
    "weights": "ab12",
    "num_real": 64,
    "num_fake": 64,
    "resize": {"to": 24, "antialias": True},
    "dtype": "float32",
}
NAMES = {"baselines:UNet-XS": "UNet-XS", "dit:DiT-XS/2": "DiT-XS-2"}

# contender -> measurement -> mean; a seed moves it by `spread` of itself
MEANS: dict[str, dict[str, float]] = {
    "baselines:UNet-XS": {
        "fd_random3d@64": 31.0,
        "kvd@64": 0.82,
        "val_loss": 0.471,
        "one_object_rate": 0.875,
        "train_clips_per_s": 25.4,
        "train_frames_per_s": 254.0,
        "step_time_s": 0.944,
        "sample_clips_per_s": 3.2,
        "train_wall_time_s": 119.9,
        "peak_rss_bytes": 1.31e9,
    },
    "dit:DiT-XS/2": {
        "fd_random3d@64": 18.5,
        "kvd@64": 0.31,
        "val_loss": 0.256,
        "one_object_rate": 0.953,
        "train_clips_per_s": 97.1,
        "train_frames_per_s": 971.0,
        "step_time_s": 0.247,
        "sample_clips_per_s": 11.4,
        "train_wall_time_s": 120.0,
        "peak_rss_bytes": 1.12e9,
    },
}
EXACT: dict[str, dict[str, float]] = {
    "baselines:UNet-XS": {"num_params": 1_312_772, "flops_per_clip": 2.013e9, "peak_storage_bytes": 701_234_176, "train_steps": 127},
    "dit:DiT-XS/2": {"num_params": 1_335_940, "flops_per_clip": 0.486e9, "peak_storage_bytes": 233_111_552, "train_steps": 485},
}
DIRECTION = {
    "kvd": "lower",
    "fd_random3d": "lower",
    "val_loss": "lower",
    "one_object_rate": "higher",
    "num_params": "lower",
    "step_time_s": "lower",
}
UNITS = {
    "train_clips_per_s": "clips/s",
    "sample_clips_per_s": "clips/s",
    "train_frames_per_s": "frames/s",
    "step_time_s": "s",
    "train_wall_time_s": "s",
    "peak_rss_bytes": "B",
    "peak_storage_bytes": "B",
    "flops_per_clip": "FLOP",
}


def cell(backbone: str, seed: int) -> Cell:
    """A cell as the quick matrix has it."""
    return Cell.model_validate(
        {
            "backbone": backbone,
            "data": {"source": "worlds", "num_frames": 10, "height": 24, "width": 24, "num_train": 200, "num_val": 64, "num_test": 64},
            "batching": {"policy": "crop", "batch_size": 24},
            "autoencoder": {"kind": "trained", "num_steps": 500},
            "budget": {"seconds": 120},
            "seed": seed,
        }
    )


def better(name: str) -> str:
    """Direction of an invented measurement."""
    base = name.partition("@")[0]
    if base in DIRECTION:
        return DIRECTION[base]
    return "higher" if base.endswith(("_per_s", "_rate")) else "none" if base in ("train_steps", "train_flops") else "lower"


def measurements(backbone: str, seed: int, spread: float) -> list[Measurement]:
    """A plausible list."""
    rng = np.random.default_rng([seed, len(backbone)])
    found = []
    for name, mean in MEANS[backbone].items():
        value = float(mean * (1 + spread * rng.standard_normal()))
        quality = "@" in name or name in ("val_loss", "one_object_rate")
        block: dict[str, Any] = {"protocol": PROTOCOL} if quality else {}
        if "@" in name:
            block |= {"low": 0.88 * value, "high": 1.12 * value, "interval": "delete-group jackknife, 16 groups"}
        found.append(Measurement(name=name, value=value, unit=UNITS.get(name, "1"), better=better(name), **block))  # type: ignore[arg-type]
        if "@" in name:
            for subject, factor in (("untrained", 9.0), ("reconstruction", 0.12), ("real", 0.07)):
                number = factor * MEANS["baselines:UNet-XS"][name]
                found.append(found[-1].model_copy(update={"subject": subject, "value": number, "low": None, "high": None}))
    for name, value in EXACT[backbone].items():
        found.append(Measurement(name=name, value=value, unit=UNITS.get(name, "1"), better=better(name)))  # type: ignore[arg-type]
    flops = 3 * 24 * EXACT[backbone]["flops_per_clip"] * EXACT[backbone]["train_steps"]
    found.append(Measurement(name="train_flops", value=flops, unit="FLOP", better="none"))
    found.append(Measurement(name="psnr_db", subject="reconstruction", value=30.1, unit="dB", better="higher"))
    found.append(Measurement(name="hue_drift", value=0.031 * (1 + seed), unit="rad", better="lower"))  # a name no table knows
    return found


def training(backbone: str, seed: int) -> Training:
    """A falling loss."""
    num_steps = int(EXACT[backbone]["train_steps"])
    rng = np.random.default_rng([seed, num_steps])
    final, time = MEANS[backbone]["val_loss"], MEANS[backbone]["step_time_s"]
    course = final + (1.1 - final) * np.exp(-np.arange(num_steps) / (num_steps / 6))
    points = np.linspace(num_steps // 8, num_steps, 8).astype(int)
    return Training(
        num_steps=num_steps,
        num_samples=24 * num_steps,
        wall_time_s=num_steps * time,
        loss=(course * (1 + 0.12 * rng.standard_normal(num_steps))).tolist(),
        step_time_s=(time * (1 + 0.02 * rng.random(num_steps))).tolist(),
        data_time_s=[0.01 * time] * num_steps,
        num_warmup_steps=5,
        validation=[
            ValidationPoint(
                step=step, wall_time_s=step * time, loss=float(course[step - 1] * (1 + 0.01 * rng.standard_normal())), num_clips=16
            )
            for step in points
        ],
        validation_by_timestep={"0.0625": 0.9, "0.9375": 0.1},
        grad_norm=[1.0] * num_steps,
    )


def environment(**changes: Any) -> Environment:
    """An invented machine."""
    fields: dict[str, Any] = {
        "machine": "x86_64",
        "system": "Linux",
        "python": "3.11.9",
        "cpu": "Invented CPU @ 2.00GHz",
        "num_cpus": 2,
        "memory_bytes": 8 * 2**30,
        "gpus": [],
        "packages": {"torch": "2.13.0", "diffusers": "0.42.1"},
        "num_threads": 2,
        "device": "cpu",
    }
    return Environment.model_validate(fields | changes)


def record(backbone: str, seed: int, *, spread: float = 0.03, **changes: Any) -> Record:
    """A finished attempt; `changes` replace its fields."""
    made = cell(backbone, seed)
    fields: dict[str, Any] = {
        "matrix": "invented",
        "name": f"{NAMES[backbone]}-seed{seed}",
        "fingerprint": made.fingerprint(),
        "cell": made.model_dump(mode="json"),
        "attempt": 1,
        "status": "ok",
        "started_at": "2026-01-02T03:04:05+00:00",
        "ended_at": "2026-01-02T03:14:05+00:00",
        "environment": environment(),
        "commits": ["0123456789abcdef"],
        "data": {"digest": "0" * 32, "num_clips": {}, "label_names": ["disc", "square", "triangle", "ring"], "fps": 8.0},
        "training": training(backbone, seed),
        "sampling": Sampling(num_clips=64, num_evals=25, batch_time_s=[9.0, 9.1], batch_clips=[32, 32], warmup_time_s=1.0),
        "time_split_s": {
            "training set": 41.2 if "UNet" in backbone and not seed else 0.4,
            "canaries": 9.0,
            "training": 120.0,
            "sampling": 20.0 if "UNet" in backbone else 5.6,
            "quality": 31.0,
        },
        "measurements": measurements(backbone, seed, spread),
        "canaries": [
            Canary(name="resumed equals uninterrupted", passed=True, detail="20 steps, largest difference 0"),
            Canary(name="batch equals one at a time", passed=True, detail="largest difference 3e-6"),
        ],
        "artefacts": {"sheet": "sheet.npz"},
    }
    return Record.model_validate(fields | changes)


def sheet(folder: Path, seed: int, wobble: int, num: int = 8, size: tuple[int, int, int] = (10, 24, 24)) -> None:
    """Squares that move, and their untrained noise."""
    rng = np.random.default_rng(seed)
    frames, height, width = size

    def clips(shake: int, first: int) -> np.ndarray:
        found = np.full((num, frames, height, width, 3), 12, dtype=np.uint8)
        for k in range(num):
            hue = np.random.default_rng(first + k).integers(90, 255, 3)
            for t in range(frames):
                y, x = (3 * k + t) % (height - 8), (5 * k + 2 * t) % (width - 8)
                y, x = max(0, y + int(rng.integers(-shake, shake + 1))), max(0, x + int(rng.integers(-shake, shake + 1)))
                found[k, t, y : y + 7, x : x + 7] = hue
        return found

    labels = np.arange(num) % 4
    np.savez(
        folder / "sheet.npz",
        real=clips(0, 0),
        reconstruction=clips(0, 0) // 8 * 8,
        generated=clips(wobble, 100),
        untrained=rng.integers(0, 255, (num, frames, height, width, 3), dtype=np.uint8),
        labels_real=labels[::-1].astype(np.int64),
        labels_generated=labels.astype(np.int64),
        fps=np.array(8.0),
    )


def features(folder: Path, seed: int, shift: float, num: int = 64, dim: int = 24) -> None:
    """Features as a cell leaves them, the real clips' the same in all cells."""

    def drawn(of: int) -> np.ndarray:
        return np.random.default_rng(of).standard_normal((num, dim)).astype(np.float32)

    sets = {"test": drawn(0), "real": drawn(1), "reconstruction": drawn(0) * 1.01, "trained": drawn(2 + seed) + np.float32(shift)}
    save_file({f"{PROTOCOL['extractor']}/{subject}": values for subject, values in sets.items()}, folder / "features.safetensors")


def write_run(
    results: Path,
    records: Sequence[Record | None],
    *,
    matrix: str = "invented",
    not_run: Sequence[tuple[str, int]] = (),
    sheets: bool = True,
    **changes: Any,
) -> Path:
    """A run's folder with its snapshot, records and sheets. `not_run`: (backbone, seed) of cells without an attempt."""
    cells = []
    for made in records:
        assert made is not None
        folder = f"{made.name}-{made.fingerprint[:8]}"
        store.write_record(results / matrix / folder, made)
        backbone = made.cell.backbone
        if sheets and made.status == "ok":
            sheet(results / matrix / folder, made.cell.seed, wobble=2 if "UNet" in backbone else 1)
        cells.append(_listed(made.name, axes_of(made), made.cell.seed, made.fingerprint, folder))
    for backbone, seed in not_run:
        fingerprint = cell(backbone, seed).fingerprint()
        name = f"{NAMES[backbone]}-seed{seed}"
        cells.append(_listed(name, {"backbone": backbone}, seed, fingerprint, f"{name}-{fingerprint[:8]}"))
    snapshot: Mapping[str, Any] = {
        "schema_version": 1,
        "matrix": matrix,
        "description": "Invented records, to test the report.",
        "claim": "backbone",
        "primary": "fd_random3d",
        "match": {"by": "params", "tolerance": 0.05},
        "started_at": "2026-01-02T03:04:05+00:00",
        "ended_at": "2026-01-02T03:24:05+00:00",
        "command": "python -m bench run quick budget.seconds=120",
        "cells": cells,
    }
    store.write_run(results, RunSnapshot.model_validate({**snapshot, **changes}))
    return results / matrix


def _listed(name: str, axes: dict[str, Any], seed: int, fingerprint: str, folder: str) -> dict[str, Any]:
    return {"name": name, "axes": axes, "seed": seed, "fingerprint": fingerprint, "folder": folder}


def axes_of(made: Record) -> dict[str, Any]:
    """Of a study of shapes, known by its batches of latent voxels, the policy too."""
    backbone, batching = made.cell.backbone, made.cell.batching
    return {"backbone": backbone} | ({"batching.policy": batching.policy} if batching.voxel_budget else {})


def renamed(made: Record, backbone: str) -> Cell:
    """The record's cell with another backbone."""
    return made.cell.model_copy(update={"backbone": backbone})


def pair(num_seeds: int, **changes: Any) -> list[Record | None]:
    """Both contenders at `num_seeds` seeds."""
    return [record(backbone, seed, **changes) for backbone in MEANS for seed in range(num_seeds)]


# --- a study of shapes

MIXED = [[10, 24, 24], [10, 24, 48], [1, 48, 24]]  # shapes of its clips
LEDGER: dict[str, Any] = {
    "pixels": {"used": 0.5, "cropped": 0.3, "scaled": 0, "frames": 0, "short": 0.1, "small": 0, "large": 0, "remainder": 0.1},
    "room": {"clips": 0.9, "padding": 0.0, "unfilled": 0.1},
    "frames_used": 0.8,
    "clips_used": 0.75,
    "num_clips": 200,
    "num_items": 180,
    "num_shapes": 2,
    "steps_per_epoch": 12.5,
    "voxels_per_item": [16, 128, 256],
    "subject_kept": 0.7,
    "subject_whole": 0.4,
    "losses": ["clip 3 has 4 frames, crop needs 10; lower data.num_frames or use pack"],
}


def shapes_record(backbone: str, policy: str, seed: int, values: Mapping[str, float], **changes: Any) -> Record:
    """A cell of a study of shapes with the given trained values and nothing else measured; `changes` replace fields of its record."""
    made = cell(backbone, seed).model_dump(mode="json")
    made["batching"] |= {"policy": policy, "batch_size": None, "voxel_budget": 4320}
    made["data"] |= {"shapes": MIXED}
    made["budget"] |= {"seconds": None, "latent_voxels": 2_000_000}
    mixed = Cell.model_validate(made)
    block = {**PROTOCOL, "num_frames": 10, "sampling": "own shapes"}
    found = [Measurement(name=name, value=value, unit="1", better=better(name), protocol=block) for name, value in values.items()]
    name = f"{NAMES[backbone]}-policy={policy}-seed{seed}"
    fields = {"name": name, "fingerprint": mixed.fingerprint(), "cell": mixed.model_dump(mode="json"), "measurements": found}
    return record(backbone, seed, **(fields | changes))


def study(values: Mapping[tuple[str, str], Sequence[float]], name: str = "fd_random3d@64") -> list[Record | None]:
    """All cells of a study; `values`: (backbone, policy) -> one value of a measurement a seed."""
    return [
        shapes_record(backbone, policy, seed, {name: value})
        for (backbone, policy), series in values.items()
        for seed, value in enumerate(series)
    ]


def grid_point(
    shape: tuple[int, int, int], place: str, floors: float, whole: float | None = None, name: str = "fd_random3d@16"
) -> GridPoint:
    """A distance `floors` times its floor of 4 at one shape, and a share of clips with a whole subject."""
    block: dict[str, Any] = {"protocol": PROTOCOL | {"shape": list(shape)}}
    values = [(name, "real", 4.0, "lower"), (name, "trained", 4.0 * floors, "lower")]
    values += [("subject_whole_rate", "trained", whole, "higher")] if whole is not None else []
    found = [Measurement(name=n, subject=s, value=v, unit="1", better=b, **block) for n, s, v, b in values]  # type: ignore[arg-type]
    return GridPoint(shape=shape, place=place, measurements=found)  # type: ignore[arg-type]
