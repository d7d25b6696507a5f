"""Records: one JSON file per attempt at a cell, written atomically, never edited. Knows no torch.

`results/<matrix>/<cell>-<fingerprint8>/attempt-<n>.json` holds what was asked, where and with what it ran, and every raw
number. Tables derive from these files; nothing is read back from a table.
"""

import json
import re
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.data.files import StoreError, remove_folder, write_text
from bench.data.frozen import explain
from bench.records.record import SCHEMA_VERSION, Record, RunSnapshot

RUN = "run.json"  # in a run's folder
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")  # of an attempt
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def read_record(path: Path) -> Record:
    """The record at `path`. StoreError for a file that is not one, that another version wrote, or whose data source is not installed."""
    raw = read_json(path, "remove it and run the cell again")
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise StoreError(f"record {path} has schema version {version!r}, this version reads {SCHEMA_VERSION}; run the cell again")
    try:
        return Record.model_validate(raw)
    except ValidationError as error:
        raise StoreError(f"record {path} cannot be read ({explain(error, Record)}); mend that or run the cell again") from error


def latest(folder: Path) -> Record | None:
    """The newest attempt in a cell's folder, or None."""
    path = newest(folder)
    return None if path is None else read_record(path)


def newest(folder: Path) -> Path | None:
    """Its file."""
    return max(filter(_attempt_number, folder.glob("attempt-*.json")), key=_attempt_number, default=None)


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


def set_aside(folder: Path, record: Record) -> None:
    """Empty a cell's folder, so that the cell starts anew; what it had recorded stays as `disturbed.json`, which is no attempt."""
    remove_folder(folder)
    write_text(folder / "disturbed.json", record.model_dump_json(indent=1) + "\n")


def run_folders(results: Path) -> list[Path]:
    """Folders of `results` that hold a run, by name."""
    return sorted(path.parent for path in results.glob(f"*/{RUN}"))


def write_run(results: Path, snapshot: RunSnapshot) -> Path:
    """`run.json` of a matrix."""
    path = results / snapshot.matrix / RUN
    write_text(path, snapshot.model_dump_json(indent=1) + "\n")
    return path


def read_run(folder: Path) -> RunSnapshot:
    """The snapshot in a run's folder. StoreError where there is none."""
    path = folder / RUN
    if not path.is_file():
        inside = ", ".join(each.name for each in run_folders(folder))
        remedy = f"name one that is in it: {inside}" if inside else "start one with `python -m bench run MATRIX`"
        raise StoreError(f"no run in {folder}: {path.name} is missing; {remedy}")
    try:
        return RunSnapshot.model_validate(read_json(path, "remove it and run the matrix again"))
    except ValidationError as error:
        raise StoreError(f"{path} is not a run's snapshot ({explain(error, RunSnapshot)}); remove it and run the matrix again") from error


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file that anybody may have written. StoreError, ending in `remedy`, where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StoreError(f"{path} is no regular file; {remedy}")
        text = path.read_text(encoding="utf-8")
        if _HALF_CHARACTER.search(text) and not _is_text(json.loads(text)):
            raise StoreError(f"{path} holds half a character, which no page can show; {remedy}")
        return json.loads(text)
    except StoreError:
        raise
    # RecursionError: brackets in brackets. ValueError: of JSON's own errors, and of whole numbers of thousands of digits.
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read ({error}); {remedy}") from error


def _is_text(found: Any) -> bool:
    """Whether all of it can be written as UTF-8."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _attempt_number(path: Path) -> int:
    """0 for a file that no attempt wrote."""
    number = path.stem.removeprefix("attempt-")
    return int(number) if _NUMBER.fullmatch(number) else 0
