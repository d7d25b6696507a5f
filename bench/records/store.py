"""Records: one JSON file per attempt at a cell, written atomically, never edited. Knows no torch.

`results/<matrix>/<cell>-<fingerprint8>/attempt-<n>.json` holds what was asked, where and with what it ran, and every raw
number. Tables derive from these files; nothing is read back from a table.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from bench.records.environment import Environment
from bench.study.cell import PROTOCOL_VERSION, Cell, Frozen

SCHEMA_VERSION = 2

Status = Literal["ok", "oom", "diverged", "failed", "timeout"]
FINAL: tuple[Status, ...] = ("ok", "oom", "diverged")  # results: a resumed matrix does not try these cells again


class Measurement(Frozen):
    """One number with its unit, its direction and, for a quality metric, the protocol that made it."""

    name: str  # "fvd@64", "train_clips_per_s", "peak_storage_bytes"
    subject: str = "trained"  # whose number: trained, untrained, reconstruction, real
    value: float
    unit: str
    better: Literal["lower", "higher", "none"]
    low: float | None = None  # 95 % interval over the clips of this run, where one is known
    high: float | None = None
    interval: str | None = None  # how low and high were found
    protocol: dict[str, Any] | None = None  # protocol block of a quality metric
    protocol_fingerprint: str | None = None
    invalid: str | None = None  # why the value must not be compared, such as another process on the GPU while it was measured


# Counts of a step or of a batch of samples: latent voxels are those trained on, neither padding nor dropped tokens; FLOPs are forward
# ones and count padding.
WORK = ("clips", "frames", "latent_voxels", "tokens", "flops")


class Training(Frozen):
    """Raw course of a training run. Lists have one entry a step."""

    num_steps: int
    num_samples: int  # clips drawn
    wall_time_s: float  # of the training loop, checkpoints and validation excluded
    loss: list[float]
    step_time_s: list[float]  # measured around each step; on CUDA between events
    step_end_s: list[float] = Field(default_factory=list)  # wall clock of the loop when each step was handed to the device
    data_time_s: list[float]  # of that, fetching clips and drawing noise
    step_work: list[tuple[int, int, int, int, int]] = Field(default_factory=list)  # what each step did: the fields of WORK
    num_warmup_steps: int  # leading steps left out of the rates
    validation: list[dict[str, float]]  # {"step", "wall_time_s", "loss"} at points of the run, EMA weights
    validation_by_timestep: dict[str, float]  # timestep -> loss, at the end
    grad_norm: list[float]
    storage_by_kind: dict[str, int] = Field(default_factory=dict)  # bytes at the peak of a step: weights, gradients, activations, ...
    storage_by_module: dict[str, int] = Field(default_factory=dict)
    energy_j: float | None = None  # of the whole device, over the loop
    other_processes: int = 0  # most on the GPU at once, beside this one: the timings are then worth nothing
    other_cpu_share: float = 0.0  # part of the processors that others took


class Sampling(Frozen):
    """Raw course of sampling, one entry a batch, the first (warm-up) one apart."""

    num_clips: int
    num_evals: int  # backbone calls a clip
    batch_time_s: list[float]
    batch_clips: list[int]
    work: tuple[int, int, int, int, int] | None = None  # of one pass over all clips, without guidance: the fields of WORK
    warmup_time_s: float


class GridPoint(Frozen):
    """What samples are worth at one shape, trained on or not."""

    shape: tuple[int, int, int]  # (T, H, W) in pixels
    place: Literal["trained", "in range", "out of range"]  # among the shapes of the training items
    reason: str | None = None  # why there are no measurements
    measurements: list[Measurement] = Field(default_factory=list)  # subjects: trained, and real for the floor


class Canary(Frozen):
    """A self-check that ran with the cell. A failed one means its numbers cannot be trusted."""

    name: str
    passed: bool
    detail: str


class Record(Frozen):
    """Outcome of one attempt at a cell."""

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    matrix: str
    name: str  # of the cell inside its matrix
    fingerprint: str
    cell: dict[str, Any]
    attempt: int
    status: Status
    reason: str | None = None
    started_at: str
    ended_at: str
    environment: Environment
    commits: list[str] = Field(default_factory=list)  # every commit that worked on the cell, "+dirty" where edited
    machines: list[str] = Field(default_factory=list)  # device, threads and torch of every process that trained it
    data: dict[str, Any] = Field(default_factory=dict)  # digest, counts, label names, fps, skipped files, lost clips
    autoencoder: dict[str, Any] = Field(default_factory=dict)  # key, latent spec, psnr_db, seconds, parameters
    backbone: dict[str, Any] = Field(default_factory=dict)  # num_params, flops_per_clip, tokens_per_clip, latent_shape
    training: Training | None = None
    sampling: Sampling | None = None
    time_split_s: dict[str, float] = Field(default_factory=dict)  # phase -> seconds of the cell's process
    measurements: list[Measurement] = Field(default_factory=list)
    grid: list[GridPoint] = Field(default_factory=list)  # of the shape grid
    ledger: dict[str, Any] = Field(
        default_factory=dict
    )  # what the batching policy makes of the training clips: bench/data/policy/ledger.py
    canaries: list[Canary] = Field(default_factory=list)
    artefacts: dict[str, str] = Field(default_factory=dict)  # what -> file name inside the cell's folder

    def measurement(self, name: str, subject: str = "trained") -> Measurement | None:
        """The measurement of that name and subject, or None where this attempt did not get so far."""
        return next((m for m in self.measurements if m.name == name and m.subject == subject), None)


class StoreError(Exception):
    """A results folder that cannot be written or a record that cannot be read; one line for the user."""


def cell_folder(results: Path, matrix: str, name: str, cell: Cell) -> Path:
    """Folder of a cell. The fingerprint is part of it, so that an override never overwrites."""
    return results / matrix / f"{name}-{cell.fingerprint()[:8]}"


def read_record(path: Path) -> Record:
    """The record at `path`. StoreError for a file that is not one, or that a newer version wrote."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise StoreError(f"record {path} has schema version {version!r}, this version reads {SCHEMA_VERSION}; run the cell again")
        return Record.model_validate(raw)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise StoreError(f"record {path} cannot be read ({str(error).splitlines()[0]}); remove it and run the cell again") from error


def attempts(folder: Path) -> list[Record]:
    """Every attempt in a cell's folder, oldest first."""
    return [read_record(path) for path in sorted(folder.glob("attempt-*.json"), key=_attempt_number)]


def latest(folder: Path) -> Record | None:
    """The newest attempt in a cell's folder, or None."""
    records = attempts(folder)
    return records[-1] if records else None


def next_attempt(folder: Path) -> int:
    """Number of the attempt to come, from 1."""
    return 1 + max((_attempt_number(path) for path in folder.glob("attempt-*.json")), default=0)


def write_record(folder: Path, record: Record) -> Path:
    """Write a new attempt. StoreError where the folder cannot be written or the attempt is there already."""
    path = folder / f"attempt-{record.attempt}.json"
    if path.exists():
        raise StoreError(f"record {path} is there already; records are never edited")
    write_text(path, record.model_dump_json(indent=1) + "\n")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or the old one: temporary name, fsync, rename."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temp.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise StoreError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder with --results") from error


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_folders(results: Path) -> list[Path]:
    """Folders of `results` that hold a run, by name."""
    return sorted(path.parent for path in results.glob("*/run.json"))


def write_run(results: Path, matrix: str, snapshot: dict[str, Any]) -> Path:
    """`run.json`: what the newest `run` of a matrix asked for and the folders of its cells, in order."""
    path = results / matrix / "run.json"
    write_text(path, json.dumps(snapshot, indent=1) + "\n")
    return path


def read_run(folder: Path) -> dict[str, Any]:
    """The snapshot in a run's folder. StoreError where there is none."""
    path = folder / "run.json"
    try:
        snapshot = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"no run in {folder}: {path.name} is missing; start one with `python -m bench run MATRIX`") from error
    except (OSError, json.JSONDecodeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); run the matrix again") from error
    return snapshot


def sha256_texts(texts: Iterable[str]) -> str:
    """SHA-256 of a list of strings, each closed by a newline: the identity of a clip list."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def _attempt_number(path: Path) -> int:
    number = path.stem.removeprefix("attempt-")
    return int(number) if number.isdigit() else 0
