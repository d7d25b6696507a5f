"""Where fetched weights are kept, what is written beside each, and how a file is verified. Knows no network."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data.files import at_home, write_bytes

if TYPE_CHECKING:
    import numpy as np

MOVE = "set UNET_VS_DIT_CACHE to a folder you own"  # what helps where weights cannot be written


class WeightsError(FileNotFoundError):
    """Weights that are missing, damaged or cannot be fetched; the message says what to do."""


def cache_folder() -> Path:
    """The user's cache of this suite: UNET_VS_DIT_CACHE, else unet-vs-dit under XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("UNET_VS_DIT_CACHE"):
        return at_home(Path(chosen))
    # The XDG specification: a relative path there is invalid and must be ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "unet-vs-dit"


def weights_path(file_name: str) -> Path:
    """Of a weights file, within the cache."""
    return cache_folder() / "weights" / file_name


def manifest_path(file: Path) -> Path:
    """Of the JSON beside a weights file: `i3d.json`, `vith16.pth.tar.json`."""
    return file.with_suffix(".json") if file.suffix == ".safetensors" else file.with_name(f"{file.name}.json")


def read_manifest(file: Path, remedy: str) -> dict[str, str]:
    """What stands beside `file`. WeightsError, ending in `remedy`, where it is missing or unreadable."""
    try:
        found = json.loads(manifest_path(file).read_text())
        return {key: found[key] for key in ("source", "source_sha256", "sha256")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"weights {file} have no readable manifest beside them ({type(error).__name__}); {remedy}") from error


def write_manifest(file: Path, *, source: str, source_sha256: str, sha256: str, license: str) -> None:
    """Puts beside `file` where it is from, the hash of what was published, and its own. StoreError where it cannot be written."""
    facts = {"source": source, "source_sha256": source_sha256, "sha256": sha256, "license": license}
    write_bytes(manifest_path(file), json.dumps(facts, indent=2).encode(), MOVE)


def sha256_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Of named arrays, whatever file holds them: name, type, shape and values of each, in order of name."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def sha256_file(file: Path, remedy: str) -> str:
    """Of a file of any size, a chunk in memory at a time. WeightsError, ending in `remedy`, where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"weights {file} cannot be read ({error.strerror}); {remedy}") from error
