"""Records: one JSON file per attempt at a cell, written atomically, never edited. Knows no torch.

`results/<matrix>/<cell>-<fingerprint8>/attempt-<n>.json` holds what was asked, where and with what it ran, and every raw
number. Tables derive from these files; nothing is read back from a table.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.data.files import StoreError, write_text
from bench.records.record import SCHEMA_VERSION, Record
from bench.study.cell import Cell


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


def _attempt_number(path: Path) -> int:
    number = path.stem.removeprefix("attempt-")
    return int(number) if number.isdigit() else 0
