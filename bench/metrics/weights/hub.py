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

from bench.data.files import remove_leftovers, replacing
from bench.data.progress import Say
from bench.metrics.weights.cache import MOVE, WeightsError, manifest_path, read_manifest, sha256_file, weights_path, write_manifest

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30  # without a byte


@dataclass(frozen=True)
class HubFile:
    """One published file."""

    file_name: str  # in the cache
    url: str
    sha256: str | None = None  # None: none is published, trust on first use

    @property
    def path(self) -> Path:
        """In the cache, there or not."""
        return weights_path(self.file_name)

    def known_sha256(self, remedy: str) -> str:
        """The hash that is pinned, or was recorded at first use. WeightsError where there is neither."""
        return self.sha256 or read_manifest(self.path, remedy)["sha256"]

    def verify(self, remedy: str) -> None:
        """WeightsError unless the file is here and has its hash."""
        digest = sha256_file(self.path, f"{remedy}, or put there {self}")
        expected = self.known_sha256(remedy)
        if digest == expected:
            return
        if self.sha256:
            raise WeightsError(f"weights {self.path} are not the published file: sha256 {digest}, expected {expected}; {remedy}")
        raise WeightsError(
            f"weights {self.path} have changed since they were first used: sha256 {digest}, recorded {expected} in "
            f"{manifest_path(self.path).name}; delete the file to fetch it again, or that record to trust the new one, then {remedy}"
        )

    def __str__(self) -> str:
        """How to get it without us."""
        return f"{self.file_name} from {self.url} ({f'sha256 {self.sha256}' if self.sha256 else 'no hash is published'})"


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Weights that are one or more published files, kept as they are."""

    files: tuple[HubFile, ...]
    license: str
    description: str

    @property
    def paths(self) -> list[Path]:
        """Of the files, there or not."""
        return [file.path for file in self.files]

    @property
    def published_sha256(self) -> str:
        """Of the published file, pinned or recorded; of several, the hash of their hashes; empty where one is not known yet."""
        try:
            known = [file.known_sha256("") for file in self.files]
        except WeightsError:
            return ""
        return known[0] if len(known) == 1 else hashlib.sha256("\n".join(known).encode()).hexdigest()

    def verify(self, remedy: str) -> None:
        """WeightsError unless every file is here and has its hash."""
        for file in self.files:
            file.verify(remedy)

    def fetch(self, remedy: str, progress: Say) -> None:
        """Downloads what is missing or damaged. WeightsError where a file that was trusted on first use has changed."""
        for file in self.files:
            remove_leftovers(file.path.parent)
            first = not file.sha256 and not manifest_path(file.path).is_file()
            if file.path.is_file():
                try:
                    if first:
                        self.record(file, "placed by hand", sha256_file(file.path, remedy), progress)
                    file.verify(remedy)
                    continue
                except WeightsError:
                    if not file.sha256:
                        raise
            progress(f"fetching {file.url}")
            with replacing(file.path, MOVE) as temp:
                digest = stream(file, temp, progress)
                if not first and digest != (expected := file.known_sha256(remedy)):
                    raise WeightsError(f"{file.url} gave another file: sha256 {digest}, the one known is {expected}")
            self.record(file, file.url, digest, progress)

    def record(self, file: HubFile, source: str, digest: str, progress: Say) -> None:
        """Writes what stands beside the file, and says so where that is all that it will be known by."""
        write_manifest(file.path, source=source, source_sha256=digest, sha256=digest, license=self.license)
        if not file.sha256:
            progress(f"no hash is published for {file.file_name}; recorded sha256 {digest}, other files are refused from now on")


def stream(file: HubFile, target: Path, progress: Say) -> str:
    """SHA-256 of what was written to `target`. WeightsError where there is no connection or it breaks."""
    digest, told = hashlib.sha256(), 0
    by_hand = f"or put it by hand at {file.path}"
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT_S) as response, target.open("wb") as out:
            total = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read(CHUNK_BYTES):
                out.write(chunk)
                digest.update(chunk)
                if total and (tenths := 10 * out.tell() // total) > told:
                    told = tenths
                    progress(f"{10 * told} % of {total / 1e9:.1f} GB")
            num_bytes = out.tell()
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise WeightsError(f"could not fetch {file}: {getattr(error, 'reason', None) or error}; {by_hand}") from error
    if total and num_bytes != total:
        raise WeightsError(f"{file.url} gave {num_bytes} bytes, expected {total}; {by_hand}")
    return digest.hexdigest()
