"""Where fetched weights are kept, what is written beside each, and how a file is written and verified. Knows no network."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.data.files import write_bytes

MOVE = "set UNET_VS_DIT_CACHE to a folder you own"  # what helps where weights cannot be written


class WeightsError(FileNotFoundError):
    """Weights that are missing, damaged or cannot be fetched; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class FileManifest:
    """Beside every weights file: where it is from and what it must hash to."""

    name: str
    source: str  # project==version, or the URL it was fetched from; "placed by hand" where nobody knows
    source_sha256: str  # of the published file
    sha256: str  # of the file it stands beside: the published one itself, or what was converted from it
    num_bytes: int
    license: str


def cache_folder() -> Path:
    """The user's cache of this suite: UNET_VS_DIT_CACHE, else unet-vs-dit under XDG_CACHE_HOME or the platform's cache."""
    if chosen := os.environ.get("UNET_VS_DIT_CACHE"):
        return Path(chosen).expanduser()
    # The XDG specification: a relative path there is invalid and must be ignored.
    if (xdg := os.environ.get("XDG_CACHE_HOME")) and Path(xdg).is_absolute():
        return Path(xdg) / "unet-vs-dit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "unet-vs-dit"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "unet-vs-dit"
    return Path.home() / ".cache" / "unet-vs-dit"


def folder() -> Path:
    """Where weights are, within the cache."""
    return cache_folder() / "weights"


def manifest_path(file: Path) -> Path:
    """Of the JSON beside a weights file: `i3d.json`, `vith16.pth.tar.json`."""
    return file.with_suffix(".json") if file.suffix == ".safetensors" else file.with_name(f"{file.name}.json")


def read_manifest(file: Path, remedy: str) -> FileManifest:
    """What stands beside `file`. WeightsError, ending in `remedy`, where it is missing or unreadable."""
    try:
        return FileManifest(**json.loads(manifest_path(file).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"weights {file} have no readable manifest beside them ({type(error).__name__}); {remedy}") from error


def write_manifest(file: Path, manifest: FileManifest) -> None:
    """Puts it beside `file`. StoreError where it cannot be written."""
    write_bytes(manifest_path(file), json.dumps(asdict(manifest), indent=2).encode(), MOVE)


def sha256_file(file: Path) -> str:
    """Of a file of any size, a chunk in memory at a time."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
