"""Weights as published files at public addresses: streamed to a temporary name, verified, then renamed. Nothing is converted or run.

A file whose publisher gives a hash is pinned by it. One without is trusted on first use: its hash is recorded beside it when it is first
fetched (or first found, placed by hand), and from then on a file with another hash is refused.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from bench.data.files import replacing
from bench.data.progress import Say
from bench.metrics.weights.cache import (
    MOVE,
    FileManifest,
    WeightsError,
    folder,
    manifest_path,
    read_manifest,
    sha256_file,
    write_manifest,
)

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30  # without a byte
BY_HAND = "placed by hand"


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One published file."""

    file_name: str  # in the cache, as published
    url: str
    sha256: str | None = None  # None: none is published, trust on first use
    num_bytes: int | None = None

    @property
    def path(self) -> Path:
        """In the cache, there or not."""
        return folder() / self.file_name

    def describe(self) -> str:
        """How to get it without us."""
        return f"{self.file_name} from {self.url} ({f'sha256 {self.sha256}' if self.sha256 else 'no hash is published'})"


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Weights that are one or more published files, kept as they are."""

    files: tuple[HubFile, ...]
    license: str
    description: str

    def paths(self, name: str) -> list[Path]:
        """Of the files, there or not."""
        return [file.path for file in self.files]

    def published_sha256(self, name: str) -> str:
        """Of the published file, pinned or recorded; of several, the hash of their hashes; empty where one is not known yet."""
        known = [file.sha256 or recorded(file) for file in self.files]
        if not all(known):
            return ""
        return known[0] if len(known) == 1 else hashlib.sha256("\n".join(known).encode()).hexdigest()

    def verify(self, name: str, remedy: str) -> None:
        """WeightsError unless every file is here and has its hash."""
        for file in self.files:
            verify(file, remedy)

    def fetch(self, name: str, progress: Say) -> None:
        """Downloads what is missing or damaged. WeightsError where a file that was trusted on first use has changed."""
        for file in self.files:
            if not (file.path.is_file() and settled(name, file, self.license, progress)):
                download(name, file, self.license, progress)


def recorded(file: HubFile) -> str:
    """The hash recorded at first use, empty if there is none."""
    try:
        return read_manifest(file.path, "").sha256
    except WeightsError:
        return ""


def verify(file: HubFile, remedy: str) -> None:
    """WeightsError unless the file is here with the pinned hash, or the one recorded at first use."""
    try:
        num_bytes = file.path.stat().st_size
        expected = file.sha256 or read_manifest(file.path, remedy).sha256
        if file.num_bytes is not None and num_bytes != file.num_bytes:
            raise WeightsError(f"weights {file.path} are damaged: {num_bytes} bytes, expected {file.num_bytes}; {remedy}")
        digest = sha256_file(file.path)
    except FileNotFoundError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"weights {file.path} are not there; {remedy}, or put there {file.describe()}") from None
    except OSError as error:
        raise WeightsError(f"weights {file.path} cannot be read ({error.strerror}); {remedy}") from error
    if digest == expected:
        return
    if file.sha256 is None:
        raise WeightsError(
            f"weights {file.path} have changed since they were first used: sha256 {digest}, recorded {expected} in "
            f"{manifest_path(file.path).name}; delete the file to fetch it again, or that record to trust the new one, then {remedy}"
        )
    raise WeightsError(f"weights {file.path} are not the published file: sha256 {digest[:12]}, expected {expected[:12]}; {remedy}")


def settled(name: str, file: HubFile, license: str, progress: Say) -> bool:
    """Whether the file that is there may stay. WeightsError where it was trusted on first use and has changed since."""
    manifest = manifest_path(file.path)
    if file.sha256 is None and not manifest.is_file():
        digest = sha256_file(file.path)
        record(name, file, license, BY_HAND, digest, file.path.stat().st_size)
        progress(f"{name}: found {file.path}, recorded its sha256 {digest}")
        return True
    try:
        verify(file, f"run `python -m bench weights get {name}`")
    except WeightsError:
        if file.sha256 is None:
            raise
        return False
    progress(f"{name}: already at {file.path}")
    return True


def download(name: str, file: HubFile, license: str, progress: Say) -> None:
    """Streams the file to a temporary name beside its own, checks size and hash, and renames it. Nothing is left of a failed one."""
    progress(f"{name}: fetching {file.url}")
    expected = file.sha256 or recorded(file)
    with replacing(file.path, MOVE) as temp:
        digest, num_bytes = stream(name, file, temp, progress)
        if expected and digest != expected:
            what = "expected" if file.sha256 else "at first use it had"
            raise WeightsError(f"{file.url} gave another file: {num_bytes} bytes, sha256 {digest}, {what} {expected}")
    record(name, file, license, file.url, digest, num_bytes)
    if not expected:
        progress(f"{name}: no hash is published for {file.file_name}; recorded sha256 {digest}, other files are refused from now on")


def stream(name: str, file: HubFile, target: Path, progress: Say) -> tuple[str, int]:
    """(SHA-256, bytes) of what was written to `target`. WeightsError where there is no connection or it breaks."""
    digest, num_bytes, told = hashlib.sha256(), 0, 0
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT_S) as response, target.open("wb") as out:
            length = response.headers.get("Content-Length")
            total = file.num_bytes or (int(length) if length else None)
            while chunk := response.read(CHUNK_BYTES):
                out.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
                if total is not None and num_bytes > total:
                    break
                if total and 10 * num_bytes // total > told:
                    told = 10 * num_bytes // total
                    progress(f"{name}: {10 * told} % of {total / 1e9:.1f} GB")
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"could not fetch {file.describe()}: {reason}; or put it by hand at {file.path}") from error
    if total is not None and num_bytes != total:
        raise WeightsError(f"{file.url} gave {num_bytes} bytes or more, expected {total}; or put {file.file_name} by hand at {file.path}")
    return digest.hexdigest(), num_bytes


def record(name: str, file: HubFile, license: str, source: str, digest: str, num_bytes: int) -> None:
    """Writes what stands beside the file."""
    manifest = FileManifest(name=name, source=source, source_sha256=digest, sha256=digest, num_bytes=num_bytes, license=license)
    write_manifest(file.path, manifest)
